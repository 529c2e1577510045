//! Jobs over a real Redis and in the process: the same promises, wherever the queue stands.

use std::time::Duration;

use bytes::Bytes;
use db_api::jobs::{
    Asked, Caller, Content, Delivery, Found, Input, Job, JobError, JobId, JobLimits, Jobs, Kind, LocalJobs, NewJob,
    Once, Outcome, RedisJobs, Skipped, Status, What,
};
use redis::Commands;
use tokio::time::sleep;

use crate::server::Redis;

pub const LIMITS: JobLimits = JobLimits {
    ttl: Duration::from_hours(1),
    queue_length: 100,
    repeat_within: Duration::from_hours(1),
    claim_after: Duration::from_millis(50),
    max_deliveries: 3,
};

pub fn over(redis: &Redis) -> Jobs {
    with(redis, LIMITS)
}

pub fn with(redis: &Redis, limits: JobLimits) -> Jobs {
    Jobs::Redis(RedisJobs::new(&redis.url(), limits).unwrap())
}

pub fn local() -> Jobs {
    Jobs::Local(LocalJobs::new(LIMITS))
}

pub fn job(inputs: &[&str]) -> NewJob {
    let input =
        |data: &&str| Input { name: format!("{data}.png"), data: Bytes::copy_from_slice(data.as_bytes()), known: None };
    NewJob {
        model: "m".to_owned(),
        asked: Asked {
            kind: Kind::V2,
            version: Some("2".to_owned()),
            content_type: "text/x".to_owned(),
            json_length: Some(7),
            top_k: Some("3".to_owned()),
        },
        inputs: inputs.iter().map(input).collect(),
        once: None,
        content: None,
        webhook: None,
        ttl: None,
        skipped: Skipped::default(),
    }
}

pub fn answer(text: &str) -> Outcome {
    Outcome::Answer(format!("\"{text}\""))
}

pub fn error() -> Outcome {
    Outcome::Error("{\"status\":422}".to_owned())
}

pub async fn state(jobs: &Jobs, id: JobId) -> Job {
    match jobs.find(id).await.unwrap() {
        Found::Job(job) => *job,
        other => panic!("{other:?}"),
    }
}

/// At least one; the first call may have to make the group of consumers.
pub async fn take(jobs: &Jobs, most: usize) -> Vec<Delivery> {
    for _ in 0..3 {
        let taken = jobs.take("m", most).await.unwrap();
        if !taken.is_empty() {
            return taken;
        }
    }
    Vec::new()
}

pub async fn answer_all(jobs: &Jobs) {
    let mut taken = take(jobs, 100).await;
    while !taken.is_empty() {
        for delivery in std::mem::take(&mut taken) {
            if let Some(work) = jobs.begin(&delivery).await.unwrap() {
                let text = std::str::from_utf8(&work.data).unwrap().to_owned();
                assert!(jobs.finish(&delivery, &answer(&text)).await.unwrap());
            }
        }
        taken = jobs.take("m", 100).await.unwrap();
    }
}

pub fn buried_in(redis: &Redis) -> u64 {
    redis::cmd("XLEN").arg("mlserve:{jobs}:dead").query(&mut redis.client()).unwrap()
}

