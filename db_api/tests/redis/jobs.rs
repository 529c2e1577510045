//! Job queue in Redis and in memory: both backends behave the same.

use std::time::Duration;

use bytes::Bytes;
use db_api::jobs::{
    Caller, DedupKey, Delivery, EventKind, IdempotencyKey, InMemoryJobs, Input, InputKind, InputSpec, Job, JobError,
    JobId, JobLimits, JobLookup, JobStatus, Jobs, NewJob, Outcome, RedisJobs, SkippedFiles,
};
use redis::Commands;
use tokio::time::sleep;

use crate::server::Redis;

pub const LIMITS: JobLimits = JobLimits {
    ttl: Duration::from_hours(1),
    max_queue_length: 100,
    dedup_window: Duration::from_hours(1),
    claim_timeout: Duration::from_millis(50),
    max_deliveries: 3,
};

pub fn redis_jobs(redis: &Redis) -> Jobs {
    jobs_with_limits(redis, LIMITS)
}

pub fn jobs_with_limits(redis: &Redis, limits: JobLimits) -> Jobs {
    Jobs::Redis(RedisJobs::new(&redis.url(), limits).unwrap())
}

pub fn in_memory_jobs() -> Jobs {
    Jobs::InMemory(InMemoryJobs::new(LIMITS))
}

pub fn job(inputs: &[&str]) -> NewJob {
    let input = |data: &&str| Input {
        name: format!("{data}.png"),
        data: Bytes::copy_from_slice(data.as_bytes()),
        outcome: None,
    };
    NewJob {
        model: "m".to_owned(),
        spec: InputSpec {
            kind: InputKind::V2,
            version: Some("2".to_owned()),
            content_type: "text/x".to_owned(),
            json_length: Some(7),
            top_k: Some("3".to_owned()),
        },
        inputs: inputs.iter().map(input).collect(),
        idempotency_key: None,
        dedup_key: None,
        webhook: None,
        ttl: None,
        skipped: SkippedFiles::default(),
    }
}

pub fn success(text: &str) -> Outcome {
    Outcome::Success(format!("\"{text}\""))
}

pub fn error() -> Outcome {
    Outcome::Error("{\"status\":422}".to_owned())
}

pub async fn find_job(jobs: &Jobs, id: JobId) -> Job {
    match jobs.find(id).await.unwrap() {
        JobLookup::Found(job) => *job,
        other => panic!("{other:?}"),
    }
}

/// Receives at least one input; the first call may create the consumer group.
pub async fn receive(jobs: &Jobs, limit: usize) -> Vec<Delivery> {
    for _ in 0..3 {
        let taken = jobs.receive("m", limit).await.unwrap();
        if !taken.is_empty() {
            return taken;
        }
    }
    Vec::new()
}

pub async fn finish_all_inputs(jobs: &Jobs) {
    let mut taken = receive(jobs, 100).await;
    while !taken.is_empty() {
        for delivery in std::mem::take(&mut taken) {
            if let Some(work) = jobs.start(&delivery).await.unwrap() {
                let text = std::str::from_utf8(&work.data).unwrap().to_owned();
                assert!(jobs.finish(&delivery, &success(&text)).await.unwrap());
            }
        }
        taken = jobs.receive("m", 100).await.unwrap();
    }
}

pub fn dead_letters(redis: &Redis) -> u64 {
    redis::cmd("XLEN").arg("mlserve:{jobs}:dead").query(&mut redis.client()).unwrap()
}

