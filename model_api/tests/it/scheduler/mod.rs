//! The scheduler with fake sessions.

mod session_failures;

mod batch_formation;

mod batch_buckets;

mod batch_check;

mod overload;

mod chunks_and_memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use model_api::metrics::Metrics;
use model_api::scheduler::{BatchSettings, Pool, PoolSettings, Priority, QueueLimits, RunError, RunOutput};
use model_api::session::SessionConfig;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::fake::{Fake, input};

const RUN_TIMEOUT: Duration = Duration::from_secs(32);
const QUEUE: QueueLimits = QueueLimits { rows: 8, bytes: 1 << 20 };

/// Run time of the fake in tests in which requests meet in the queue.
const SLOW: Duration = Duration::from_millis(20);

type Unchanged = Arc<dyn Fn() -> bool + Send + Sync>;

fn always_unchanged() -> Unchanged {
    Arc::new(|| true)
}

fn session_config(unchanged: Unchanged) -> SessionConfig {
    SessionConfig { model: "m".to_owned(), graph: PathBuf::new(), threads: 1, shapes: BTreeMap::new(), unchanged }
}

/// A pool that runs each request alone.
fn start(fake: &Fake) -> Arc<Pool> {
    start_with(fake, 1, Duration::ZERO)
}

/// A pool with large batches.
fn start_batching(fake: &Fake) -> Arc<Pool> {
    start_with(fake, 64, Duration::ZERO)
}

fn start_with(fake: &Fake, max_rows: usize, max_wait: Duration) -> Arc<Pool> {
    let batch = BatchSettings::new(max_rows, max_wait, None, RUN_TIMEOUT);
    start_with_limits(fake, 1000, QUEUE, batch, always_unchanged())
}

fn start_with_limits(
    fake: &Fake,
    model_bytes: u64,
    queue: QueueLimits,
    batch: BatchSettings,
    unchanged: Unchanged,
) -> Arc<Pool> {
    let metrics = Metrics::register(&mut Registry::default()).pool_metrics("m");
    let settings = PoolSettings { model_bytes, sessions: 1, queue, batch, metrics };
    Arc::new(Pool::start(fake, &session_config(unchanged), &settings))
}

/// A pool and its metrics.
fn start_with_metrics(fake: &Fake, batch: BatchSettings) -> (Arc<Pool>, Metrics) {
    let metrics = Metrics::register(&mut Registry::default());
    let settings =
        PoolSettings { model_bytes: 1000, sessions: 1, queue: QUEUE, batch, metrics: metrics.pool_metrics("m") };
    (Arc::new(Pool::start(fake, &session_config(always_unchanged()), &settings)), metrics)
}

/// Sends a request in a task of its own.
fn send(pool: &Arc<Pool>, first: f32) -> JoinHandle<Result<RunOutput, RunError>> {
    send_with_priority(pool, first, Priority::Interactive)
}

fn send_with_priority(pool: &Arc<Pool>, first: f32, priority: Priority) -> JoinHandle<Result<RunOutput, RunError>> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move { pool.run(input(first), priority).await })
}

/// Sends a request and waits for the result.
async fn run(pool: &Arc<Pool>, first: f32) -> Result<RunOutput, RunError> {
    pool.run(input(first), Priority::Interactive).await
}

/// A pool whose only session is busy, so that further requests meet in the queue.
async fn busy_pool(fake: &Fake) -> Arc<Pool> {
    let pool = start_batching(fake);
    pool.ready(|_| ()).await.unwrap();
    send(&pool, 0.5);
    settle().await;
    pool
}

/// Sends requests while the session is busy, and waits for their results.
async fn send_together(pool: &Arc<Pool>, firsts: &[f32]) -> Vec<Result<f32, RunError>> {
    send(pool, 0.5);
    settle().await;
    results(firsts.iter().map(|&first| send(pool, first)).collect()).await
}

/// The first number of each result, or the error.
async fn results(sent: Vec<JoinHandle<Result<RunOutput, RunError>>>) -> Vec<Result<f32, RunError>> {
    let first =
        |result: Result<Result<RunOutput, RunError>, _>| result.unwrap().map(|output| output.outputs[0].to_f32()[0]);
    join_all(sent).await.into_iter().map(first).collect()
}

/// Lets the tasks of the pool do what they can do now.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}
