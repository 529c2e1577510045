//! Consistency of the limits in redis.conf, and bounds on one function call.

use std::time::{Duration, Instant};

use db_api::jobs::{Caller, Input, JobLimits, JobStatus, Jobs};

use crate::jobs::{LIMITS, find_job, job, jobs_with_limits, receive, success};
use crate::server::Redis;

/// The words of a setting's value.
fn setting(name: &str) -> Vec<String> {
    let lines = include_str!("../../redis.conf").lines();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let found = lines.map(words).find(|words| words.join(" ").starts_with(&format!("{name} ")));
    found.unwrap().split_off(name.split(' ').count())
}

fn bytes(size: &str) -> u64 {
    let (number, unit) = size.split_at(size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len()));
    let unit = match unit.to_ascii_lowercase().as_str() {
        "mb" | "m" => 1 << 20,
        "gb" | "g" => 1 << 30,
        "" => 1,
        other => panic!("{other}"),
    };
    number.parse::<u64>().unwrap() * unit
}

fn size(name: &str) -> u64 {
    bytes(&setting(name)[0])
}

#[test]
fn redis_stays_below_the_memory_limit_of_its_container() {
    let compose = include_str!("../../../docker-compose.yml");
    let service = compose.split("\n  db_api:\n").nth(1).unwrap();
    let limit =
        service.split("memory: ").nth(1).unwrap().split([',', '}']).next().unwrap().trim_matches('"').to_owned();
    let memory = size("maxmemory");
    let clients = memory * setting("maxmemory-clients")[0].trim_end_matches('%').parse::<u64>().unwrap() / 100;
    // While the log is rewritten, each changed page exists twice. The rest is for the process itself.
    let sum = 2 * memory + clients + (32 << 20);
    assert!(sum <= bytes(&limit), "{sum} bytes are more than {limit}");
}

/// What one front-end process and three workers read and write concurrently.
#[test]
fn concurrent_reads_and_writes_stay_below_the_buffer_limits() {
    const PROCESSES: u64 = 4;
    let longest_value = size("proto-max-bulk-len");
    let max_read = longest_value.max(8 << 20);
    let clients = size("maxmemory") / 5;
    assert_eq!(setting("maxmemory-clients"), ["20%"]);
    assert!(PROCESSES * max_read <= clients, "otherwise Redis closes connections");
    let limits = setting("client-output-buffer-limit normal");
    assert!(2 * max_read <= bytes(&limits[0]), "a reply, and one on a connection that was just replaced");
    assert!(max_read + (1 << 20) <= bytes(&limits[1]), "the soft limit, for a slow client");
    assert!(longest_value + (1 << 20) <= size("client-query-buffer-limit"));
    // The quota of one caller, from `functions/capacity.lua`.
    let caller_quota = size("maxmemory") / 10 * 8 / 5 * 4;
    assert!(caller_quota >= 192 << 20, "MAX_JOB_BYTES");
}

/// The longest call in the slow log, in microseconds.
fn longest_call(redis: &Redis) -> u64 {
    type Entry = (i64, i64, u64, Vec<Vec<u8>>, String, String);
    let entries: Vec<Entry> = redis::cmd("SLOWLOG").arg("GET").arg(-1).query(&mut redis.client()).unwrap();
    entries.iter().map(|entry| entry.2).max().unwrap_or(0)
}

fn slowlog(redis: &Redis, command: &[&str]) {
    let mut slowlog = redis::cmd(command[0]);
    let _: () = slowlog.arg(&command[1..]).query(&mut redis.client()).unwrap();
}

fn calls(redis: &Redis) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.client()).unwrap();
    let line = info.lines().find(|line| line.starts_with("cmdstat_fcall:")).unwrap();
    line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
}

