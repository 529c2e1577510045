//! Memory limits of jobs in Redis: for all jobs, and per caller.

use std::net::IpAddr;

use db_api::jobs::{
    Caller, Delivery, Input, JobError, JobId, JobLimits, JobLookup, JobStatus, Jobs, NewJob, Outcome, QuotaExceeded,
    Upload,
};
use redis::Commands;

use crate::jobs::{LIMITS, find_job, job, jobs_with_limits, receive, redis_jobs};
use crate::server::Redis;

/// The longest value that uses one megabyte: for a longer one, the allocator reserves a quarter more.
const MB: usize = (1 << 20) - 32;

fn caller(last: u8) -> Caller {
    IpAddr::from([192, 0, 2, last]).into()
}

fn no_caller() -> Caller {
    Caller::default()
}

fn input(bytes: usize) -> Input {
    Input { name: "a.png".to_owned(), data: vec![b'x'; bytes].into(), outcome: None }
}

/// Redis with a `maxmemory` of this many megabytes.
fn redis_with_memory(name: &str, megabytes: usize) -> Option<Redis> {
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
    let mut taken = receive(jobs, 100).await;
    while !taken.is_empty() {
        for delivery in &taken {
            jobs.start(delivery).await.unwrap().unwrap();
            assert!(jobs.finish(delivery, outcome).await.unwrap());
        }
        taken = jobs.receive("m", 100).await.unwrap();
    }
}

fn error() -> Outcome {
    Outcome::Error("{\"status\":422}".to_owned())
}

fn success(bytes: usize) -> Outcome {
    Outcome::Success(format!("\"{}\"", "y".repeat(bytes)))
}

async fn used_bytes(jobs: &Jobs) -> u64 {
    jobs.health().await.unwrap().bytes
}

#[tokio::test]
async fn a_redis_full_of_cached_results_accepts_jobs() {
    let Some(redis) = redis_with_memory("room-cache", 40) else { return };
    let jobs = redis_jobs(&redis);
    let mut client = redis.client();
    for number in 0..60 {
        let _: () = client.set_ex(format!("mlserve:answer:m:{number}"), vec![b'x'; MB], 3600).unwrap();
    }
    let info: String = redis::cmd("INFO").arg("memory").query(&mut client).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    assert!(used.trim().parse::<usize>().unwrap() > 36 * MB, "Redis is full: {used}");
    let id = submit(&jobs, caller(1), 20, MB).await.unwrap();
    finish_all(&jobs, &success(1)).await;
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Succeeded);
}

#[tokio::test]
async fn a_redis_full_of_jobs_rejects_jobs_and_accepts_results() {
    let Some(redis) = redis_with_memory("room-full", 20) else { return };
    let jobs = redis_jobs(&redis);
    let id = submit(&jobs, no_caller(), 14, MB).await.unwrap();
    let health = jobs.health().await.unwrap();
    assert_eq!((health.waiting, health.bytes_limit), (14, 16 << 20));
    assert!(health.bytes > 14 << 20 && health.bytes < 15 << 20, "{health:?}");
    assert_eq!(submit(&jobs, no_caller(), 3, MB).await, Err(JobError::OutOfMemory), "above four fifths of the memory");
    assert_eq!(used_bytes(&jobs).await, health.bytes, "a rejected job uses no memory");
    // Far above maxmemory, where Redis rejects each of its own commands that write.
    set(&redis, "maxmemory", "10mb");
    finish_all(&jobs, &success(1)).await;
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Succeeded);
    set(&redis, "maxmemory", "20mb");
    assert!(used_bytes(&jobs).await < 100_000);
}

#[tokio::test]
async fn a_caller_has_a_quota_of_bytes_that_leaves_memory_for_others() {
    let Some(redis) = redis_with_memory("room-share", 40) else { return };
    let jobs = redis_jobs(&redis);
    let mut accepted = Vec::new();
    let rejected = loop {
        match submit(&jobs, caller(1), 2, MB).await {
            Ok(id) => accepted.push(id),
            Err(error) => break error,
        }
    };
    // Four fifths of 32 MB.
    assert_eq!(accepted.len(), 12);
    let JobError::QuotaExceeded(QuotaExceeded {
        used: 25_000_000..27_000_000,
        requested: 1_000_000..,
        limit,
        unit: "bytes",
    }) = rejected
    else {
        panic!("{rejected:?}")
    };
    assert!((26_000_000..27_000_000).contains(&limit), "{limit}");
    assert!(submit(&jobs, caller(2), 2, MB).await.is_ok(), "other callers have memory left");
    assert!(submit(&jobs, caller(1), 2, MB).await.is_err());
    for id in &accepted[..4] {
        assert!(jobs.cancel(*id).await.unwrap());
    }
    assert!(submit(&jobs, caller(1), 2, MB).await.is_ok(), "cancelled jobs no longer count");
}

