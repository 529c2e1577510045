//! How much of Redis jobs may have, all together and those of one caller.

use std::net::IpAddr;

use db_api::jobs::{
    Caller, Delivery, Found, Input, JobError, JobId, JobLimits, Jobs, NewJob, Outcome, Share, Status, Upload,
};
use redis::Commands;

use crate::jobs::{LIMITS, job, over, state, take, with};
use crate::server::Redis;

/// The longest value that takes a megabyte: the allocator gives a longer one a quarter more.
const MB: usize = (1 << 20) - 32;

fn caller(last: u8) -> Caller {
    IpAddr::from([192, 0, 2, last]).into()
}

fn nobody() -> Caller {
    Caller::default()
}

fn input(bytes: usize) -> Input {
    Input { name: "a.png".to_owned(), data: vec![b'x'; bytes].into(), known: None }
}

/// Redis with `megabytes` of memory.
fn small(name: &str, megabytes: usize) -> Option<Redis> {
    let redis = Redis::start(name)?;
    set(&redis, "maxmemory", &format!("{megabytes}mb"));
    Some(redis)
}

fn set(redis: &Redis, setting: &str, value: &str) {
    let _: () = redis::cmd("CONFIG").arg("SET").arg(setting).arg(value).query(&mut redis.client()).unwrap();
}

async fn push(upload: &mut Upload, inputs: usize, bytes: usize) -> Result<(), JobError> {
    for _ in 0..inputs {
        upload.push(input(bytes)).await?;
    }
    Ok(())
}

async fn submit(jobs: &Jobs, caller: Caller, inputs: usize, bytes: usize) -> Result<JobId, JobError> {
    let mut upload = jobs.upload(caller);
    if let Err(error) = push(&mut upload, inputs, bytes).await {
        jobs.discard(upload).await;
        return Err(error);
    }
    jobs.submit_uploaded(upload, job(&[])).await
}

async fn finish_all(jobs: &Jobs, outcome: &Outcome) {
    let mut taken = take(jobs, 100).await;
    while !taken.is_empty() {
        for delivery in &taken {
            jobs.begin(delivery).await.unwrap().unwrap();
            assert!(jobs.finish(delivery, outcome).await.unwrap());
        }
        taken = jobs.take("m", 100).await.unwrap();
    }
}

fn error() -> Outcome {
    Outcome::Error("{\"status\":422}".to_owned())
}

fn answer(bytes: usize) -> Outcome {
    Outcome::Answer(format!("\"{}\"", "y".repeat(bytes)))
}

async fn held(jobs: &Jobs) -> u64 {
    jobs.health().await.unwrap().bytes
}

#[tokio::test]
async fn a_redis_that_is_full_of_cached_results_takes_jobs() {
    let Some(redis) = small("room-cache", 40) else { return };
    let jobs = over(&redis);
    let mut client = redis.client();
    for number in 0..60 {
        let _: () = client.set_ex(format!("mlserve:answer:m:{number}"), vec![b'x'; MB], 3600).unwrap();
    }
    let info: String = redis::cmd("INFO").arg("memory").query(&mut client).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    assert!(used.trim().parse::<usize>().unwrap() > 36 * MB, "it is full: {used}");
    let id = submit(&jobs, caller(1), 20, MB).await.unwrap();
    finish_all(&jobs, &answer(1)).await;
    assert_eq!(state(&jobs, id).await.status, Status::Succeeded);
}

