use std::time::Duration;

use super::job::{EVENT_BYTES, INPUT_BYTES, JOB_BYTES};
use super::*;
use crate::jobs::{DeliveryAttempt, DeliveryStatus, Input, InputKind, InputSpec, JobLookup, SkippedFiles};

const LEASE: Duration = Duration::from_mins(1);

fn finished_job_with_webhook() -> (InMemoryJobs, JobId) {
    let ttl = Duration::from_hours(24);
    let limits = JobLimits { ttl, max_queue_length: 10, dedup_window: ttl, claim_timeout: ttl, max_deliveries: 3 };
    let jobs = InMemoryJobs::new(limits);
    let spec = InputSpec {
        kind: InputKind::Image,
        version: None,
        content_type: String::new(),
        json_length: None,
        top_k: None,
    };
    let inputs = vec![Input { name: String::new(), data: Bytes::from_static(b"i"), outcome: None }];
    let webhook = Some("http://hooks.example.org/".to_owned());
    let job = NewJob {
        model: "m".to_owned(),
        spec,
        inputs: Vec::new(),
        idempotency_key: None,
        dedup_key: None,
        webhook,
        ttl: None,
        skipped: SkippedFiles::default(),
    };
    let mut upload = jobs.upload();
    for input in inputs {
        upload.push(input).unwrap();
    }
    let id = jobs.submit(upload, job).unwrap();
    assert!(jobs.claim_webhooks(9, LEASE).is_empty(), "the job is not finished");
    let deliveries = jobs.receive_now("m", 1);
    assert!(jobs.finish(&deliveries[0], &Outcome::Error("{}".to_owned())));
    (jobs, id)
}

fn webhook(jobs: &InMemoryJobs, id: JobId) -> Webhook {
    match jobs.find(id) {
        JobLookup::Found(job) => job.webhook.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_is_claimed_once_until_its_lease_expires() {
    let (jobs, id) = finished_job_with_webhook();
    let first = jobs.claim_webhooks(9, LEASE);
    assert_eq!(first.iter().map(|claim| claim.job).collect::<Vec<_>>(), [id]);
    assert!(jobs.claim_webhooks(9, LEASE).is_empty());
    tokio::time::advance(LEASE).await;
    let second = jobs.claim_webhooks(9, LEASE);
    assert_eq!((second.len(), webhook(&jobs, id).attempts), (1, 2));
    assert!(!jobs.record_delivery(&first[0], &DeliveryAttempt::Delivered));
    assert!(jobs.record_delivery(&second[0], &DeliveryAttempt::Retry(LEASE, "the receiver returned 500".to_owned())));
    assert_eq!(webhook(&jobs, id).error.as_deref(), Some("the receiver returned 500"));
    assert!(jobs.claim_webhooks(9, LEASE).is_empty());
    tokio::time::advance(LEASE).await;
    let third = jobs.claim_webhooks(9, LEASE);
    assert!(jobs.record_delivery(&third[0], &DeliveryAttempt::Delivered));
    let delivered =
        Webhook { delivery: Some(DeliveryStatus::Delivered), attempts: 3, ..Webhook::new(webhook(&jobs, id).url) };
    assert_eq!(webhook(&jobs, id), delivered);
    assert!(!jobs.record_delivery(&third[0], &DeliveryAttempt::GaveUp("late".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn retrying_a_job_resets_its_webhook() {
    let (jobs, id) = finished_job_with_webhook();
    let claim = jobs.claim_webhooks(9, LEASE);
    assert_eq!(jobs.retry(id), Some(1));
    assert!(!jobs.record_delivery(&claim[0], &DeliveryAttempt::Delivered));
    assert_eq!(webhook(&jobs, id), Webhook::new(webhook(&jobs, id).url));
    assert!(jobs.cancel(id));
    assert_eq!(jobs.claim_webhooks(9, LEASE).len(), 1);
}

fn limits() -> JobLimits {
    let ttl = Duration::from_hours(24);
    JobLimits { ttl, max_queue_length: 1 << 20, dedup_window: ttl, claim_timeout: ttl, max_deliveries: 3 }
}

fn new_job() -> NewJob {
    NewJob {
        model: "m".to_owned(),
        spec: InputSpec {
            kind: InputKind::V2,
            version: None,
            content_type: String::new(),
            json_length: None,
            top_k: None,
        },
        inputs: Vec::new(),
        idempotency_key: None,
        dedup_key: None,
        webhook: None,
        ttl: None,
        skipped: SkippedFiles::default(),
    }
}

fn submit(jobs: &InMemoryJobs, inputs: usize, name: usize, data: usize) -> Result<JobId, JobError> {
    let mut upload = jobs.upload();
    for _ in 0..inputs {
        upload.push(Input { name: "n".repeat(name), data: vec![0; data].into(), outcome: None })?;
    }
    jobs.submit(upload, new_job())
}

#[tokio::test(start_paused = true)]
async fn names_count_and_expired_jobs_free_all_memory() {
    let jobs = InMemoryJobs::new(limits());
    let mut accepted = 0;
    while submit(&jobs, 10_000, 800, 2).is_ok() {
        accepted += 1;
    }
    // 10,000 names of 800 bytes use more than 8 MB.
    assert!((10..25).contains(&accepted), "{accepted}");
    assert!(jobs.state.lock().bytes <= MAX_ACCEPTED_BYTES);
    for delivery in jobs.receive_now("m", usize::MAX) {
        jobs.start(&delivery);
        jobs.finish(&delivery, &Outcome::Success("{}".to_owned()));
    }
    tokio::time::advance(Duration::from_hours(25)).await;
    jobs.sweep();
    assert_eq!(jobs.state.lock().bytes, 0);
}

#[test]
fn small_jobs_count_with_their_overhead() {
    let jobs = InMemoryJobs::new(limits());
    let accepted = (0..1_000_000).take_while(|_| submit(&jobs, 1, 0, 1).is_ok()).count();
    assert!(accepted <= MAX_ACCEPTED_BYTES / (JOB_BYTES + INPUT_BYTES), "{accepted}");
}

#[test]
fn a_result_without_memory_becomes_an_error_and_frees_nothing_of_others() {
    let jobs = InMemoryJobs::new(limits());
    let id = submit(&jobs, 3, 0, 1).unwrap();
    let deliveries = jobs.receive_now("m", 3);
    let large = Outcome::Success("0".repeat(MAX_BYTES / 2));
    assert!(jobs.finish(&deliveries[0], &large));
    assert!(jobs.finish(&deliveries[1], &large));
    assert!(jobs.finish(&deliveries[2], &Outcome::Success("{}".to_owned())));
    let results = jobs.results(id, &[0, 1, 2], usize::MAX);
    let Some(Outcome::Error(error)) = &results[1] else { panic!("the second result must not fit") };
    assert!(error.contains("\"status\":507") && error.contains("has no room"), "{error}");
    assert_eq!(results[0].as_ref(), Some(&large));
    assert!(jobs.state.lock().bytes <= MAX_BYTES + (1 << 10));
    assert_eq!(jobs.retry(id), Some(1));
    let before = jobs.state.lock().bytes;
    assert!(jobs.cancel(id));
    assert!(jobs.state.lock().bytes < before + EVENT_BYTES);
}

#[test]
fn an_input_does_not_keep_its_request_body_alive() {
    let jobs = InMemoryJobs::new(limits());
    let body = Bytes::from(vec![0; 1 << 20]);
    let mut upload = jobs.upload();
    upload.push(Input { name: String::new(), data: body.slice(..10), outcome: None }).unwrap();
    jobs.submit(upload, new_job()).unwrap();
    assert!(body.is_unique());
}