/// Everything that holds wherever the queue stands.
async fn keeps_the_promises(jobs: Jobs) {
    // From the beginning to the end.
    let id = jobs.submit(job(&["a", "b", "c"])).await.unwrap();
    assert_eq!((state(&jobs, id).await.status, state(&jobs, id).await.total), (Status::Queued, 3));
    let first = take(&jobs, 1).await;
    let work = jobs.begin(&first[0]).await.unwrap().unwrap();
    assert_eq!((&work.data[..], work.asked), (&b"a"[..], job(&[]).asked));
    assert_eq!(state(&jobs, id).await.status, Status::Running);
    assert!(jobs.finish(&first[0], &answer("a")).await.unwrap());
    assert!(!jobs.finish(&first[0], &answer("other")).await.unwrap(), "whoever is second changes nothing");
    answer_all(&jobs).await;
    let ended = state(&jobs, id).await;
    assert_eq!((ended.status, ended.done, ended.failed, ended.runs), (Status::Succeeded, 3, 0, 3));
    assert!(ended.finished_ms >= ended.started_ms && ended.started_ms >= Some(ended.created_ms));
    assert_eq!(jobs.names(id, 1..2).await.unwrap(), ["b.png"]);
    assert_eq!(jobs.names(id, 0..3).await.unwrap(), ["a.png", "b.png", "c.png"]);
    let results = jobs.results(id, &[2, 0, 9], usize::MAX).await.unwrap();
    assert_eq!(results, [Some(answer("c")), Some(answer("a")), None]);

    // Events are told once each, and from where somebody left off.
    let events = jobs.events(id, "", 100).await.unwrap();
    let what: Vec<What> = events.iter().map(|event| event.what).collect();
    let status = What::Status;
    assert_eq!(what[..3], [status(Status::Queued), status(Status::Running), What::Ended(0)]);
    assert_eq!(what[3..], [What::Ended(1), What::Ended(2), status(Status::Succeeded)]);
    assert_eq!(jobs.events(id, &events[3].id, 1).await.unwrap(), events[4..5]);
    assert!(jobs.events(id, &events[5].id, 1).await.unwrap().is_empty());

    // What was known before is not queued.
    let mut known = job(&["x", "y"]);
    known.inputs[1].known = Some(answer("y"));
    let half = jobs.submit(known.clone()).await.unwrap();
    assert_eq!(state(&jobs, half).await.done, 1);
    known.inputs[0].known = Some(error());
    let all = state(&jobs, jobs.submit(known).await.unwrap()).await;
    assert_eq!((all.status, all.done, all.failed, all.runs), (Status::Failed, 1, 1, 0));
    answer_all(&jobs).await;
    assert_eq!(state(&jobs, half).await.status, Status::Succeeded);

    // Whoever cancels stops what has not begun, and no late answer counts.
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    let begun = take(&jobs, 1).await;
    jobs.begin(&begun[0]).await.unwrap();
    assert!(jobs.cancel(id).await.unwrap());
    assert!(!jobs.cancel(id).await.unwrap());
    assert!(!jobs.finish(&begun[0], &answer("a")).await.unwrap());
    assert!(take(&jobs, 10).await.is_empty());
    let cancelled = state(&jobs, id).await;
    assert_eq!((cancelled.status, cancelled.done), (Status::Cancelled, 0));

    // What failed can be tried again; nothing else can.
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    assert_eq!(jobs.retry(id).await.unwrap(), None);
    let taken = take(&jobs, 2).await;
    for (delivery, outcome) in taken.iter().zip([error(), answer("b")]) {
        jobs.begin(delivery).await.unwrap();
        jobs.finish(delivery, &outcome).await.unwrap();
    }
    assert_eq!(state(&jobs, id).await.status, Status::Failed);
    assert_eq!(jobs.retry(id).await.unwrap(), Some(1));
    answer_all(&jobs).await;
    let retried = state(&jobs, id).await;
    assert_eq!((retried.status, retried.done, retried.failed), (Status::Succeeded, 2, 0));

    // The same key is the same job.
    let once = |digest: &str| Some(Once { key: "k".to_owned(), digest: digest.to_owned() });
    let first = jobs.submit(NewJob { once: once("d"), ..job(&["a"]) }).await.unwrap();
    assert_eq!(jobs.submit(NewJob { once: once("d"), ..job(&["a"]) }).await.unwrap(), first);
    assert_eq!(jobs.submit(NewJob { once: once("e"), ..job(&["b"]) }).await, Err(JobError::Conflict));
    answer_all(&jobs).await;
    assert_eq!(state(&jobs, first).await.runs, 1);

    // Lists begin with the newest.
    let all = jobs.list(|_| true, 0, 100).await.unwrap();
    assert!(all.windows(2).all(|pair| pair[0].created_ms >= pair[1].created_ms));
    let cancelled = jobs.list(|job| job.status == Status::Cancelled, 0, 100).await.unwrap();
    assert_eq!(cancelled.len(), 1);
    assert_eq!(jobs.list(|_| true, 1, 2).await.unwrap(), all[1..3]);

    // A full queue says how long it is.
    let many: Vec<&str> = vec!["a"; LIMITS.queue_length];
    jobs.submit(job(&many)).await.unwrap();
    assert_eq!(jobs.submit(job(&["a"])).await, Err(JobError::Long(100)));
    assert_eq!(jobs.find(JobId::random()).await.unwrap(), Found::Unknown);
}

