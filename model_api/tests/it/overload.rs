//! When requests are refused for load, and when a busy machine only makes them slower.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model_api::metrics::Metrics;
use model_api::pool::{BatchSettings, Pool, PoolSettings, QueueLimits, RunError, Urgency};
use model_api::session::Blueprint;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::fake::{Fake, input};

/// When a request was sent, how long it took, and whether it has a result.
struct Sent {
    after: Duration,
    took: Duration,
    result: Result<(), RunError>,
}

/// One session with default settings, which has answered `singles` requests one after the other.
async fn pool_after(fake: &Fake, singles: usize) -> Arc<Pool> {
    let (model, graph, shapes) = ("m".to_owned(), PathBuf::new(), BTreeMap::new());
    let blueprint = Blueprint { model, graph, threads: 1, shapes, unchanged: Arc::new(|| true) };
    let batch = BatchSettings::new(0, Duration::ZERO, None, Duration::from_secs(30));
    let meters = Metrics::register(&mut Registry::default()).pool_metrics("m");
    let queue = QueueLimits { rows: 10_000, bytes: 1 << 30 };
    let pool =
        Arc::new(Pool::start(fake, &blueprint, &PoolSettings { bytes: 1000, sessions: 1, queue, batch, meters }));
    pool.ready(|_| ()).await.unwrap();
    for _ in 0..singles {
        pool.run(input(0.5), Urgency::Interactive).await.unwrap();
    }
    pool
}

fn send(pool: &Arc<Pool>, begun: Instant) -> JoinHandle<Sent> {
    let (pool, sent) = (Arc::clone(pool), Instant::now());
    tokio::spawn(async move {
        let result = pool.run(input(0.5), Urgency::Interactive).await.map(drop);
        Sent { after: sent - begun, took: sent.elapsed(), result }
    })
}

/// `count` requests every `pause`, for `long`.
async fn send_steadily(pool: &Arc<Pool>, count: usize, pause: Duration, long: Duration) -> Vec<Sent> {
    let begun = Instant::now();
    let mut sent = Vec::new();
    while begun.elapsed() < long {
        sent.extend((0..count).map(|_| send(pool, begun)));
        sleep(pause).await;
    }
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

fn refused(sent: &[Sent]) -> usize {
    sent.iter().filter(|sent| sent.result.is_err()).count()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_requests_at_once_after_single_ones_are_all_answered() {
    // Cheap and slow runs that cost no more for more rows.
    for takes in [1, 4, 25] {
        let fake = Fake::taking(Duration::from_millis(takes));
        let pool = pool_after(&fake, 50).await;
        let sent = send_steadily(&pool, 200, Duration::from_secs(1), Duration::from_millis(1)).await;
        assert_eq!((sent.len(), refused(&sent)), (200, 0), "{takes} ms");
        assert!(fake.batches.lock().unwrap().contains(&32), "batches have grown");
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_rows_that_save_nothing_together_is_answered_one_after_the_other() {
    let pool = pool_after(&Fake::taking_for_each_row(Duration::from_millis(1)), 50).await;
    let sent = send_steadily(&pool, 120, Duration::from_secs(1), Duration::from_millis(1)).await;
    assert_eq!((sent.len(), refused(&sent)), (120, 0), "a burst of 0.12 s is no overload");
}

#[tokio::test(start_paused = true)]
async fn a_machine_on_which_some_runs_take_ten_times_as_long_refuses_nothing() {
    for nth in [2, 3, 7] {
        let fake = Fake::taking(Duration::from_millis(3)).with_outliers(nth, 10);
        let pool = pool_after(&fake, 50).await;
        let steady = send_steadily(&pool, 1, Duration::from_millis(5), Duration::from_secs(4)).await;
        assert_eq!(refused(&steady), 0, "steadily, every {nth}");
        let bursts = send_steadily(&pool, 100, Duration::from_millis(500), Duration::from_secs(4)).await;
        assert_eq!(refused(&bursts), 0, "in bursts, every {nth}");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_times_what_a_model_can_answer_is_refused_at_once_and_the_accepted_wait_little() {
    let row = Duration::from_millis(4);
    let pool = pool_after(&Fake::taking_for_each_row(row), 50).await;
    // 2,500 a second, of which it can answer 250.
    let sent = send_steadily(&pool, 5, Duration::from_millis(2), Duration::from_secs(4)).await;
    let longest = sent.iter().map(|sent| sent.took).max().unwrap();
    assert!(longest < Duration::from_millis(250), "{longest:?}");
    let later: Vec<&Sent> = sent.iter().filter(|sent| sent.after > Duration::from_millis(250)).collect();
    let (answered, refused): (Vec<&Sent>, _) = later.into_iter().partition(|sent| sent.result.is_ok());
    assert!(refused.iter().all(|sent| sent.took.is_zero()), "at once");
    let longest = answered.iter().map(|sent| sent.took).max().unwrap();
    assert!(longest <= row * 4, "{longest:?}");
    assert!(answered.len() > 3750 / 4 * 9 / 10, "the session is busy: {}", answered.len());
}
