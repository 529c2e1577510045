//! Jobs whose inputs come one by one, over a real Redis and in the process.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use db_api::jobs::{Caller, Content, Delivery, Input, JobError, Jobs, NewJob, Skipped, Status, Upload};
use redis::Commands;

use crate::jobs::{answer, job, local, over, state, take};
use crate::server::Redis;

fn input(name: &str, data: Vec<u8>) -> Input {
    Input { name: name.to_owned(), data: data.into(), known: None }
}

async fn push(upload: &mut Upload, inputs: impl IntoIterator<Item = Input>) {
    for input in inputs {
        upload.push(input).await.unwrap();
    }
}

/// Inputs of 300 KB, so that a piece has three; every fourth is known.
async fn takes_inputs_one_by_one(jobs: Jobs) {
    let mut upload = jobs.upload(Caller::default());
    for number in 0..10_u8 {
        let known = (number % 4 == 3).then(|| answer("known"));
        push(&mut upload, [Input { known, ..input(&format!("{number}.png"), vec![number; 300_000]) }]).await;
    }
    let mut skipped = Skipped::default();
    (0..12).for_each(|number| skipped.add(&format!("notes-{number}")));
    let content = Some(Content { digest: "c".to_owned(), model_digest: "known".to_owned() });
    let last = NewJob { skipped: skipped.clone(), content: content.clone(), ..job(&["last"]) };
    let id = jobs.submit_uploaded(upload, last).await.unwrap();
    let accepted = state(&jobs, id).await;
    assert_eq!((accepted.total, accepted.done, accepted.status), (11, 2, Status::Queued));
    assert_eq!((accepted.skipped.count, accepted.skipped.names.len()), (12, Skipped::MAX_NAMES));
    assert_eq!(accepted.skipped, skipped);
    assert_eq!(jobs.names(id, 9..11).await.unwrap(), ["9.png", "last.png"]);
    let mut seen = Vec::new();
    while seen.len() < 9 {
        for delivery in take(&jobs, 4).await {
            let work = jobs.begin(&delivery).await.unwrap().unwrap();
            seen.push((delivery.index, work.data.len(), work.data[0]));
            assert!(jobs.finish(&delivery, &answer("done")).await.unwrap());
        }
    }
    let expected = [0, 1, 2, 4, 5, 6, 8, 9].map(|number| (u32::from(number), 300_000, number));
    assert_eq!(seen[..8], expected);
    assert_eq!(seen[8], (10, 4, b'l'));
    assert_eq!(state(&jobs, id).await.status, Status::Succeeded);
}

#[tokio::test]
async fn the_queue_in_redis_takes_inputs_one_by_one() {
    let Some(redis) = Redis::start("jobs-one-by-one") else { return };
    takes_inputs_one_by_one(over(&redis)).await;
}

#[tokio::test]
async fn the_queue_in_the_process_takes_inputs_one_by_one() {
    takes_inputs_one_by_one(local()).await;
}

#[tokio::test]
async fn a_repeated_job_has_skipped_the_same() {
    let Some(redis) = Redis::start("jobs-skipped") else { return };
    for jobs in [over(&redis), local()] {
        let mut skipped = Skipped::default();
        skipped.add("Thumbs.db");
        let content = Content { digest: "c".to_owned(), model_digest: "d".to_owned() };
        let id = jobs
            .submit(NewJob { content: Some(content.clone()), skipped: skipped.clone(), ..job(&["a"]) })
            .await
            .unwrap();
        let delivery = take(&jobs, 1).await.remove(0);
        let told = db_api::jobs::Outcome::Answer("{\"model_digest\":\"d\"}".to_owned());
        assert!(jobs.finish(&delivery, &told).await.unwrap());
        assert_eq!(state(&jobs, id).await.status, Status::Succeeded);
        let again = jobs.repeat("m", &content, &Caller::default()).await.unwrap().unwrap();
        assert_eq!(state(&jobs, again).await.skipped, skipped);
    }
}

#[tokio::test]
async fn an_upload_that_is_discarded_takes_no_room() {
    let Some(redis) = Redis::start("jobs-discarded") else { return };
    let jobs = over(&redis);
    let mut upload = jobs.upload(Caller::default());
    push(&mut upload, (0..3).map(|number| input("a", vec![number; 600_000]))).await;
    assert!(redis.client().exists::<_, bool>("mlserve:{jobs}:expiring").unwrap(), "what was uploaded expires");
    jobs.discard(upload).await;
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}

#[tokio::test]
async fn uploads_to_the_process_count_against_its_bound_until_they_are_gone() {
    let jobs = local();
    let large = || input("a", vec![0; 100 << 20]);
    let (mut first, mut second) = (jobs.upload(Caller::default()), jobs.upload(Caller::default()));
    push(&mut first, [large()]).await;
    push(&mut second, [large()]).await;
    assert_eq!(second.push(large()).await, Err(JobError::Full));
    drop(second);
    push(&mut first, [large()]).await;
    let id = jobs.submit_uploaded(first, job(&[])).await.unwrap();
    assert_eq!(jobs.upload(Caller::default()).push(large()).await, Err(JobError::Full), "a job has them");
    assert!(jobs.cancel(id).await.unwrap());
    assert_eq!(jobs.upload(Caller::default()).push(large()).await, Ok(()));
}

#[tokio::test]
async fn an_input_that_redis_does_not_take_is_refused_for_its_length() {
    let Some(redis) = Redis::start("jobs-large") else { return };
    let jobs = over(&redis);
    jobs.prepare().await.unwrap();
    let large =
        |bytes| NewJob { inputs: vec![Input { data: Bytes::from(vec![0; bytes]), ..input("a", vec![]) }], ..job(&[]) };
    let bytes = (16 << 20) + 1;
    assert_eq!(jobs.submit(large(bytes)).await, Err(JobError::LargeInput { bytes, most: 16 << 20 }));
    assert!(jobs.submit(large(16 << 20)).await.is_ok());
}

/// Redis closes connections whose replies together are more than a fifth of its memory.
#[tokio::test]
async fn large_inputs_are_read_a_few_at_a_time() {
    let Some(redis) = Redis::start("jobs-reads") else { return };
    let jobs = over(&redis);
    jobs.prepare().await.unwrap();
    let mut upload = jobs.upload(Caller::default());
    push(&mut upload, (0..24).map(|number| input("a", vec![number; 4 << 20]))).await;
    jobs.submit_uploaded(upload, job(&[])).await.unwrap();
    let mut read = 0;
    while read < 24 {
        let deliveries = take(&jobs, 24).await;
        let held = AtomicUsize::new(0);
        let work = async |delivery: &Delivery| {
            let work = jobs.begin(delivery).await.unwrap().unwrap();
            assert_eq!(work.data.len(), 4 << 20);
            assert!(
                held.fetch_add(work.data.len(), Ordering::Relaxed) < 32 << 20,
                "what is worked on is bounded as well"
            );
            tokio::task::yield_now().await;
            held.fetch_sub(work.data.len(), Ordering::Relaxed);
        };
        futures_util::future::join_all(deliveries.iter().map(work)).await;
        read += deliveries.len();
    }
}
