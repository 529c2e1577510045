//! Slow lane: a separate session for requests that run far longer than expected.
//!
//! A hanging request would block its session, and every request behind it, for `RUN_TIMEOUT_MS`. So a run that exceeds
//! [`slow_run_threshold`] while other requests wait is cancelled. It restarts on the slow lane, alone and with its full time
//! budget. The session of the lane starts with the first such request and ends when it is idle.
//!
//! Each hanging request therefore delays the others by [`MIN_THRESHOLD`], or by [`SLOW_FACTOR`] times the expected run time. A
//! request in the same batch waits longer if no other request is queued: for half of `RUN_TIMEOUT_MS` and for its share of the
//! other half.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::scheduler::estimator::CostEstimator;
use crate::scheduler::queue::entry::{Admission, Entry};
use crate::scheduler::settings::BatchSettings;
use crate::scheduler::shared::Shared;

/// A run is slow after this time, and after this multiple of its expected time and of the mean batch time.
const MIN_THRESHOLD: Duration = Duration::from_secs(1);
const SLOW_FACTOR: u32 = 20;

/// Without an estimate, a run is slow after `RUN_TIMEOUT_MS` divided by this.
const UNKNOWN_COST_DIVISOR: u32 = 6;

/// Time between two checks for idleness. The session ends after two consecutive idle checks.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Queue of deferred requests.
pub struct SlowLane {
    /// The lane's own queue and settings.
    pub shared: Arc<Shared>,
    is_running: Mutex<bool>,
}

/// The time after which a run of `rows` rows is far longer than expected.
pub fn slow_run_threshold(rows: usize, estimator: &CostEstimator, batch: &BatchSettings) -> Duration {
    let expected = estimator.max_duration(rows).max(estimator.batch_duration());
    if expected.is_zero() {
        batch.run_timeout / UNKNOWN_COST_DIVISOR
    } else {
        MIN_THRESHOLD.max(expected.saturating_mul(SLOW_FACTOR))
    }
}

impl SlowLane {
    /// A lane without a session.
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), is_running: Mutex::new(false) })
    }

    /// Queues an admitted request. Returns whether the caller must start the worker of the lane.
    pub fn enqueue(&self, entry: Entry) -> bool {
        let mut is_running = self.is_running();
        // It fails only after the pool has been stopped.
        let _ = self.shared.queue.push(Entry { admission: Admission::Back, time_budget: None, ..entry });
        !std::mem::replace(&mut *is_running, true)
    }

    /// Resolves when the session is no longer needed.
    pub async fn idle(&self) {
        let mut idle_checks = 0;
        while idle_checks < 2 {
            sleep(IDLE_CHECK_INTERVAL).await;
            let mut is_running = self.is_running();
            let is_idle = !self.shared.is_busy.load(Ordering::Relaxed) && !self.shared.queue.has_pending();
            idle_checks = if is_idle { idle_checks + 1 } else { 0 };
            *is_running = idle_checks < 2;
        }
    }

    fn is_running(&self) -> MutexGuard<'_, bool> {
        // A panic cannot leave the flag inconsistent.
        self.is_running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