/// The behaviour of every backend.
async fn behaves_as_specified(jobs: Jobs) {
    // A job from submission to completion.
    let id = jobs.submit(job(&["a", "b", "c"])).await.unwrap();
    assert_eq!((find_job(&jobs, id).await.status, find_job(&jobs, id).await.total), (JobStatus::Queued, 3));
    let first = receive(&jobs, 1).await;
    let work = jobs.start(&first[0]).await.unwrap().unwrap();
    assert_eq!((&work.data[..], work.spec), (&b"a"[..], job(&[]).spec));
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Running);
    assert!(jobs.finish(&first[0], &success("a")).await.unwrap());
    assert!(!jobs.finish(&first[0], &success("other")).await.unwrap(), "only the first outcome counts");
    finish_all_inputs(&jobs).await;
    let ended = find_job(&jobs, id).await;
    assert_eq!((ended.status, ended.done, ended.failed, ended.runs), (JobStatus::Succeeded, 3, 0, 3));
    assert!(ended.finished_ms >= ended.started_ms && ended.started_ms >= Some(ended.created_ms));
    assert_eq!(jobs.names(id, 1..2).await.unwrap(), ["b.png"]);
    assert_eq!(jobs.names(id, 0..3).await.unwrap(), ["a.png", "b.png", "c.png"]);
    let results = jobs.results(id, &[2, 0, 9], usize::MAX).await.unwrap();
    assert_eq!(results, [Some(success("c")), Some(success("a")), None]);

    // Each event is returned once, and reading resumes after a given event.
    let events = jobs.events(id, "", 100).await.unwrap();
    let kinds: Vec<EventKind> = events.iter().map(|event| event.kind).collect();
    let status = EventKind::StatusChanged;
    assert_eq!(kinds[..3], [status(JobStatus::Queued), status(JobStatus::Running), EventKind::InputFinished(0)]);
    assert_eq!(kinds[3..], [EventKind::InputFinished(1), EventKind::InputFinished(2), status(JobStatus::Succeeded)]);
    assert_eq!(jobs.events(id, &events[3].id, 1).await.unwrap(), events[4..5]);
    assert!(jobs.events(id, &events[5].id, 1).await.unwrap().is_empty());

    // An input with an outcome is not queued.
    let mut partly_cached = job(&["x", "y"]);
    partly_cached.inputs[1].outcome = Some(success("y"));
    let half = jobs.submit(partly_cached.clone()).await.unwrap();
    assert_eq!(find_job(&jobs, half).await.done, 1);
    partly_cached.inputs[0].outcome = Some(error());
    let all = find_job(&jobs, jobs.submit(partly_cached).await.unwrap()).await;
    assert_eq!((all.status, all.done, all.failed, all.runs), (JobStatus::Failed, 1, 1, 0));
    finish_all_inputs(&jobs).await;
    assert_eq!(find_job(&jobs, half).await.status, JobStatus::Succeeded);

    // Cancelling stops inputs that are not started, and no later outcome counts.
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    let started = receive(&jobs, 1).await;
    jobs.start(&started[0]).await.unwrap();
    assert!(jobs.cancel(id).await.unwrap());
    assert!(!jobs.cancel(id).await.unwrap());
    assert!(!jobs.finish(&started[0], &success("a")).await.unwrap());
    assert!(receive(&jobs, 10).await.is_empty());
    let cancelled = find_job(&jobs, id).await;
    assert_eq!((cancelled.status, cancelled.done), (JobStatus::Cancelled, 0));

    // Failed inputs can be retried; a job without any cannot.
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    assert_eq!(jobs.retry(id).await.unwrap(), None);
    let taken = receive(&jobs, 2).await;
    for (delivery, outcome) in taken.iter().zip([error(), success("b")]) {
        jobs.start(delivery).await.unwrap();
        jobs.finish(delivery, &outcome).await.unwrap();
    }
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Failed);
    assert_eq!(jobs.retry(id).await.unwrap(), Some(1));
    finish_all_inputs(&jobs).await;
    let retried = find_job(&jobs, id).await;
    assert_eq!((retried.status, retried.done, retried.failed), (JobStatus::Succeeded, 2, 0));

    // The same idempotency key returns the same job.
    let key = |digest: &str| Some(IdempotencyKey { key: "k".to_owned(), digest: digest.to_owned() });
    let first = jobs.submit(NewJob { idempotency_key: key("d"), ..job(&["a"]) }).await.unwrap();
    assert_eq!(jobs.submit(NewJob { idempotency_key: key("d"), ..job(&["a"]) }).await.unwrap(), first);
    assert_eq!(jobs.submit(NewJob { idempotency_key: key("e"), ..job(&["b"]) }).await, Err(JobError::Conflict));
    finish_all_inputs(&jobs).await;
    assert_eq!(find_job(&jobs, first).await.runs, 1);

    // Lists start with the newest job.
    let all = jobs.list(|_| true, 0, 100).await.unwrap();
    assert!(all.windows(2).all(|pair| pair[0].created_ms >= pair[1].created_ms));
    let cancelled = jobs.list(|job| job.status == JobStatus::Cancelled, 0, 100).await.unwrap();
    assert_eq!(cancelled.len(), 1);
    assert_eq!(jobs.list(|_| true, 1, 2).await.unwrap(), all[1..3]);

    // The error of a full queue contains its length.
    let many: Vec<&str> = vec!["a"; LIMITS.max_queue_length];
    jobs.submit(job(&many)).await.unwrap();
    assert_eq!(jobs.submit(job(&["a"])).await, Err(JobError::QueueFull(100)));
    assert_eq!(jobs.find(JobId::random()).await.unwrap(), JobLookup::Unknown);
}

#[tokio::test]
async fn the_redis_queue_behaves_as_specified() {
    let Some(redis) = Redis::start("jobs") else { return };
    behaves_as_specified(redis_jobs(&redis)).await;
}

