use super::kept::{EVENT_BYTES, INPUT_BYTES, JOB_BYTES};
use super::*;
use crate::jobs::{Asked, Input, Kind, Skipped};

const LEASE: Duration = Duration::from_mins(1);

fn ended_with_a_webhook() -> (LocalJobs, JobId) {
    let ttl = Duration::from_hours(24);
    let limits = JobLimits { ttl, queue_length: 10, repeat_within: ttl, claim_after: ttl, max_deliveries: 3 };
    let jobs = LocalJobs::new(limits);
    let asked = Asked { kind: Kind::Image, version: None, content_type: String::new(), json_length: None, top_k: None };
    let inputs = vec![Input { name: String::new(), data: Bytes::from_static(b"i"), known: None }];
    let webhook = Some("http://hooks.example.org/".to_owned());
    let job = NewJob {
        model: "m".to_owned(),
        asked,
        inputs: Vec::new(),
        once: None,
        content: None,
        webhook,
        ttl: None,
        skipped: Skipped::default(),
    };
    let mut upload = jobs.upload();
    for input in inputs {
        upload.push(input).unwrap();
    }
    let id = jobs.submit(upload, job).unwrap();
    assert!(jobs.claim_webhooks(9, LEASE).is_empty(), "the job has not ended");
    let taken = jobs.take_now("m", 1);
    assert!(jobs.finish(&taken[0], &Outcome::Error("{}".to_owned())));
    (jobs, id)
}

fn webhook(jobs: &LocalJobs, id: JobId) -> Webhook {
    match jobs.find(id) {
        Found::Job(job) => job.webhook.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_claimed_once_until_its_lease_is_over() {
    let (jobs, id) = ended_with_a_webhook();
    let first = jobs.claim_webhooks(9, LEASE);
    assert_eq!(first.iter().map(|claim| claim.job).collect::<Vec<_>>(), [id]);
    assert!(jobs.claim_webhooks(9, LEASE).is_empty());
    tokio::time::advance(LEASE).await;
    let second = jobs.claim_webhooks(9, LEASE);
    assert_eq!((second.len(), webhook(&jobs, id).tries), (1, 2));
    assert!(!jobs.settle_webhook(&first[0], &Tried::Delivered));
    assert!(jobs.settle_webhook(&second[0], &Tried::Again(LEASE, "it answered 500".to_owned())));
    assert_eq!(webhook(&jobs, id).error.as_deref(), Some("it answered 500"));
    assert!(jobs.claim_webhooks(9, LEASE).is_empty());
    tokio::time::advance(LEASE).await;
    let third = jobs.claim_webhooks(9, LEASE);
    assert!(jobs.settle_webhook(&third[0], &Tried::Delivered));
    let told = Webhook { told: Some(Told::Delivered), tries: 3, ..Webhook::new(webhook(&jobs, id).url) };
    assert_eq!(webhook(&jobs, id), told);
    assert!(!jobs.settle_webhook(&third[0], &Tried::GivenUp("late".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_tried_again_is_told_of_anew() {
    let (jobs, id) = ended_with_a_webhook();
    let claim = jobs.claim_webhooks(9, LEASE);
    assert_eq!(jobs.retry(id), Some(1));
    assert!(!jobs.settle_webhook(&claim[0], &Tried::Delivered));
    assert_eq!(webhook(&jobs, id), Webhook::new(webhook(&jobs, id).url));
    assert!(jobs.cancel(id));
    assert_eq!(jobs.claim_webhooks(9, LEASE).len(), 1);
}

fn limits() -> JobLimits {
    let ttl = Duration::from_hours(24);
    JobLimits { ttl, queue_length: 1 << 20, repeat_within: ttl, claim_after: ttl, max_deliveries: 3 }
}

fn new_job() -> NewJob {
    NewJob {
        model: "m".to_owned(),
        asked: Asked { kind: Kind::V2, version: None, content_type: String::new(), json_length: None, top_k: None },
        inputs: Vec::new(),
        once: None,
        content: None,
        webhook: None,
        ttl: None,
        skipped: Skipped::default(),
    }
}

fn submit(jobs: &LocalJobs, inputs: usize, name: usize, data: usize) -> Result<JobId, JobError> {
    let mut upload = jobs.upload();
    for _ in 0..inputs {
        upload.push(Input { name: "n".repeat(name), data: vec![0; data].into(), known: None })?;
    }
    jobs.submit(upload, new_job())
}

#[tokio::test(start_paused = true)]
async fn names_count_and_all_memory_comes_back_when_jobs_expire() {
    let jobs = LocalJobs::new(limits());
    let mut accepted = 0;
    while submit(&jobs, 10_000, 800, 2).is_ok() {
        accepted += 1;
    }
    // 10,000 names of 800 bytes are more than 8 MB.
    assert!((10..25).contains(&accepted), "{accepted}");
    assert!(jobs.state().bytes <= MAX_ACCEPTED_BYTES);
    for delivery in jobs.take_now("m", usize::MAX) {
        jobs.begin(&delivery);
        jobs.finish(&delivery, &Outcome::Answer("{}".to_owned()));
    }
    tokio::time::advance(Duration::from_hours(25)).await;
    jobs.sweep();
    assert_eq!(jobs.state().bytes, 0);
}

#[test]
fn many_small_jobs_count_with_all_that_keeps_them() {
    let jobs = LocalJobs::new(limits());
    let accepted = (0..1_000_000).take_while(|_| submit(&jobs, 1, 0, 1).is_ok()).count();
    assert!(accepted <= MAX_ACCEPTED_BYTES / (JOB_BYTES + INPUT_BYTES), "{accepted}");
}

#[test]
fn a_result_without_room_is_a_failure_that_says_so_and_frees_nothing_of_others() {
    let jobs = LocalJobs::new(limits());
    let id = submit(&jobs, 3, 0, 1).unwrap();
    let deliveries = jobs.take_now("m", 3);
    let large = Outcome::Answer("0".repeat(MAX_BYTES / 2));
    assert!(jobs.finish(&deliveries[0], &large));
    assert!(jobs.finish(&deliveries[1], &large));
    assert!(jobs.finish(&deliveries[2], &Outcome::Answer("{}".to_owned())));
    let results = jobs.results(id, &[0, 1, 2], MAX_BYTES);
    let Some(Outcome::Error(error)) = &results[1] else { panic!("there is no room for it") };
    assert!(error.contains("\"status\":507") && error.contains("has no room"), "{error}");
    assert_eq!(results[0].as_ref(), Some(&large));
    assert!(jobs.state().bytes <= MAX_BYTES + (1 << 10));
    assert_eq!(jobs.retry(id), Some(1));
    let before = jobs.state().bytes;
    assert!(jobs.cancel(id));
    assert!(jobs.state().bytes < before + EVENT_BYTES);
}

#[test]
fn an_input_does_not_keep_the_body_that_it_is_part_of() {
    let jobs = LocalJobs::new(limits());
    let body = Bytes::from(vec![0; 1 << 20]);
    let mut upload = jobs.upload();
    upload.push(Input { name: String::new(), data: body.slice(..10), known: None }).unwrap();
    jobs.submit(upload, new_job()).unwrap();
    assert!(body.is_unique());
}
