//! Redis that stops responding, and responds again.

use std::time::{Duration, Instant};

use db_api::jobs::{JobError, JobStatus, Jobs, RedisJobs};

use crate::jobs::{LIMITS, find_job, job, receive, success};
use crate::server::Redis;

/// Creates a user with a password, as in the container.
fn set_user(redis: &Redis, password: &str) {
    let mut set = redis::cmd("ACL");
    set.arg("SETUSER")
        .arg("mlserve")
        .arg("on")
        .arg("resetpass")
        .arg(format!(">{password}"))
        .arg("~*")
        .arg("&*")
        .arg("+@all");
    let _: () = set.query(&mut redis.client()).unwrap();
}

fn drop_clients(redis: &Redis) {
    let mut kill = redis::cmd("CLIENT");
    let _: i64 = kill.arg("KILL").arg("USER").arg("mlserve").query(&mut redis.client()).unwrap();
}

async fn wait_until_accepted(jobs: &Jobs) {
    let started = Instant::now();
    while jobs.submit(job(&["a"])).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "jobs are still rejected after 20 s");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_queue_recovers_from_a_failed_login() {
    let Some(redis) = Redis::start("connection-login") else { return };
    let (host, _) = redis.proxy().await;
    let url = host.replace("redis://", "redis://mlserve:secret@");
    set_user(&redis, "another");
    let jobs = Jobs::Redis(RedisJobs::new(&url, LIMITS).unwrap());
    assert_eq!(jobs.submit(job(&["a"])).await, Err(JobError::Unavailable));
    set_user(&redis, "secret");
    wait_until_accepted(&jobs).await;
    // The same for connections that have worked before.
    set_user(&redis, "another");
    drop_clients(&redis);
    assert!(jobs.submit(job(&["a"])).await.is_err());
    assert!(jobs.receive("m", 1).await.is_err());
    set_user(&redis, "secret");
    wait_until_accepted(&jobs).await;
    assert!(!receive(&jobs, 1).await.is_empty());
}

#[tokio::test]
async fn a_hung_redis_costs_one_timeout_and_then_nothing() {
    let Some(redis) = Redis::start("connection-hung") else { return };
    let jobs = crate::jobs::redis_jobs(&redis);
    let id = jobs.submit(job(&["a"])).await.unwrap();
    redis.signal("-STOP");
    let started = Instant::now();
    assert_eq!(jobs.submit(job(&["b"])).await, Err(JobError::Unavailable));
    let first = started.elapsed();
    assert!(first < Duration::from_secs(4), "the timeout is 2 s: {first:?}");
    let mut rejected_immediately = 0;
    for _ in 0..10 {
        let started = Instant::now();
        assert_eq!(jobs.submit(job(&["b"])).await, Err(JobError::Unavailable));
        rejected_immediately += u32::from(started.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(rejected_immediately, 10, "the circuit breaker is open");
    redis.signal("-CONT");
    wait_until_accepted(&jobs).await;
    for delivery in receive(&jobs, 10).await {
        jobs.start(&delivery).await.unwrap();
        jobs.finish(&delivery, &success("a")).await.unwrap();
    }
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Succeeded);
}
