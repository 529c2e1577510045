//! Workers that die, that drop deliveries, and that requeue them.

use db_api::jobs::{JobStatus, Jobs, Outcome};
use tokio::time::sleep;

use crate::jobs::{
    LIMITS, dead_letters, find_job, finish_all_inputs, in_memory_jobs, job, receive, redis_jobs, success,
};
use crate::server::Redis;

/// Waits for longer than [`JobLimits::claim_timeout`](db_api::jobs::JobLimits::claim_timeout), so that every worker looks dead.
async fn exceed_claim_timeout() {
    sleep(LIMITS.claim_timeout * 2).await;
}

#[tokio::test]
async fn an_input_fails_after_the_third_death_of_a_worker_that_had_started_it() {
    let Some(redis) = Redis::start("jobs-death") else { return };
    let id = redis_jobs(&redis).submit(job(&["a", "b"])).await.unwrap();
    let worker = redis_jobs(&redis);
    let dead_worker = redis_jobs(&redis);
    let held = receive(&dead_worker, 10).await;
    assert_eq!(held.len(), 2);
    dead_worker.start(&held[0]).await.unwrap().unwrap();
    dead_worker.start(&held[1]).await.unwrap().unwrap();
    assert!(worker.claim_stale("m", 10).await.unwrap().is_empty(), "the worker may still be alive");
    exceed_claim_timeout().await;
    let taken = worker.claim_stale("m", 1).await.unwrap();
    assert_eq!(taken, [held[0].clone()]);
    worker.start(&taken[0]).await.unwrap();
    assert!(worker.finish(&taken[0], &success("a")).await.unwrap());
    for _ in 0..2 {
        let dead_worker = redis_jobs(&redis);
        let taken = dead_worker.claim_stale("m", 10).await.unwrap();
        assert_eq!(taken, [held[1].clone()]);
        dead_worker.start(&taken[0]).await.unwrap().unwrap();
        exceed_claim_timeout().await;
    }
    assert!(worker.claim_stale("m", 10).await.unwrap().is_empty(), "three workers have died");
    let failed_job = find_job(&worker, id).await;
    assert_eq!((failed_job.failed, failed_job.dead, failed_job.status), (1, 1, JobStatus::Failed));
    let expected = "{\"status\":500,\"detail\":\"the worker died 3 times while it worked on this input\"}";
    let Some(Outcome::Error(reason)) = worker.results(id, &[1], usize::MAX).await.unwrap().remove(0) else {
        panic!("no error")
    };
    let as_value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    assert_eq!(as_value(&reason), as_value(expected));
    assert_eq!(dead_letters(&redis), 1);
    assert_eq!(worker.retry(id).await.unwrap(), Some(1));
    assert_eq!(dead_letters(&redis), 0);
    finish_all_inputs(&worker).await;
    assert_eq!(find_job(&worker, id).await.status, JobStatus::Succeeded);
}

#[tokio::test]
async fn a_delivery_that_was_dropped_or_never_started_does_not_count_as_a_death() {
    let Some(redis) = Redis::start("jobs-no-death") else { return };
    let id = redis_jobs(&redis).submit(job(&["a", "b", "c"])).await.unwrap();
    let worker = redis_jobs(&redis);
    let held = receive(&worker, 3).await;
    for delivery in &held[..2] {
        worker.start(delivery).await.unwrap().unwrap();
    }
    for _ in 0..4 {
        exceed_claim_timeout().await;
        // The first input is in progress. The second was started and dropped, the third was never started.
        worker.heartbeat("m", std::slice::from_ref(&held[0].entry)).await.unwrap();
        assert_eq!(redis_jobs(&redis).claim_stale("m", 10).await.unwrap(), held[1..]);
    }
    for _ in 0..4 {
        exceed_claim_timeout().await;
        worker.heartbeat("m", std::slice::from_ref(&held[0].entry)).await.unwrap();
        let taken = worker.claim_stale("m", 10).await.unwrap();
        assert_eq!(taken, held[1..]);
        worker.start(&taken[0]).await.unwrap().unwrap();
    }
    assert_eq!(find_job(&worker, id).await.failed, 0);
}

/// A worker that stops requeues its unfinished inputs.
async fn requeues_unfinished_inputs(worker: Jobs, other: Jobs) {
    let id = worker.submit(job(&["a", "b", "c"])).await.unwrap();
    let mut held = receive(&worker, 3).await;
    for _ in 0..5 {
        for delivery in &held {
            assert!(worker.start(delivery).await.unwrap().is_some());
        }
        worker.requeue(&held).await.unwrap();
        held = receive(&worker, 3).await;
        assert_eq!(held.iter().map(|delivery| delivery.index).collect::<Vec<_>>(), [0, 1, 2], "immediately, in order");
    }
    assert!(worker.start(&held[0]).await.unwrap().is_some());
    assert!(worker.finish(&held[0], &success("a")).await.unwrap());
    worker.requeue(&held).await.unwrap();
    let taken = receive(&other, 3).await;
    assert_eq!(taken.iter().map(|delivery| delivery.index).collect::<Vec<_>>(), [1, 2], "one input is finished");
    for delivery in &taken {
        other.start(delivery).await.unwrap().unwrap();
    }
    assert!(other.cancel(id).await.unwrap());
    other.requeue(&taken).await.unwrap();
    assert!(receive(&other, 3).await.is_empty(), "the job is cancelled");
}

#[tokio::test]
async fn the_redis_queue_requeues_unfinished_inputs() {
    let Some(redis) = Redis::start("jobs-hand-back") else { return };
    let (worker, other) = (redis_jobs(&redis), redis_jobs(&redis));
    requeues_unfinished_inputs(worker.clone(), other.clone()).await;
    assert_eq!(dead_letters(&redis), 0);
    // The first worker does not requeue a delivery that another worker has claimed.
    worker.submit(job(&["a"])).await.unwrap();
    let held = receive(&worker, 1).await;
    exceed_claim_timeout().await;
    assert_eq!(other.claim_stale("m", 1).await.unwrap(), held);
    worker.requeue(&held).await.unwrap();
    assert!(receive(&worker, 1).await.is_empty());
}

#[tokio::test]
async fn the_in_memory_queue_requeues_unfinished_inputs() {
    let jobs = in_memory_jobs();
    requeues_unfinished_inputs(jobs.clone(), jobs).await;
}