/// Ten thousand inputs; every second one has an outcome.
#[tokio::test]
async fn no_call_handles_more_than_a_chunk_of_a_job() {
    const COUNT: usize = 10_000;
    let Some(redis) = Redis::start("limits-pieces") else { return };
    let jobs: Jobs = jobs_with_limits(&redis, JobLimits { max_queue_length: COUNT, ..LIMITS });
    jobs.prepare().await.unwrap();
    slowlog(&redis, &["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    slowlog(&redis, &["CONFIG", "SET", "slowlog-max-len", "4096"]);
    slowlog(&redis, &["SLOWLOG", "RESET"]);
    let (before, started) = (calls(&redis), Instant::now());
    let mut upload = jobs.upload(Caller::default());
    for number in 0..COUNT {
        let outcome = (number % 2 == 0).then(|| success("cached"));
        let input = Input { name: format!("{number}.png"), data: vec![b'x'; 50].into(), outcome };
        upload.push(input).await.unwrap();
    }
    let id = jobs.submit_uploaded(upload, job(&[])).await.unwrap();
    let submitted = find_job(&jobs, id).await;
    assert_eq!((submitted.total, submitted.done, submitted.failed), (COUNT as u32, COUNT as u32 / 2, 0));
    assert_eq!(jobs.health().await.unwrap().waiting, COUNT as u64 / 2);
    assert_eq!(jobs.names(id, 9_998..10_000).await.unwrap(), ["9998.png", "9999.png"]);
    assert!(
        calls(&redis) - before >= 3 * (COUNT / 500) as u64,
        "inputs, outcomes, names and entries are sent in chunks"
    );
    println!("submitted in {:?}; the longest call {} µs", started.elapsed(), longest_call(&redis));
    slowlog(&redis, &["SLOWLOG", "RESET"]);
    assert!(jobs.cancel(id).await.unwrap());
    println!("cancelled; the longest call {} µs", longest_call(&redis));
    assert_eq!((jobs.health().await.unwrap().waiting, find_job(&jobs, id).await.status), (0, JobStatus::Cancelled));
}

/// The submitting process dies after the job is accepted and some of its inputs are queued.
#[tokio::test]
async fn the_sweep_queues_the_remaining_inputs() {
    let Some(redis) = Redis::start("limits-fill") else { return };
    let jobs = jobs_with_limits(&redis, JobLimits { max_queue_length: 2000, ..LIMITS });
    jobs.prepare().await.unwrap();
    let mut client = redis.client();
    let id = "0".repeat(31) + "1";
    for first in (0..1200).step_by(400) {
        let mut upload = redis::cmd("FCALL");
        upload.arg("mlserve_upload").arg(1).arg(format!("mlserve:{{jobs}}:inputs:{id}"));
        (first..first + 400).for_each(|index| {
            upload.arg(index).arg("x");
        });
        let _: i64 = upload.query(&mut client).unwrap();
    }
    let mut submit = redis::cmd("FCALL");
    submit.arg("mlserve_submit").arg(1).arg(format!("mlserve:{{jobs}}:job:{id}"));
    submit.arg("m").arg(1200).arg(60_000).arg(2000).arg("").arg("").arg("[]").arg("{\"kind\":\"v2\"}");
    let _: String = submit.query(&mut client).unwrap();
    assert_eq!(jobs.health().await.unwrap().waiting, 500);
    let mut finished = 0;
    while finished < 500 {
        for delivery in receive(&jobs, 100).await {
            jobs.start(&delivery).await.unwrap().unwrap();
            jobs.finish(&delivery, &success("x")).await.unwrap();
            finished += 1;
        }
    }
    let id = id.parse().unwrap();
    assert_eq!(find_job(&jobs, id).await.status, JobStatus::Running, "the job is not finished");
    jobs.sweep().await.unwrap();
    assert_eq!(jobs.health().await.unwrap().waiting, 700);
    tokio::time::sleep(Duration::from_millis(1)).await;
    while find_job(&jobs, id).await.status == JobStatus::Running {
        for delivery in receive(&jobs, 100).await {
            jobs.start(&delivery).await.unwrap().unwrap();
            jobs.finish(&delivery, &success("x")).await.unwrap();
        }
    }
    assert_eq!(find_job(&jobs, id).await.done, 1200);
}