#[tokio::test]
async fn the_queue_in_redis_keeps_the_promises() {
    let Some(redis) = Redis::start("jobs") else { return };
    keeps_the_promises(over(&redis)).await;
}

#[tokio::test]
async fn the_queue_in_the_process_keeps_the_promises() {
    keeps_the_promises(local()).await;
}

/// An answer of the model with this digest.
fn told_by(digest: &str) -> Outcome {
    Outcome::Answer(format!("{{\"model_digest\":\"{digest}\"}}"))
}

/// Has the inputs that wait answered, each by the model of the next of `digests`; an empty one is an error.
async fn answer_by(jobs: &Jobs, digests: &[&str]) {
    for (delivery, digest) in take(jobs, 100).await.iter().zip(digests) {
        jobs.begin(delivery).await.unwrap().unwrap();
        let outcome = if digest.is_empty() { error() } else { told_by(digest) };
        assert!(jobs.finish(delivery, &outcome).await.unwrap());
    }
}

/// What holds of a job that has the content of an earlier one.
async fn repeats_what_has_succeeded(jobs: Jobs) {
    let content = |digest: &str| Content { digest: digest.to_owned(), model_digest: "d1".to_owned() };
    let with = |digest| NewJob { content: Some(content(digest)), ..job(&["a", "b"]) };
    assert_eq!(jobs.repeat("m", &content("first"), &Caller::default()).await.unwrap(), None, "there is none");

    let first = jobs.submit(with("first")).await.unwrap();
    assert_eq!(jobs.repeat("m", &content("first"), &Caller::default()).await.unwrap(), None, "it has not ended");
    answer_by(&jobs, &["d1", "d1"]).await;
    let again = jobs.repeat("m", &content("first"), &Caller::default()).await.unwrap().unwrap();
    assert_ne!(again, first, "whoever asks has a job of his own");
    let (of_again, of_first) = (state(&jobs, again).await, state(&jobs, first).await);
    assert_eq!((of_again.status, of_again.total, of_again.done, of_again.runs), (Status::Succeeded, 2, 2, 0));
    assert!(of_again.created_ms >= of_first.finished_ms.unwrap() && of_again.expires_ms >= of_first.expires_ms);
    assert_eq!(jobs.names(again, 0..2).await.unwrap(), ["a.png", "b.png"]);
    assert_eq!(jobs.results(again, &[0, 1], usize::MAX).await.unwrap(), [Some(told_by("d1")), Some(told_by("d1"))]);
    assert_eq!(jobs.events(again, "", 9).await.unwrap().last().unwrap().what, What::Status(Status::Succeeded));
    assert!(jobs.list(|_| true, 0, 9).await.unwrap().iter().any(|job| job.id == again));
    assert_eq!(jobs.repeat("m", &content("other"), &Caller::default()).await.unwrap(), None);
    assert_eq!(jobs.repeat("other", &content("first"), &Caller::default()).await.unwrap(), None);

    // Not a job that failed, nor one that another model answered, in whatever order.
    for (name, digests) in [("failed", ["d1", ""]), ("changed", ["d1", "d2"]), ("replaced", ["d2", "d1"])] {
        jobs.submit(with(name)).await.unwrap();
        answer_by(&jobs, &digests).await;
        assert_eq!(jobs.repeat("m", &content(name), &Caller::default()).await.unwrap(), None, "{name}");
    }

    // Nor one that was to be forgotten, even if it ends afterwards.
    jobs.submit(with("forgotten")).await.unwrap();
    jobs.forget("m").await.unwrap();
    answer_by(&jobs, &["d1", "d1"]).await;
    assert_eq!(jobs.repeat("m", &content("forgotten"), &Caller::default()).await.unwrap(), None);
    assert_eq!(jobs.repeat("m", &content("first"), &Caller::default()).await.unwrap(), None);
    assert_eq!(state(&jobs, again).await.status, Status::Succeeded, "jobs stay");
}

#[tokio::test]
async fn the_queue_in_redis_repeats_what_has_succeeded() {
    let Some(redis) = Redis::start("jobs-repeat") else { return };
    repeats_what_has_succeeded(over(&redis)).await;
}

#[tokio::test]
async fn the_queue_in_the_process_repeats_what_has_succeeded() {
    repeats_what_has_succeeded(local()).await;
}

