//! Chunked uploads, with a real Redis and in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use db_api::jobs::{Caller, DedupKey, Delivery, Input, JobError, JobStatus, Jobs, NewJob, SkippedFiles, Upload};
use redis::Commands;

use crate::jobs::{find_job, in_memory_jobs, job, receive, redis_jobs, success};
use crate::server::Redis;

fn input(name: &str, data: Vec<u8>) -> Input {
    Input { name: name.to_owned(), data: data.into(), outcome: None }
}

async fn push(upload: &mut Upload, inputs: impl IntoIterator<Item = Input>) {
    for input in inputs {
        upload.push(input).await.unwrap();
    }
}

/// Uploads inputs of 300 KB, so that a chunk has three; every fourth has an outcome.
async fn accepts_inputs_one_by_one(jobs: Jobs) {
    let mut upload = jobs.upload(Caller::default());
    for number in 0..10_u8 {
        let outcome = (number % 4 == 3).then(|| success("cached"));
        push(&mut upload, [Input { outcome, ..input(&format!("{number}.png"), vec![number; 300_000]) }]).await;
    }
    let mut skipped = SkippedFiles::default();
    (0..12).for_each(|number| skipped.add(&format!("notes-{number}")));
    let dedup_key = Some(DedupKey { digest: "c".to_owned(), model_digest: "cached".to_owned() });
    let last = NewJob { skipped: skipped.clone(), dedup_key: dedup_key.clone(), ..job(&["last"]) };
    let id = jobs.submit_uploaded(upload, last).await.unwrap();
    let accepted = find_job(&jobs, id).await;
    assert_eq!((accepted.total, accepted.done, accepted.status), (11, 2, JobStatus::Queued));
    assert_eq!((accepted.skipped.count, accepted.skipped.names.len()), (12, SkippedFiles::MAX_NAMES));
    assert_eq!(accepted.skipped, skipped);
    assert_eq!(jobs.names(id, 9..11).await.unwrap(), ["9.png", "last.png"]);
    let mut seen = Vec::new();
    while seen.len() < 9 {
        for delivery in receive(&jobs, 4).await {
            let work = jobs.start(&delivery).await.unwrap().unwrap();
            seen.push((delivery.index, work.data.len(), work.data[0]));
            assert!(jobs.finish(&delivery, &success("done")).await.unwrap());
        }
    }
    let expected = [0, 1, 2, 4, 5, 6, 8, 9].map(|number| (u32::from(number), 300_000, number));
    assert_eq!(seen[..8], expected);
    assert_eq!(seen[8], (10, 4, b'l'));
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Succeeded);
}

#[tokio::test]
async fn the_redis_queue_accepts_inputs_one_by_one() {
    let Some(redis) = Redis::start("jobs-one-by-one") else { return };
    accepts_inputs_one_by_one(redis_jobs(&redis)).await;
}

#[tokio::test]
async fn the_in_memory_queue_accepts_inputs_one_by_one() {
    accepts_inputs_one_by_one(in_memory_jobs()).await;
}

#[tokio::test]
async fn a_duplicate_job_has_the_same_skipped_files() {
    let Some(redis) = Redis::start("jobs-skipped") else { return };
    for jobs in [redis_jobs(&redis), in_memory_jobs()] {
        let mut skipped = SkippedFiles::default();
        skipped.add("Thumbs.db");
        let dedup_key = DedupKey { digest: "c".to_owned(), model_digest: "d".to_owned() };
        let id = jobs
            .submit(NewJob { dedup_key: Some(dedup_key.clone()), skipped: skipped.clone(), ..job(&["a"]) })
            .await
            .unwrap();
        let delivery = receive(&jobs, 1).await.remove(0);
        let outcome = db_api::jobs::Outcome::Success("{\"model_digest\":\"d\"}".to_owned());
        assert!(jobs.finish(&delivery, &outcome).await.unwrap());
        assert_eq!(find_job(&jobs, id).await.status, JobStatus::Succeeded);
        let again = jobs.submit_duplicate("m", &dedup_key, &Caller::default()).await.unwrap().unwrap();
        assert_eq!(find_job(&jobs, again).await.skipped, skipped);
    }
}

#[tokio::test]
async fn a_discarded_upload_is_deleted() {
    let Some(redis) = Redis::start("jobs-discarded") else { return };
    let jobs = redis_jobs(&redis);
    let mut upload = jobs.upload(Caller::default());
    push(&mut upload, (0..3).map(|number| input("a", vec![number; 600_000]))).await;
    assert!(redis.client().exists::<_, bool>("mlserve:{jobs}:expiring").unwrap(), "the upload expires");
    jobs.discard(upload).await;
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}

#[tokio::test]
async fn in_memory_uploads_count_against_the_limit_until_they_are_dropped() {
    let jobs = in_memory_jobs();
    let large = || input("a", vec![0; 100 << 20]);
    let (mut first, mut second) = (jobs.upload(Caller::default()), jobs.upload(Caller::default()));
    push(&mut first, [large()]).await;
    push(&mut second, [large()]).await;
    assert_eq!(second.push(large()).await, Err(JobError::OutOfMemory));
    drop(second);
    push(&mut first, [large()]).await;
    let id = jobs.submit_uploaded(first, job(&[])).await.unwrap();
    assert_eq!(
        jobs.upload(Caller::default()).push(large()).await,
        Err(JobError::OutOfMemory),
        "the job uses the memory"
    );
    assert!(jobs.cancel(id).await.unwrap());
    assert_eq!(jobs.upload(Caller::default()).push(large()).await, Ok(()));
}

#[tokio::test]
async fn an_input_longer_than_a_redis_value_is_rejected() {
    let Some(redis) = Redis::start("jobs-large") else { return };
    let jobs = redis_jobs(&redis);
    jobs.prepare().await.unwrap();
    let large =
        |bytes| NewJob { inputs: vec![Input { data: Bytes::from(vec![0; bytes]), ..input("a", vec![]) }], ..job(&[]) };
    let bytes = (16 << 20) + 1;
    assert_eq!(jobs.submit(large(bytes)).await, Err(JobError::InputTooLarge { bytes, limit: 16 << 20 }));
    assert!(jobs.submit(large(16 << 20)).await.is_ok());
}

/// Redis closes connections whose replies together exceed a fifth of its memory.
#[tokio::test]
async fn concurrent_reads_of_large_inputs_are_bounded() {
    let Some(redis) = Redis::start("jobs-reads") else { return };
    let jobs = redis_jobs(&redis);
    jobs.prepare().await.unwrap();
    let mut upload = jobs.upload(Caller::default());
    push(&mut upload, (0..24).map(|number| input("a", vec![number; 4 << 20]))).await;
    jobs.submit_uploaded(upload, job(&[])).await.unwrap();
    let mut read = 0;
    while read < 24 {
        let deliveries = receive(&jobs, 24).await;
        let held = AtomicUsize::new(0);
        let work = async |delivery: &Delivery| {
            let work = jobs.start(delivery).await.unwrap().unwrap();
            assert_eq!(work.data.len(), 4 << 20);
            assert!(
                held.fetch_add(work.data.len(), Ordering::Relaxed) < 32 << 20,
                "inputs in progress are bounded as well"
            );
            tokio::task::yield_now().await;
            held.fetch_sub(work.data.len(), Ordering::Relaxed);
        };
        futures_util::future::join_all(deliveries.iter().map(work)).await;
        read += deliveries.len();
    }
}
