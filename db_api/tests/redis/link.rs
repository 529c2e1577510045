//! A Redis that does not answer, and one that answers again.

use std::time::{Duration, Instant};

use db_api::jobs::{JobError, Jobs, RedisJobs, Status};

use crate::jobs::{LIMITS, answer, job, state, take};
use crate::server::Redis;

/// A user with a password, as in the container.
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

async fn until_it_is_accepted(jobs: &Jobs) {
    let begun = Instant::now();
    while jobs.submit(job(&["a"])).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "jobs are refused for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_failed_log_in_does_not_close_the_queue() {
    let Some(redis) = Redis::start("link-log-in") else { return };
    let (host, _) = redis.proxy().await;
    let url = host.replace("redis://", "redis://mlserve:secret@");
    set_user(&redis, "another");
    let jobs = Jobs::Redis(RedisJobs::new(&url, LIMITS).unwrap());
    assert_eq!(jobs.submit(job(&["a"])).await, Err(JobError::Unavailable));
    set_user(&redis, "secret");
    until_it_is_accepted(&jobs).await;
    // The same once more, for connections that have worked.
    set_user(&redis, "another");
    drop_clients(&redis);
    assert!(jobs.submit(job(&["a"])).await.is_err());
    assert!(jobs.take("m", 1).await.is_err());
    set_user(&redis, "secret");
    until_it_is_accepted(&jobs).await;
    assert!(!take(&jobs, 1).await.is_empty());
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_one_deadline_and_then_nothing() {
    let Some(redis) = Redis::start("link-still") else { return };
    let jobs = crate::jobs::over(&redis);
    let id = jobs.submit(job(&["a"])).await.unwrap();
    redis.signal("-STOP");
    let begun = Instant::now();
    assert_eq!(jobs.submit(job(&["b"])).await, Err(JobError::Unavailable));
    let first = begun.elapsed();
    assert!(first < Duration::from_secs(4), "the deadline is 2 s: {first:?}");
    let mut refused_at_once = 0;
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(jobs.submit(job(&["b"])).await, Err(JobError::Unavailable));
        refused_at_once += u32::from(begun.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(refused_at_once, 10, "the circuit breaker is open");
    redis.signal("-CONT");
    until_it_is_accepted(&jobs).await;
    for delivery in take(&jobs, 10).await {
        jobs.begin(&delivery).await.unwrap();
        jobs.finish(&delivery, &answer("a")).await.unwrap();
    }
    assert_eq!(state(&jobs, id).await.status, Status::Succeeded);
}