#[tokio::test]
async fn the_in_memory_queue_behaves_as_specified() {
    behaves_as_specified(in_memory_jobs()).await;
}

/// A result of the model version with this digest.
fn success_of(digest: &str) -> Outcome {
    Outcome::Success(format!("{{\"model_digest\":\"{digest}\"}}"))
}

/// Finishes the waiting inputs, each with a result of the next of `digests`; an empty digest is an error.
async fn finish_by(jobs: &Jobs, digests: &[&str]) {
    for (delivery, digest) in receive(jobs, 100).await.iter().zip(digests) {
        jobs.start(delivery).await.unwrap().unwrap();
        let outcome = if digest.is_empty() { error() } else { success_of(digest) };
        assert!(jobs.finish(delivery, &outcome).await.unwrap());
    }
}

/// A submission with the deduplication key of an earlier job.
async fn reuses_succeeded_jobs(jobs: Jobs) {
    let content = |digest: &str| DedupKey { digest: digest.to_owned(), model_digest: "d1".to_owned() };
    let with_key = |digest| NewJob { dedup_key: Some(content(digest)), ..job(&["a", "b"]) };
    assert_eq!(
        jobs.submit_duplicate("m", &content("first"), &Caller::default()).await.unwrap(),
        None,
        "there is no earlier job"
    );

    let first = jobs.submit(with_key("first")).await.unwrap();
    assert_eq!(
        jobs.submit_duplicate("m", &content("first"), &Caller::default()).await.unwrap(),
        None,
        "the earlier job is not finished"
    );
    finish_by(&jobs, &["d1", "d1"]).await;
    let again = jobs.submit_duplicate("m", &content("first"), &Caller::default()).await.unwrap().unwrap();
    assert_ne!(again, first, "each submission has its own job");
    let (of_again, of_first) = (find_job(&jobs, again).await, find_job(&jobs, first).await);
    assert_eq!((of_again.status, of_again.total, of_again.done, of_again.runs), (JobStatus::Succeeded, 2, 2, 0));
    assert!(of_again.created_ms >= of_first.finished_ms.unwrap() && of_again.expires_ms >= of_first.expires_ms);
    assert_eq!(jobs.names(again, 0..2).await.unwrap(), ["a.png", "b.png"]);
    assert_eq!(
        jobs.results(again, &[0, 1], usize::MAX).await.unwrap(),
        [Some(success_of("d1")), Some(success_of("d1"))]
    );
    assert_eq!(
        jobs.events(again, "", 9).await.unwrap().last().unwrap().kind,
        EventKind::StatusChanged(JobStatus::Succeeded)
    );
    assert!(jobs.list(|_| true, 0, 9).await.unwrap().iter().any(|job| job.id == again));
    assert_eq!(jobs.submit_duplicate("m", &content("other"), &Caller::default()).await.unwrap(), None);
    assert_eq!(jobs.submit_duplicate("other", &content("first"), &Caller::default()).await.unwrap(), None);

    // A failed job is not reused, nor one with a result of another model version, in any order.
    for (name, digests) in [("failed", ["d1", ""]), ("changed", ["d1", "d2"]), ("replaced", ["d2", "d1"])] {
        jobs.submit(with_key(name)).await.unwrap();
        finish_by(&jobs, &digests).await;
        assert_eq!(jobs.submit_duplicate("m", &content(name), &Caller::default()).await.unwrap(), None, "{name}");
    }

    // A job from before `clear_dedup` is not reused, even if it finishes afterwards.
    jobs.submit(with_key("cleared")).await.unwrap();
    jobs.clear_dedup("m").await.unwrap();
    finish_by(&jobs, &["d1", "d1"]).await;
    assert_eq!(jobs.submit_duplicate("m", &content("cleared"), &Caller::default()).await.unwrap(), None);
    assert_eq!(jobs.submit_duplicate("m", &content("first"), &Caller::default()).await.unwrap(), None);
    assert_eq!(find_job(&jobs, again).await.status, JobStatus::Succeeded, "finished jobs stay");
}

#[tokio::test]
async fn the_redis_queue_reuses_succeeded_jobs() {
    let Some(redis) = Redis::start("jobs-repeat") else { return };
    reuses_succeeded_jobs(redis_jobs(&redis)).await;
}

#[tokio::test]
async fn the_in_memory_queue_reuses_succeeded_jobs() {
    reuses_succeeded_jobs(in_memory_jobs()).await;
}

