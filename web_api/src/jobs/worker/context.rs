use std::time::Duration;

use db_api::jobs::{Delivery, Jobs};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::jobs::executor::JobExecutor;
use crate::jobs::throttle::BackgroundThrottle;
use crate::metrics::Metrics;
use crate::settings::JobSettings;
use crate::upstream::catalog::Catalog;

/// Time between two checks for new models, for a model that is not ready, and for a queue that is unreachable.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time after the drain timeout for inputs to go back to the queue. Both together are below the `stop_grace_period` of
/// `docker-compose.yml`.
pub const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause before inputs are handed back again.
const HAND_BACK_RETRY_DELAY: Duration = Duration::from_millis(200);

/// State of a worker. Clones share it.
#[derive(Clone)]
pub struct WorkerContext {
    pub jobs: Jobs,
    pub catalog: Catalog,
    pub executor: JobExecutor,
    pub metrics: Metrics,
    pub throttle: BackgroundThrottle,
    pub settings: JobSettings,
    /// Cancelled when no further inputs may be taken.
    pub stopping: CancellationToken,
    /// Cancelled when the drain timeout is over.
    pub drained: CancellationToken,
    pub tasks: TaskTracker,
}

impl WorkerContext {
    pub fn new(
        jobs: Jobs,
        catalog: Catalog,
        executor: JobExecutor,
        metrics: Metrics,
        throttle: BackgroundThrottle,
        settings: JobSettings,
    ) -> Self {
        let (stopping, drained, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        Self { jobs, catalog, executor, metrics, throttle, settings, stopping, drained, tasks }
    }

    /// Returns inputs to the queue, which delivers them to other workers immediately. Retries until the worker has to exit.
    pub async fn hand_back(&self, deliveries: &[Delivery]) {
        if deliveries.is_empty() {
            return;
        }
        let hand_back = async {
            while self.jobs.requeue(deliveries).await.is_err() {
                sleep(HAND_BACK_RETRY_DELAY).await;
            }
        };
        tokio::select! {
            () = hand_back => {}
            () = self.hand_back_timeout() => {}
        }
    }

    /// Completes when no time is left to hand inputs back.
    pub async fn hand_back_timeout(&self) {
        self.drained.cancelled().await;
        sleep(HAND_BACK_TIMEOUT).await;
    }

    /// Pauses, but ends early when the worker stops.
    pub async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.stopping.cancelled()).await;
    }
}