#[tokio::test]
async fn what_is_older_than_it_may_be_is_not_repeated() {
    let limits = JobLimits { repeat_within: Duration::from_millis(20), ..LIMITS };
    let Some(redis) = Redis::start("jobs-repeat-age") else { return };
    for jobs in [with(&redis, limits), Jobs::Local(LocalJobs::new(limits))] {
        let content = Content { digest: "c".to_owned(), model_digest: "d1".to_owned() };
        jobs.submit(NewJob { content: Some(content.clone()), ..job(&["a"]) }).await.unwrap();
        answer_by(&jobs, &["d1"]).await;
        sleep(Duration::from_millis(40)).await;
        assert_eq!(jobs.repeat("m", &content, &Caller::default()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_job_in_redis_outlives_the_group_of_its_workers_and_every_connection() {
    let Some(redis) = Redis::start("jobs-group") else { return };
    let jobs = over(&redis);
    let id = jobs.submit(job(&["a", "b"])).await.unwrap();
    take(&jobs, 1).await;
    let mut client = redis.client();
    let mut destroy = redis::cmd("XGROUP");
    let _: () = destroy.arg("DESTROY").arg("mlserve:{jobs}:queue:m").arg("workers").query(&mut client).unwrap();
    let _: () =
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes").query(&mut client).unwrap();
    sleep(Duration::from_millis(100)).await;
    for _ in 0..20 {
        if let Ok(taken) = jobs.take("m", 10).await {
            for delivery in taken {
                jobs.begin(&delivery).await.unwrap();
                jobs.finish(&delivery, &answer("x")).await.unwrap();
            }
        }
        if state(&jobs, id).await.status == Status::Succeeded {
            return;
        }
    }
    panic!("{:?}", state(&jobs, id).await);
}

#[tokio::test]
async fn a_job_is_forgotten_when_its_time_is_over_and_nothing_of_it_stays() {
    let Some(redis) = Redis::start("jobs-expiry") else { return };
    let jobs = with(&redis, JobLimits { ttl: Duration::from_millis(20), ..LIMITS });
    let once = Some(Once { key: "k".to_owned(), digest: "d".to_owned() });
    let content = Content { digest: "c".to_owned(), model_digest: "d1".to_owned() };
    let id = jobs.submit(NewJob { once, content: Some(content.clone()), ..job(&["a"]) }).await.unwrap();
    answer_by(&jobs, &["d1"]).await;
    let again = jobs.repeat("m", &content, &Caller::default()).await.unwrap().unwrap();
    let mut client = redis.client();
    for key in client.keys::<_, Vec<String>>("*").unwrap() {
        assert_eq!(client.ttl::<_, i64>(&key).unwrap(), -1, "{key} could be evicted");
    }
    sleep(Duration::from_millis(40)).await;
    jobs.sweep().await.unwrap();
    assert_eq!(jobs.find(id).await.unwrap(), Found::Gone);
    assert_eq!(jobs.find(again).await.unwrap(), Found::Gone);
    let mut left = client.keys::<_, Vec<String>>("*").unwrap();
    left.sort();
    assert_eq!(left, ["mlserve:{jobs}:gone", "mlserve:{jobs}:queue:m", "mlserve:{jobs}:queues"]);
}

#[tokio::test]
async fn what_was_uploaded_for_a_job_that_is_refused_takes_no_room() {
    let Some(redis) = Redis::start("jobs-refused") else { return };
    let jobs = over(&redis);
    let many: Vec<&str> = vec!["a"; LIMITS.queue_length + 1];
    assert_eq!(jobs.submit(job(&many)).await, Err(JobError::Long(0)));
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}

#[tokio::test]
async fn an_upload_that_nobody_submits_is_known_to_expire() {
    let Some(redis) = Redis::start("jobs-upload") else { return };
    over(&redis).prepare().await.unwrap();
    let (mut client, id) = (redis.client(), JobId::random());
    let mut upload = redis::cmd("FCALL");
    upload.arg("mlserve_upload").arg(1).arg(format!("mlserve:{{jobs}}:inputs:{id}")).arg(0).arg("a");
    let _: i64 = upload.query(&mut client).unwrap();
    let expiring: Vec<String> = client.zrange("mlserve:{jobs}:expiring", 0, -1).unwrap();
    assert_eq!(expiring, [id.to_string()]);
}

#[test]
fn an_id_has_32_digits_and_nothing_else_is_one() {
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
