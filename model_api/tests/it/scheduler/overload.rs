//! Load shedding: which requests are rejected, and which are only slower.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model_api::scheduler::{BatchSettings, Pool, Priority, QueueLimits, RunError};
use open_inference::{Datatype, Tensor};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{QUEUE, RUN_TIMEOUT, always_unchanged, results, run, send as send_one, settle, start, start_with_limits};
use crate::support::fake::{Fake, input};

/// When a request was sent, how long it took, and its result.
struct Sent {
    after: Duration,
    took: Duration,
    result: Result<(), RunError>,
}

/// A pool of one session with default settings, after `singles` requests in sequence.
async fn pool_after(fake: &Fake, singles: usize) -> Arc<Pool> {
    let batch = BatchSettings::new(0, Duration::ZERO, None, Duration::from_secs(30));
    let pool = start_with_limits(fake, 1000, QueueLimits { rows: 10_000, bytes: 1 << 30 }, batch, always_unchanged());
    pool.ready(|_| ()).await.unwrap();
    for _ in 0..singles {
        pool.run(input(0.5), Priority::Interactive).await.unwrap();
    }
    pool
}

fn send(pool: &Arc<Pool>, start: Instant) -> JoinHandle<Sent> {
    let (pool, sent) = (Arc::clone(pool), Instant::now());
    tokio::spawn(async move {
        let result = pool.run(input(0.5), Priority::Interactive).await.map(drop);
        Sent { after: sent - start, took: sent.elapsed(), result }
    })
}

/// Sends `count` requests every `interval` for `duration`.
async fn send_steadily(pool: &Arc<Pool>, count: usize, interval: Duration, duration: Duration) -> Vec<Sent> {
    let start = Instant::now();
    let mut sent = Vec::new();
    while start.elapsed() < duration {
        sent.extend((0..count).map(|_| send(pool, start)));
        sleep(interval).await;
    }
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

fn rejected(sent: &[Sent]) -> usize {
    sent.iter().filter(|sent| sent.result.is_err()).count()
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_two_hundred_requests_after_single_ones_is_accepted() {
    // Fast and slow runs whose time does not depend on the number of rows.
    for takes in [1, 4, 25] {
        let fake = Fake::default().with_run_time(Duration::from_millis(takes));
        let pool = pool_after(&fake, 50).await;
        let sent = send_steadily(&pool, 200, Duration::from_secs(1), Duration::from_millis(1)).await;
        assert_eq!((sent.len(), rejected(&sent)), (200, 0), "{takes} ms");
        assert!(fake.batches.lock().unwrap().contains(&32), "batches have grown");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_accepted_if_batching_does_not_pay() {
    let pool = pool_after(&Fake::with_time_per_row(Duration::from_millis(1)), 50).await;
    let sent = send_steadily(&pool, 120, Duration::from_secs(1), Duration::from_millis(1)).await;
    assert_eq!((sent.len(), rejected(&sent)), (120, 0), "a burst of 0.12 s is no overload");
}

#[tokio::test(start_paused = true)]
async fn outliers_in_run_time_cause_no_rejections() {
    for nth in [2, 3, 7] {
        let fake = Fake::default().with_run_time(Duration::from_millis(3)).with_outliers(nth, 10);
        let pool = pool_after(&fake, 50).await;
        let steady = send_steadily(&pool, 1, Duration::from_millis(5), Duration::from_secs(4)).await;
        assert_eq!(rejected(&steady), 0, "steady load, every {nth}");
        let bursts = send_steadily(&pool, 100, Duration::from_millis(500), Duration::from_secs(4)).await;
        assert_eq!(rejected(&bursts), 0, "bursts, every {nth}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_ten_times_capacity_requests_are_rejected_immediately_and_accepted_ones_wait_little() {
    let row = Duration::from_millis(4);
    let pool = pool_after(&Fake::with_time_per_row(row), 50).await;
    // 2,500 requests/s at a capacity of 250.
    let sent = send_steadily(&pool, 5, Duration::from_millis(2), Duration::from_secs(4)).await;
    let longest = sent.iter().map(|sent| sent.took).max().unwrap();
    assert!(longest < Duration::from_millis(250), "{longest:?}");
    let later: Vec<&Sent> = sent.iter().filter(|sent| sent.after > Duration::from_millis(250)).collect();
    let (accepted, rejected): (Vec<&Sent>, _) = later.into_iter().partition(|sent| sent.result.is_ok());
    assert!(rejected.iter().all(|sent| sent.took.is_zero()), "immediately");
    let longest = accepted.iter().map(|sent| sent.took).max().unwrap();
    assert!(longest <= row * 4, "{longest:?}");
    assert!(accepted.len() > 3750 / 4 * 9 / 10, "the session is busy: {}", accepted.len());
}

#[tokio::test(start_paused = true)]
async fn a_long_standing_queue_is_shed_until_the_session_is_idle() {
    let fake = Fake::default().with_run_time(Duration::from_millis(400));
    let alone = BatchSettings::new(1, Duration::ZERO, None, RUN_TIMEOUT);
    let pool = start_with_limits(&fake, 1000, QueueLimits { rows: 100, ..QUEUE }, alone, always_unchanged());
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
    // While one request runs, 64 wait: not a long queue for a model as slow as this one.
    let burst = async |waiting: usize| {
        let mut sent = vec![send_one(&pool, 1.0)];
        settle().await;
        sent.extend((0..waiting).map(|_| send_one(&pool, 1.0)));
        sent
    };
    let mut sent = burst(80).await;
    settle().await;
    assert!(sent.iter().all(|request| !request.is_finished()), "a burst is accepted");
    sleep(Duration::from_millis(900)).await;
    assert_eq!(sent.iter().filter(|request| request.is_finished()).count(), 2, "both with their results");
    sent.push(send_one(&pool, 2.0));
    settle().await;
    // One request runs and one waits.
    let full = Err(RunError::QueueFull { retry_after: Duration::from_secs(1) });
    assert_eq!(results(sent.split_off(4)).await, vec![full.clone(); 78], "every batch of 0.1 s has waited");
    assert_eq!(results(vec![send_one(&pool, 2.0)]).await, [full], "the queue is short");
    assert!(results(sent).await.iter().all(Result::is_ok));
    settle().await;
    let later = results(burst(64).await).await;
    assert_eq!(later.iter().filter(|result| result.is_ok()).count(), 2, "a short idle time is not enough");
    // An eighth of the time of 16 batches.
    sleep(Duration::from_millis(800)).await;
    assert!(results(burst(64).await).await.iter().all(Result::is_ok), "the queue has recovered");
}

#[tokio::test(start_paused = true)]
async fn a_long_request_is_accepted_by_an_empty_queue() {
    let fake = Fake::default().with_run_time(Duration::from_millis(400));
    let pool = start(&fake);
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
    let many = Tensor::from_f32("x", Datatype::Fp32, vec![100, 2, 2, 1], &[1.0; 400]).unwrap();
    let output = pool.run(vec![many], Priority::Interactive).await.unwrap();
    assert_eq!(output.outputs[0].shape[0], 100, "the estimate is 0.4 s per row");
}