#[tokio::test]
async fn a_redis_that_is_full_of_jobs_takes_no_other_and_still_takes_results() {
    let Some(redis) = small("room-full", 20) else { return };
    let jobs = over(&redis);
    let id = submit(&jobs, nobody(), 14, MB).await.unwrap();
    let health = jobs.health().await.unwrap();
    assert_eq!((health.waiting, health.bytes_limit), (14, 16 << 20));
    assert!(health.bytes > 14 << 20 && health.bytes < 15 << 20, "{health:?}");
    assert_eq!(submit(&jobs, nobody(), 3, MB).await, Err(JobError::Full), "from four fifths on");
    assert_eq!(held(&jobs).await, health.bytes, "what was refused takes no room");
    // Far above maxmemory, where Redis refuses every command of its own that writes.
    set(&redis, "maxmemory", "10mb");
    finish_all(&jobs, &answer(1)).await;
    assert_eq!(state(&jobs, id).await.status, Status::Succeeded);
    set(&redis, "maxmemory", "20mb");
    assert!(held(&jobs).await < 100_000);
}

#[tokio::test]
async fn a_caller_has_a_share_of_the_bytes_and_leaves_room_for_others() {
    let Some(redis) = small("room-share", 40) else { return };
    let jobs = over(&redis);
    let mut accepted = Vec::new();
    let refused = loop {
        match submit(&jobs, caller(1), 2, MB).await {
            Ok(id) => accepted.push(id),
            Err(error) => break error,
        }
    };
    // Four fifths of 32 MB.
    assert_eq!(accepted.len(), 12);
    let JobError::Share(Share { held: 25_000_000..27_000_000, more: 1_000_000.., most, unit: "bytes" }) = refused
    else {
        panic!("{refused:?}")
    };
    assert!((26_000_000..27_000_000).contains(&most), "{most}");
    assert!(submit(&jobs, caller(2), 2, MB).await.is_ok(), "there is room for others");
    assert!(submit(&jobs, caller(1), 2, MB).await.is_err());
    for id in &accepted[..4] {
        assert!(jobs.cancel(*id).await.unwrap());
    }
    assert!(submit(&jobs, caller(1), 2, MB).await.is_ok(), "what was cancelled counts no more");
}

#[tokio::test]
async fn a_caller_has_a_share_of_the_inputs_that_wait() {
    let Some(redis) = Redis::start("room-inputs") else { return };
    let jobs = over(&redis);
    let first = submit(&jobs, caller(1), 80, 1).await.unwrap();
    let share = Share { held: 80, more: 1, most: 80, unit: "inputs" };
    assert_eq!(submit(&jobs, caller(1), 1, 1).await, Err(JobError::Share(share)));
    assert!(submit(&jobs, caller(2), 16, 1).await.is_ok());
    assert_eq!(submit(&jobs, caller(3), 10, 1).await, Err(JobError::Long(96)));
    assert!(jobs.cancel(first).await.unwrap());
    assert_eq!(jobs.health().await.unwrap().waiting, 16, "nothing of a cancelled job waits");
    let second = submit(&jobs, caller(1), 60, 1).await.unwrap();
    finish_all(&jobs, &error()).await;
    assert_eq!(jobs.retry(second).await.unwrap(), Some(60));
    assert!(submit(&jobs, caller(1), 30, 1).await.is_err(), "what is tried again counts again");
    finish_all(&jobs, &answer(1)).await;
    let callers: Vec<String> = redis.client().hkeys("mlserve:{jobs}:callers").unwrap();
    assert!(callers.iter().all(|field| field.starts_with("bytes ")), "{callers:?}");
}

#[tokio::test]
async fn a_deleted_job_takes_no_room_and_is_gone() {
    let Some(redis) = Redis::start("room-delete") else { return };
    let jobs = over(&redis);
    let id = submit(&jobs, caller(1), 3, 1000).await.unwrap();
    assert!(!jobs.delete(id).await.unwrap(), "it has not ended");
    let began = take(&jobs, 1).await;
    jobs.begin(&began[0]).await.unwrap().unwrap();
    assert!(jobs.cancel(id).await.unwrap());
    assert!(jobs.delete(id).await.unwrap());
    assert!(!jobs.delete(id).await.unwrap());
    assert_eq!(jobs.find(id).await.unwrap(), Found::Gone);
    assert!(!jobs.finish(&began[0], &answer(1)).await.unwrap(), "nothing counts any more");
    for outcome in [error(), answer(1)] {
        let id = submit(&jobs, caller(1), 3, 1000).await.unwrap();
        finish_all(&jobs, &outcome).await;
        assert!(jobs.delete(id).await.unwrap());
    }
    assert_eq!(held(&jobs).await, 0);
    let mut left: Vec<String> = redis.client().keys("*").unwrap();
    left.sort();
    assert_eq!(left, ["mlserve:{jobs}:gone", "mlserve:{jobs}:queue:m", "mlserve:{jobs}:queues"]);
}

