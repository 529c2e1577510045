//! Which process calls a webhook.

use std::time::Duration;

use db_api::jobs::{
    Asked, Found, Input, JobId, JobLimits, Jobs, Kind, NewJob, Outcome, RedisJobs, Skipped, Told, Tried, Webhook,
    WebhookClaim,
};
use futures_util::future::join_all;
use redis::Commands;
use tokio::time::sleep;

use crate::server::Redis;

fn jobs_of(redis: &Redis) -> Jobs {
    let limits = JobLimits {
        ttl: Duration::from_hours(1),
        queue_length: 100,
        repeat_within: Duration::from_hours(1),
        claim_after: Duration::from_mins(1),
        max_deliveries: 3,
    };
    Jobs::Redis(RedisJobs::new(&redis.url(), limits).unwrap())
}

async fn submit(jobs: &Jobs, webhook: Option<&str>) -> JobId {
    let asked = Asked { kind: Kind::Image, version: None, content_type: String::new(), json_length: None, top_k: None };
    let inputs = vec![Input { name: String::new(), data: b"image".as_slice().into(), known: None }];
    let webhook = webhook.map(str::to_owned);
    let skipped = Skipped::default();
    let model = "mnist".to_owned();
    jobs.submit(NewJob { model, asked, inputs, once: None, content: None, webhook, ttl: None, skipped }).await.unwrap()
}

async fn webhook(jobs: &Jobs, id: JobId) -> Webhook {
    match jobs.find(id).await.unwrap() {
        Found::Job(job) => job.webhook.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn claim(jobs: &Jobs, lease: Duration) -> Vec<WebhookClaim> {
    jobs.claim_webhooks(100, lease).await.unwrap()
}

#[tokio::test]
async fn each_webhook_that_is_due_is_claimed_by_one_process() {
    let Some(redis) = Redis::start("webhooks") else { return };
    let replicas = [jobs_of(&redis), jobs_of(&redis), jobs_of(&redis)];
    let mut ended = Vec::new();
    for _ in 0..20 {
        let id = submit(&replicas[0], Some("http://hooks.example.org/")).await;
        assert!(replicas[0].cancel(id).await.unwrap());
        ended.push(id.to_string());
    }
    // One that runs, and one that nobody is told of.
    submit(&replicas[0], Some("http://hooks.example.org/")).await;
    let untold = submit(&replicas[0], None).await;
    replicas[0].cancel(untold).await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..10 {
        let few = replicas.each_ref().map(|jobs| jobs.claim_webhooks(3, Duration::from_mins(1)));
        claims.extend(join_all(few).await.into_iter().flat_map(Result::unwrap));
    }
    let mut claimed: Vec<String> = claims.iter().map(|claim| claim.job.to_string()).collect();
    claimed.sort_unstable();
    ended.sort_unstable();
    assert_eq!(claimed, ended);
}

#[tokio::test]
async fn a_webhook_is_tried_again_and_settled_once_also_after_a_restart() {
    let Some(redis) = Redis::start("webhook-tries") else { return };
    let jobs = jobs_of(&redis);
    let id = submit(&jobs, Some("http://hooks.example.org/")).await;
    jobs.cancel(id).await.unwrap();
    let crashed = claim(&jobs, Duration::from_millis(1)).await;
    sleep(Duration::from_millis(20)).await;
    // Another process, and all it knows is in Redis.
    let jobs = jobs_of(&redis);
    let second = claim(&jobs, Duration::from_mins(1)).await;
    assert!(!jobs.settle_webhook(&crashed[0], &Tried::Delivered).await.unwrap());
    let again = Tried::Again(Duration::from_millis(50), "it answered 500".to_owned());
    assert!(jobs.settle_webhook(&second[0], &again).await.unwrap());
    assert!(!jobs.settle_webhook(&second[0], &again).await.unwrap());
    let failed = webhook(&jobs, id).await;
    assert_eq!((failed.tries, failed.told, failed.error.as_deref()), (2, None, Some("it answered 500")));
    assert!(claim(&jobs, Duration::from_mins(1)).await.is_empty());
    sleep(Duration::from_millis(60)).await;
    let third = claim(&jobs, Duration::from_mins(1)).await;
    assert!(jobs.settle_webhook(&third[0], &Tried::Delivered).await.unwrap());
    let told = webhook(&jobs, id).await;
    assert_eq!((told.tries, told.told, told.error), (3, Some(Told::Delivered), None));
    assert_eq!(redis.client().zcard::<_, u64>("mlserve:{jobs}:webhooks").unwrap(), 0);
}

#[tokio::test]
async fn a_job_that_is_tried_again_is_told_of_anew() {
    let Some(redis) = Redis::start("webhook-anew") else { return };
    let jobs = jobs_of(&redis);
    let id = submit(&jobs, Some("http://hooks.example.org/")).await;
    let mut taken = Vec::new();
    while taken.is_empty() {
        taken = jobs.take("mnist", 1).await.unwrap();
    }
    assert!(jobs.begin(&taken[0]).await.unwrap().is_some());
    assert!(jobs.finish(&taken[0], &Outcome::Error("{}".to_owned())).await.unwrap());
    let before = claim(&jobs, Duration::from_mins(1)).await;
    assert_eq!((before.len(), webhook(&jobs, id).await.tries), (1, 1));
    assert_eq!(jobs.retry(id).await.unwrap(), Some(1));
    assert!(!jobs.settle_webhook(&before[0], &Tried::GivenUp("gone".to_owned())).await.unwrap());
    let anew = webhook(&jobs, id).await;
    assert_eq!((anew.tries, anew.told, anew.error), (0, None, None));
    assert!(claim(&jobs, Duration::from_mins(1)).await.is_empty());
    jobs.cancel(id).await.unwrap();
    assert_eq!(claim(&jobs, Duration::from_mins(1)).await.len(), 1);
}