#[tokio::test]
async fn a_job_older_than_the_dedup_window_is_not_reused() {
    let limits = JobLimits { dedup_window: Duration::from_millis(20), ..LIMITS };
    let Some(redis) = Redis::start("jobs-repeat-age") else { return };
    for jobs in [jobs_with_limits(&redis, limits), Jobs::InMemory(InMemoryJobs::new(limits))] {
        let content = DedupKey { digest: "c".to_owned(), model_digest: "d1".to_owned() };
        jobs.submit(NewJob { dedup_key: Some(content.clone()), ..job(&["a"]) }).await.unwrap();
        finish_by(&jobs, &["d1"]).await;
        sleep(Duration::from_millis(40)).await;
        assert_eq!(jobs.submit_duplicate("m", &content, &Caller::default()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_job_survives_the_loss_of_its_consumer_group_and_all_connections() {
    let Some(redis) = Redis::start("jobs-group") else { return };
    let jobs = redis_jobs(&redis);
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    receive(&jobs, 1).await;
    let mut client = redis.client();
    let mut destroy = redis::cmd("XGROUP");
    let _: () = destroy.arg("DESTROY").arg("mlserve:{jobs}:queue:m").arg("workers").query(&mut client).unwrap();
    let _: () =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").query(&mut client).unwrap();
    sleep(Duration::from_millis(100)).await;
    for _ in 0..20 {
        if let Ok(taken) = jobs.receive("m", 10).await {
            for delivery in taken {
                jobs.start(&delivery).await.unwrap();
                jobs.finish(&delivery, &success("x")).await.unwrap();
            }
        }
        if find_job(&jobs, id).await.status == JobStatus::Succeeded {
            return;
        }
    }
    panic!("{:?}", find_job(&jobs, id).await);
}

#[tokio::test]
async fn an_expired_job_is_deleted_completely() {
    let Some(redis) = Redis::start("jobs-expiry") else { return };
    let jobs = jobs_with_limits(&redis, JobLimits { ttl: Duration::from_millis(20), ..LIMITS });
    let idempotency_key = Some(IdempotencyKey { key: "k".to_owned(), digest: "d".to_owned() });
    let content = DedupKey { digest: "c".to_owned(), model_digest: "d1".to_owned() };
    let id = jobs.submit(NewJob { idempotency_key, dedup_key: Some(content.clone()), ..job(&["a"]) }).await.unwrap();
    finish_by(&jobs, &["d1"]).await;
    let again = jobs.submit_duplicate("m", &content, &Caller::default()).await.unwrap().unwrap();
    let mut client = redis.client();
    for key in client.keys::<_, Vec<String>>("*").unwrap() {
        assert_eq!(client.ttl::<_, i64>(&key).unwrap(), -1, "{key} could be evicted");
    }
    sleep(Duration::from_millis(40)).await;
    jobs.sweep().await.unwrap();
    assert_eq!(jobs.find(id).await.unwrap(), JobLookup::Gone);
    assert_eq!(jobs.find(again).await.unwrap(), JobLookup::Gone);
    let mut left = client.keys::<_, Vec<String>>("*").unwrap();
    left.sort();
    assert_eq!(left, ["mlserve:{jobs}:gone", "mlserve:{jobs}:queue:m", "mlserve:{jobs}:queues"]);
}

#[tokio::test]
async fn the_upload_of_a_rejected_job_is_deleted() {
    let Some(redis) = Redis::start("jobs-refused") else { return };
    let jobs = redis_jobs(&redis);
    let many: Vec<&str> = vec!["a"; LIMITS.max_queue_length + 1];
    assert_eq!(jobs.submit(job(&many)).await, Err(JobError::QueueFull(0)));
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_is_not_submitted_expires() {
    let Some(redis) = Redis::start("jobs-upload") else { return };
    redis_jobs(&redis).prepare().await.unwrap();
    let (mut client, id) = (redis.client(), JobId::random());
    let mut upload = redis::cmd("FCALL");
    upload.arg("mlserve_upload").arg(1).arg(format!("mlserve:{{jobs}}:inputs:{id}")).arg(0).arg("a");
    let _: i64 = upload.query(&mut client).unwrap();
    let expiring: Vec<String> = client.zrange("mlserve:{jobs}:expiring", 0, -1).unwrap();
    assert_eq!(expiring, [id.to_string()]);
}

#[test]
fn a_job_id_has_32_lower_case_hexadecimal_digits() {
    let id = JobId::random();
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!("0".repeat(32).parse::<JobId>().unwrap().to_string(), "0".repeat(32));
    for bad in [
        "",
        "0",
        &"0".repeat(33),
        &"g".repeat(32),
        &"A".repeat(32),
        "../../../../../../../../etc/pass",
        "+0000000000000000000000000000000",
    ] {
        assert!(bad.parse::<JobId>().is_err(), "{bad}");
    }
}