#[tokio::test]
async fn inputs_of_failed_jobs_make_room() {
    let Some(redis) = small("room-failed", 40) else { return };
    let jobs = over(&redis);
    let mut failed = Vec::new();
    for address in [1, 1, 2] {
        failed.push(submit(&jobs, caller(address), 6, MB).await.unwrap());
        finish_all(&jobs, &error()).await;
    }
    assert!(held(&jobs).await > 18 << 20, "they are kept for a retry");
    // Above the caller's share: the inputs of its own failed jobs go, the oldest first.
    let more = submit(&jobs, caller(1), 12, MB).await.unwrap();
    assert_eq!(jobs.retry(failed[0]).await.unwrap(), None);
    assert_eq!(state(&jobs, failed[0]).await.status, Status::Failed);
    // Above what there is for all: those of any caller do.
    submit(&jobs, nobody(), 13, MB).await.unwrap();
    assert_eq!(jobs.retry(failed[1]).await.unwrap(), None);
    finish_all(&jobs, &answer(1)).await;
    assert_eq!(state(&jobs, more).await.status, Status::Succeeded);
    assert_eq!(jobs.retry(failed[2]).await.unwrap(), Some(6), "there was room for these");
}

async fn begun(jobs: &Jobs, count: usize) -> Vec<Delivery> {
    let taken = take(jobs, count).await;
    for delivery in &taken {
        jobs.begin(delivery).await.unwrap().unwrap();
    }
    taken
}

async fn status_of(jobs: &Jobs, id: JobId, index: u32) -> u64 {
    match jobs.results(id, &[index], usize::MAX).await.unwrap().remove(0) {
        Some(Outcome::Error(json)) => {
            serde_json::from_str::<serde_json::Value>(&json).unwrap()["status"].as_u64().unwrap()
        }
        other => panic!("{:?}", other.map(|_| "an answer")),
    }
}

#[tokio::test]
async fn results_that_redis_has_no_room_for_are_failures_that_say_so() {
    let Some(redis) = small("room-results", 40) else { return };
    let jobs = over(&redis);
    let id = submit(&jobs, caller(1), 50, 10).await.unwrap();
    finish_all(&jobs, &answer(MB - 3)).await;
    let ended = state(&jobs, id).await;
    // Four fifths of nine tenths of 40 MB.
    assert_eq!((ended.status, ended.done, ended.failed), (Status::Failed, 28, 22));
    assert_eq!(status_of(&jobs, id, 49).await, 507);
    assert!(held(&jobs).await < 29 << 20);
    let other = submit(&jobs, caller(2), 1, 10).await.unwrap();
    finish_all(&jobs, &answer(MB - 3)).await;
    assert_eq!(state(&jobs, other).await.status, Status::Succeeded, "there is room for the results of others");
    assert!(jobs.delete(id).await.unwrap());
    assert!(held(&jobs).await < 2 << 20);
}

#[tokio::test]
async fn a_result_longer_than_a_value_may_be_is_a_failure_that_says_so() {
    let Some(redis) = Redis::start("room-long-result") else { return };
    let jobs = over(&redis);
    let id = submit(&jobs, nobody(), 2, 10).await.unwrap();
    let taken = begun(&jobs, 2).await;
    assert!(jobs.finish(&taken[0], &answer(16 << 20)).await.unwrap(), "it counts");
    assert!(jobs.finish(&taken[1], &answer((16 << 20) - 3)).await.unwrap());
    let ended = state(&jobs, id).await;
    assert_eq!((ended.status, ended.done, ended.failed), (Status::Failed, 1, 1));
    assert_eq!(status_of(&jobs, id, 0).await, 413);
}