#[tokio::test]
async fn a_caller_has_a_quota_of_waiting_inputs() {
    let Some(redis) = Redis::start("room-inputs") else { return };
    let jobs = redis_jobs(&redis);
    let first = submit(&jobs, caller(1), 80, 1).await.unwrap();
    let quota = QuotaExceeded { used: 80, requested: 1, limit: 80, unit: "inputs" };
    assert_eq!(submit(&jobs, caller(1), 1, 1).await, Err(JobError::QuotaExceeded(quota)));
    assert!(submit(&jobs, caller(2), 16, 1).await.is_ok());
    assert_eq!(submit(&jobs, caller(3), 10, 1).await, Err(JobError::QueueFull(96)));
    assert!(jobs.cancel(first).await.unwrap());
    assert_eq!(jobs.health().await.unwrap().waiting, 16, "no input of a cancelled job waits");
    let second = submit(&jobs, caller(1), 60, 1).await.unwrap();
    finish_all(&jobs, &error()).await;
    assert_eq!(jobs.retry(second).await.unwrap(), Some(60));
    assert!(submit(&jobs, caller(1), 30, 1).await.is_err(), "retried inputs count again");
    finish_all(&jobs, &success(1)).await;
    let callers: Vec<String> = redis.client().hkeys("mlserve:{jobs}:callers").unwrap();
    assert!(callers.iter().all(|field| field.starts_with("bytes ")), "{callers:?}");
}

#[tokio::test]
async fn a_deleted_job_uses_no_memory_and_is_gone() {
    let Some(redis) = Redis::start("room-delete") else { return };
    let jobs = redis_jobs(&redis);
    let id = submit(&jobs, caller(1), 3, 1000).await.unwrap();
    assert!(!jobs.delete(id).await.unwrap(), "the job is not finished");
    let started = receive(&jobs, 1).await;
    jobs.start(&started[0]).await.unwrap().unwrap();
    assert!(jobs.cancel(id).await.unwrap());
    assert!(jobs.delete(id).await.unwrap());
    assert!(!jobs.delete(id).await.unwrap());
    assert_eq!(jobs.find(id).await.unwrap(), JobLookup::Gone);
    assert!(!jobs.finish(&started[0], &success(1)).await.unwrap(), "a late outcome does not count");
    for outcome in [error(), success(1)] {
        let id = submit(&jobs, caller(1), 3, 1000).await.unwrap();
        finish_all(&jobs, &outcome).await;
        assert!(jobs.delete(id).await.unwrap());
    }
    assert_eq!(used_bytes(&jobs).await, 0);
    let mut left: Vec<String> = redis.client().keys("*").unwrap();
    left.sort();
    assert_eq!(left, ["mlserve:{jobs}:gone", "mlserve:{jobs}:queue:m", "mlserve:{jobs}:queues"]);
}

#[tokio::test]
async fn inputs_of_failed_jobs_are_deleted_for_new_jobs() {
    let Some(redis) = redis_with_memory("room-failed", 40) else { return };
    let jobs = redis_jobs(&redis);
    let mut failed = Vec::new();
    for address in [1, 1, 2] {
        failed.push(submit(&jobs, caller(address), 6, MB).await.unwrap());
        finish_all(&jobs, &error()).await;
    }
    assert!(used_bytes(&jobs).await > 18 << 20, "inputs are kept for a retry");
    // Above the caller's quota: the inputs of its own failed jobs are deleted, oldest first.
    let more = submit(&jobs, caller(1), 12, MB).await.unwrap();
    assert_eq!(jobs.retry(failed[0]).await.unwrap(), None);
    assert_eq!(find_job(&jobs, failed[0]).await.status, JobStatus::Failed);
    // Above the total limit: the inputs of any caller's failed jobs are deleted.
    submit(&jobs, no_caller(), 13, MB).await.unwrap();
    assert_eq!(jobs.retry(failed[1]).await.unwrap(), None);
    finish_all(&jobs, &success(1)).await;
    assert_eq!(find_job(&jobs, more).await.status, JobStatus::Succeeded);
    assert_eq!(jobs.retry(failed[2]).await.unwrap(), Some(6), "these inputs still fit");
}

async fn start_inputs(jobs: &Jobs, count: usize) -> Vec<Delivery> {
    let taken = receive(jobs, count).await;
    for delivery in &taken {
        jobs.start(delivery).await.unwrap().unwrap();
    }
    taken
}

async fn status_of(jobs: &Jobs, id: JobId, index: u32) -> u64 {
    match jobs.results(id, &[index], usize::MAX).await.unwrap().remove(0) {
        Some(Outcome::Error(json)) => {
            serde_json::from_str::<serde_json::Value>(&json).unwrap()["status"].as_u64().unwrap()
        }
        other => panic!("{:?}", other.map(|_| "a result")),
    }
}

