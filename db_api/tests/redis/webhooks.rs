//! Webhook claims: one process at a time attempts a delivery.

use std::time::Duration;

use db_api::jobs::{
    DeliveryAttempt, DeliveryStatus, Input, InputKind, InputSpec, JobId, JobLimits, JobLookup, Jobs, NewJob, Outcome,
    RedisJobs, SkippedFiles, Webhook, WebhookClaim,
};
use futures_util::future::join_all;
use redis::Commands;
use tokio::time::sleep;

use crate::server::Redis;

fn jobs_of(redis: &Redis) -> Jobs {
    let limits = JobLimits {
        ttl: Duration::from_hours(1),
        max_queue_length: 100,
        dedup_window: Duration::from_hours(1),
        claim_timeout: Duration::from_mins(1),
        max_deliveries: 3,
    };
    Jobs::Redis(RedisJobs::new(&redis.url(), limits).unwrap())
}

async fn submit(jobs: &Jobs, webhook: Option<&str>) -> JobId {
    let spec = InputSpec {
        kind: InputKind::Image,
        version: None,
        content_type: String::new(),
        json_length: None,
        top_k: None,
    };
    let inputs = vec![Input { name: String::new(), data: b"image".as_slice().into(), outcome: None }];
    let webhook = webhook.map(str::to_owned);
    let skipped = SkippedFiles::default();
    let model = "mnist".to_owned();
    jobs.submit(NewJob { model, spec, inputs, idempotency_key: None, dedup_key: None, webhook, ttl: None, skipped })
        .await
        .unwrap()
}

async fn webhook(jobs: &Jobs, id: JobId) -> Webhook {
    match jobs.find(id).await.unwrap() {
        JobLookup::Found(job) => job.webhook.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn claim(jobs: &Jobs, lease: Duration) -> Vec<WebhookClaim> {
    jobs.claim_webhooks(100, lease).await.unwrap()
}

#[tokio::test]
async fn each_due_webhook_is_claimed_by_one_process() {
    let Some(redis) = Redis::start("webhooks") else { return };
    let replicas = [jobs_of(&redis), jobs_of(&redis), jobs_of(&redis)];
    let mut ended = Vec::new();
    for _ in 0..20 {
        let id = submit(&replicas[0], Some("http://hooks.example.org/")).await;
        assert!(replicas[0].cancel(id).await.unwrap());
        ended.push(id.to_string());
    }
    // One job is not finished, and one has no webhook.
    submit(&replicas[0], Some("http://hooks.example.org/")).await;
    let without_webhook = submit(&replicas[0], None).await;
    replicas[0].cancel(without_webhook).await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..10 {
        let batches = replicas.each_ref().map(|jobs| jobs.claim_webhooks(3, Duration::from_mins(1)));
        claims.extend(join_all(batches).await.into_iter().flat_map(Result::unwrap));
    }
    let mut claimed: Vec<String> = claims.iter().map(|claim| claim.job.to_string()).collect();
    claimed.sort_unstable();
    ended.sort_unstable();
    assert_eq!(claimed, ended);
}

#[tokio::test]
async fn a_webhook_is_retried_and_recorded_once_even_after_a_restart() {
    let Some(redis) = Redis::start("webhook-tries") else { return };
    let jobs = jobs_of(&redis);
    let id = submit(&jobs, Some("http://hooks.example.org/")).await;
    jobs.cancel(id).await.unwrap();
    let crashed = claim(&jobs, Duration::from_millis(1)).await;
    sleep(Duration::from_millis(20)).await;
    // Another process, with no state but that in Redis.
    let jobs = jobs_of(&redis);
    let second = claim(&jobs, Duration::from_mins(1)).await;
    assert!(!jobs.record_delivery(&crashed[0], &DeliveryAttempt::Delivered).await.unwrap());
    let again = DeliveryAttempt::Retry(Duration::from_millis(50), "the receiver returned 500".to_owned());
    assert!(jobs.record_delivery(&second[0], &again).await.unwrap());
    assert!(!jobs.record_delivery(&second[0], &again).await.unwrap());
    let failed = webhook(&jobs, id).await;
    assert_eq!(
        (failed.attempts, failed.delivery, failed.error.as_deref()),
        (2, None, Some("the receiver returned 500"))
    );
    assert!(claim(&jobs, Duration::from_mins(1)).await.is_empty());
    sleep(Duration::from_millis(60)).await;
    let third = claim(&jobs, Duration::from_mins(1)).await;
    assert!(jobs.record_delivery(&third[0], &DeliveryAttempt::Delivered).await.unwrap());
    let delivered = webhook(&jobs, id).await;
    assert_eq!((delivered.attempts, delivered.delivery, delivered.error), (3, Some(DeliveryStatus::Delivered), None));
    assert_eq!(redis.client().zcard::<_, u64>("mlserve:{jobs}:webhooks").unwrap(), 0);
}

#[tokio::test]
async fn retrying_a_job_resets_its_webhook() {
    let Some(redis) = Redis::start("webhook-reset") else { return };
    let jobs = jobs_of(&redis);
    let id = submit(&jobs, Some("http://hooks.example.org/")).await;
    let mut deliveries = Vec::new();
    while deliveries.is_empty() {
        deliveries = jobs.receive("mnist", 1).await.unwrap();
    }
    assert!(jobs.start(&deliveries[0]).await.unwrap().is_some());
    assert!(jobs.finish(&deliveries[0], &Outcome::Error("{}".to_owned())).await.unwrap());
    let before = claim(&jobs, Duration::from_mins(1)).await;
    assert_eq!((before.len(), webhook(&jobs, id).await.attempts), (1, 1));
    assert_eq!(jobs.retry(id).await.unwrap(), Some(1));
    assert!(!jobs.record_delivery(&before[0], &DeliveryAttempt::GaveUp("gone".to_owned())).await.unwrap());
    let reset = webhook(&jobs, id).await;
    assert_eq!((reset.attempts, reset.delivery, reset.error), (0, None, None));
    assert!(claim(&jobs, Duration::from_mins(1)).await.is_empty());
    jobs.cancel(id).await.unwrap();
    assert_eq!(claim(&jobs, Duration::from_mins(1)).await.len(), 1);
}
