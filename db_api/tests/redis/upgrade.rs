//! Jobs that an earlier version wrote: without byte counts.

use db_api::jobs::{Delivery, JobId, JobLookup, JobStatus, Jobs, Outcome};
use redis::{Commands, Connection};

use crate::jobs::{find_job, receive, redis_jobs, success};
use crate::server::Redis;

fn key(what: &str, id: &str) -> String {
    format!("mlserve:{{jobs}}:{what}:{id}")
}

/// Writes a job with three inputs: the first is finished, the second is in progress.
fn write_job(client: &mut Connection, id: &str, status: &str, failed: bool) {
    let fields = [
        ("model", "m"),
        ("status", status),
        ("total", "3"),
        ("done", if failed { "2" } else { "1" }),
        ("failed", if failed { "1" } else { "0" }),
        ("dead", "0"),
        ("runs", "2"),
        ("created", "1700000000000"),
        ("started", "1700000000100"),
        ("ttl", "86400000"),
        ("once", "key"),
        ("kind", "v2"),
        ("content", "c"),
        ("digest", "d"),
    ];
    let _: () = client.hset_multiple(key("job", id), &fields).unwrap();
    let _: () = client.hset(key("results", id), 0, "+{\"model_digest\":\"d\"}").unwrap();
    let _: () = client.rpush(key("names", id), &["a.png", "b.png", "c.png"]).unwrap();
    for (field, value) in [("status", "queued"), ("status", "running"), ("index", "0")] {
        let _: String = redis::cmd("XADD").arg(key("events", id)).arg("*").arg(field).arg(value).query(client).unwrap();
    }
    let _: () = client.zadd("mlserve:{jobs}:known", id, 1_700_000_000_000_u64).unwrap();
    let _: () = client.hset_multiple("mlserve:{jobs}:once:key", &[("job", id), ("digest", "x")]).unwrap();
    let _: () = client.hset("mlserve:{jobs}:same:m", "c", id).unwrap();
}

fn write_waiting(client: &mut Connection, id: &str) {
    write_job(client, id, "running", false);
    let queue = "mlserve:{jobs}:queue:m";
    let _: () =
        redis::cmd("XGROUP").arg("CREATE").arg(queue).arg("workers").arg(0).arg("MKSTREAM").query(client).unwrap();
    for index in ["1", "2"] {
        let _: () = client.hset(key("inputs", id), index, format!("input {index}")).unwrap();
        let entry: String = redis::cmd("XADD").arg(queue).arg(&["*", "job", id, "index", index]).query(client).unwrap();
        let _: () = client.hset(key("job", id), if index == "1" { "first" } else { "last" }, entry).unwrap();
    }
    // A worker of the earlier version holds the first entry.
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg("workers").arg("old").arg("COUNT").arg(1).arg("STREAMS").arg(queue).arg(">");
    let _: redis::Value = read.query(client).unwrap();
}

fn write_failed(client: &mut Connection, id: &str) {
    write_job(client, id, "failed", true);
    let _: () = client.hset(key("job", id), "finished", 1_700_000_001_000_u64).unwrap();
    let _: () = client.hset(key("results", id), 1, "+{}").unwrap();
    let _: () = client.hset(key("results", id), 2, "-{\"status\":422}").unwrap();
    let _: () = client.hset(key("inputs", id), 2, "input 2").unwrap();
    let _: () = client.zadd("mlserve:{jobs}:expiring", id, 4_000_000_000_000_u64).unwrap();
}

async fn finish(jobs: &Jobs, delivery: &Delivery) {
    let work = jobs.start(delivery).await.unwrap().unwrap();
    assert_eq!(work.data, format!("input {}", delivery.index));
    assert!(jobs.finish(delivery, &success("new")).await.unwrap());
}

/// Old jobs complete with the counts that `prepare` adds, and without them, since `prepare` may run later.
async fn completes_old_jobs(name: &str, is_prepared: bool) {
    let Some(redis) = Redis::start(name) else { return };
    let (waiting, failed) = (JobId::random(), JobId::random());
    let mut client = redis.client();
    write_waiting(&mut client, &waiting.to_string());
    write_failed(&mut client, &failed.to_string());
    let jobs = redis_jobs(&redis);
    if is_prepared {
        jobs.prepare().await.unwrap();
        let health = jobs.health().await.unwrap();
        assert_eq!(health.waiting, 2);
        assert!(health.bytes > 2 * 1536, "{health:?}");
    }
    assert_eq!(jobs.names(waiting, 0..3).await.unwrap(), ["a.png", "b.png", "c.png"]);
    for delivery in receive(&jobs, 10).await {
        assert_eq!(delivery.bytes, 7);
        finish(&jobs, &delivery).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    for delivery in jobs.claim_stale("m", 10).await.unwrap() {
        finish(&jobs, &delivery).await;
    }
    assert_eq!(find_job(&jobs, waiting).await.status, JobStatus::Succeeded);
    let first = Outcome::Success("{\"model_digest\":\"d\"}".to_owned());
    let expected = [Some(first), Some(success("new")), Some(success("new"))];
    assert_eq!(jobs.results(waiting, &[0, 1, 2], usize::MAX).await.unwrap(), expected);
    assert_eq!(jobs.retry(failed).await.unwrap(), Some(1));
    finish(&jobs, &receive(&jobs, 1).await[0]).await;
    assert_eq!(find_job(&jobs, failed).await.status, JobStatus::Succeeded);
    for id in [waiting, failed] {
        assert!(jobs.delete(id).await.unwrap());
        assert_eq!(jobs.find(id).await.unwrap(), JobLookup::Gone);
    }
    assert_eq!(jobs.health().await.unwrap().bytes, 0);
}

#[tokio::test]
async fn jobs_of_an_earlier_version_are_counted_and_complete() {
    completes_old_jobs("upgrade", true).await;
}

#[tokio::test]
async fn jobs_of_an_earlier_version_complete_before_they_are_counted() {
    completes_old_jobs("upgrade-uncounted", false).await;
}