#[tokio::test]
async fn a_result_without_memory_becomes_an_error_with_the_reason() {
    let Some(redis) = redis_with_memory("room-results", 40) else { return };
    let jobs = redis_jobs(&redis);
    let id = submit(&jobs, caller(1), 50, 10).await.unwrap();
    finish_all(&jobs, &success(MB - 3)).await;
    let ended = find_job(&jobs, id).await;
    // Four fifths of nine tenths of 40 MB.
    assert_eq!((ended.status, ended.done, ended.failed), (JobStatus::Failed, 28, 22));
    assert_eq!(status_of(&jobs, id, 49).await, 507);
    assert!(used_bytes(&jobs).await < 29 << 20);
    let other = submit(&jobs, caller(2), 1, 10).await.unwrap();
    finish_all(&jobs, &success(MB - 3)).await;
    assert_eq!(
        find_job(&jobs, other).await.status,
        JobStatus::Succeeded,
        "there is memory for the results of other callers"
    );
    assert!(jobs.delete(id).await.unwrap());
    assert!(used_bytes(&jobs).await < 2 << 20);
}

#[tokio::test]
async fn a_result_longer_than_a_redis_value_becomes_an_error_with_the_reason() {
    let Some(redis) = Redis::start("room-long-result") else { return };
    let jobs = redis_jobs(&redis);
    let id = submit(&jobs, no_caller(), 2, 10).await.unwrap();
    let taken = start_inputs(&jobs, 2).await;
    assert!(jobs.finish(&taken[0], &success(16 << 20)).await.unwrap(), "the outcome counts");
    assert!(jobs.finish(&taken[1], &success((16 << 20) - 3)).await.unwrap());
    let ended = find_job(&jobs, id).await;
    assert_eq!((ended.status, ended.done, ended.failed), (JobStatus::Failed, 1, 1));
    assert_eq!(status_of(&jobs, id, 0).await, 413);
}

#[tokio::test]
async fn pages_of_results_are_bounded_by_bytes_in_both_backends() {
    let Some(redis) = Redis::start("room-pages") else { return };
    for jobs in [redis_jobs(&redis), crate::jobs::in_memory_jobs()] {
        let id = submit(&jobs, no_caller(), 6, 10).await.unwrap();
        let taken = start_inputs(&jobs, 6).await;
        for (place, bytes) in [(0, 400_000), (1, 400_000), (2, 900_000), (3, 10)] {
            assert!(jobs.finish(&taken[place], &success(bytes)).await.unwrap());
        }
        let page = async |from: u32| jobs.results(id, &(from..6).collect::<Vec<_>>(), 1_000_000).await.unwrap();
        assert_eq!(page(0).await, [Some(success(400_000)), Some(success(400_000))]);
        assert_eq!(page(2).await, [Some(success(900_000)), Some(success(10)), None, None]);
        assert_eq!(jobs.results(id, &[2, 0], 5).await.unwrap(), [Some(success(900_000))], "at least one");
        assert!(jobs.results(id, &[], 5).await.unwrap().is_empty());
    }
}

/// Measured by Redis itself, beside the input: `MEMORY USAGE` omits what is allocated and not used.
#[tokio::test]
async fn a_job_of_one_image_uses_at_most_two_kilobytes_beside_it() {
    const COUNT: usize = 500;
    let Some(redis) = Redis::start("room-small") else { return };
    let jobs = jobs_with_limits(&redis, JobLimits { max_queue_length: 10_000, ..LIMITS });
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
        let dedup_key = db_api::jobs::DedupKey {
            digest: format!("ui 1 sha256:{} {number:043}", "a".repeat(64)),
            model_digest: format!("sha256:{}", "a".repeat(64)),
        };
        let new = NewJob { dedup_key: Some(dedup_key), inputs: vec![input(100)], ..job(&[]) };
        ids.push(jobs.submit_uploaded(jobs.upload(caller(1)), new).await.unwrap());
    }
    let measured = |id: &JobId| {
        let is_of = |key: &&String| key.ends_with(&id.to_string()) && !keys_before.contains(key);
        let usage =
            |key: &String| redis::cmd("MEMORY").arg("USAGE").arg(key).query::<usize>(&mut redis.client()).unwrap();
        keys().iter().filter(is_of).map(usage).sum::<usize>()
    };
    let (waiting, counted) = (measured(&ids[9]), used_bytes(&jobs).await as usize / (COUNT + 1));
    let each = (used() - before) / COUNT;
    println!("waiting: {waiting} by MEMORY USAGE, {each} of used_memory_dataset, counted {counted}");
    assert!(waiting < 2048 + 100 && each < 2048 + 100 && each < counted, "{waiting} {each} {counted}");
    finish_all(&jobs, &Outcome::Success("{}".repeat(50))).await;
    let (ended, each, counted) =
        (measured(&ids[9]), (used() - before) / COUNT, used_bytes(&jobs).await as usize / (COUNT + 1));
    println!("ended: {ended} by MEMORY USAGE, {each} of used_memory_dataset, counted {counted}");
    assert!(ended < 2048 + 100 && each < 2048 + 100 && each < counted, "{ended} {each} {counted}");
}