#[tokio::test]
async fn results_are_read_by_their_bytes_wherever_the_queue_stands() {
    let Some(redis) = Redis::start("room-pages") else { return };
    for jobs in [over(&redis), crate::jobs::local()] {
        let id = submit(&jobs, nobody(), 6, 10).await.unwrap();
        let taken = begun(&jobs, 6).await;
        for (place, bytes) in [(0, 400_000), (1, 400_000), (2, 900_000), (3, 10)] {
            assert!(jobs.finish(&taken[place], &answer(bytes)).await.unwrap());
        }
        let page = async |from: u32| jobs.results(id, &(from..6).collect::<Vec<_>>(), 1_000_000).await.unwrap();
        assert_eq!(page(0).await, [Some(answer(400_000)), Some(answer(400_000))]);
        assert_eq!(page(2).await, [Some(answer(900_000)), Some(answer(10)), None, None]);
        assert_eq!(jobs.results(id, &[2, 0], 5).await.unwrap(), [Some(answer(900_000))], "at least one");
        assert!(jobs.results(id, &[], 5).await.unwrap().is_empty());
    }
}

/// Of Redis' own accounts, beside the input: `MEMORY USAGE` leaves out what is allocated and not used.
#[tokio::test]
async fn a_job_of_one_image_takes_at_most_two_kilobytes_beside_it() {
    const COUNT: usize = 500;
    let Some(redis) = Redis::start("room-small") else { return };
    let jobs = with(&redis, JobLimits { queue_length: 10_000, ..LIMITS });
    submit(&jobs, caller(1), 1, 100).await.unwrap();
    let used = || {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut redis.client()).unwrap();
        info.lines()
            .find_map(|line| line.strip_prefix("used_memory_dataset:"))
            .unwrap()
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let keys = || redis.client().keys::<_, Vec<String>>("*").unwrap();
    let (before, keys_before) = (used(), keys());
    let mut ids = Vec::new();
    for number in 0..COUNT {
        let content = db_api::jobs::Content {
            digest: format!("ui 1 sha256:{} {number:043}", "a".repeat(64)),
            model_digest: format!("sha256:{}", "a".repeat(64)),
        };
        let new = NewJob { content: Some(content), inputs: vec![input(100)], ..job(&[]) };
        ids.push(jobs.submit_uploaded(jobs.upload(caller(1)), new).await.unwrap());
    }
    let measured = |id: &JobId| {
        let is_of = |key: &&String| key.ends_with(&id.to_string()) && !keys_before.contains(key);
        let usage =
            |key: &String| redis::cmd("MEMORY").arg("USAGE").arg(key).query::<usize>(&mut redis.client()).unwrap();
        keys().iter().filter(is_of).map(usage).sum::<usize>()
    };
    let (waiting, counted) = (measured(&ids[9]), held(&jobs).await as usize / (COUNT + 1));
    let each = (used() - before) / COUNT;
    println!("waiting: {waiting} by MEMORY USAGE, {each} of used_memory_dataset, counted {counted}");
    assert!(waiting < 2048 + 100 && each < 2048 + 100 && each < counted, "{waiting} {each} {counted}");
    finish_all(&jobs, &Outcome::Answer("{}".repeat(50))).await;
    let (ended, each, counted) =
        (measured(&ids[9]), (used() - before) / COUNT, held(&jobs).await as usize / (COUNT + 1));
    println!("ended: {ended} by MEMORY USAGE, {each} of used_memory_dataset, counted {counted}");
    assert!(ended < 2048 + 100 && each < 2048 + 100 && each < counted, "{ended} {each} {counted}");
}
