//! Session of a model for requests that take far longer than usual.
//!
//! A request that hangs would keep a session for `RUN_TIMEOUT_MS`, and everything that waits for it. So a run that takes far longer
//! than is usual for its rows, while other requests wait, is ended and begins again here, alone, with all of its time. The
//! session is started for the first such request and ends when it has been idle for a while. So each request
//! that hangs costs the others [`MIN_PATIENCE`], or 20 times the usual time of its run. One that is in the same batch as it, while
//! no other waits, waits for half of `RUN_TIMEOUT_MS` and its part of the other half (`worker.rs`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use super::entry::{Admission, Entry};
use super::restarts::Restarts;
use super::starter::Starter;
use super::worker::Worker;
use super::{BatchSettings, Pace, Shared, State};
use crate::session::Launcher;

/// A run takes long after this time and so many times what its rows take usually, and so many usual batches.
const MIN_PATIENCE: Duration = Duration::from_secs(1);
const TIMES_USUAL: u32 = 20;

/// The part of `RUN_TIMEOUT_MS` after which it does where nothing is known of the model.
const UNKNOWN_PART: u32 = 6;

/// Time between two looks whether the session is still needed; it ends after two in a row at which it was not.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// The requests that were put off.
pub struct SlowLane {
    shared: Arc<Shared>,
    is_running: Mutex<bool>,
}

/// When a run of so many rows takes far longer than usual.
pub fn patience(rows: usize, pace: &Pace, batch: &BatchSettings) -> Duration {
    let usual = pace.of_rows(rows).max(pace.of_batch());
    if usual.is_zero() { batch.run_timeout / UNKNOWN_PART } else { MIN_PATIENCE.max(usual.saturating_mul(TIMES_USUAL)) }
}

impl SlowLane {
    /// With a queue and settings of its own.
    pub fn new(shared: Shared) -> Arc<Self> {
        Arc::new(Self { shared: Arc::new(shared), is_running: Mutex::new(false) })
    }

    /// Takes a request, which has been admitted.
    pub fn take<L: Launcher>(
        self: &Arc<Self>,
        entry: Entry,
        starter: &Starter<L>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        info!(model = starter.blueprint.model, "a request takes far longer than usual and runs apart from the others");
        let mut is_running = self.is_running();
        // It fails only after the pool has been stopped.
        let _ = self.shared.queue.push(Entry { admission: Admission::Last, allowance: None, ..entry });
        if std::mem::replace(&mut *is_running, true) {
            return;
        }
        let worker = Worker {
            number: 0,
            starter: starter.clone(),
            meters: starter.meters.clone(),
            shared: Arc::clone(&self.shared),
            states: Arc::new(watch::channel(vec![State::Starting]).0),
            restarts: Restarts::default(),
            again: Vec::new(),
            slow_lane: None,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let (lane, stop) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => drop(lane.shared.queue.close()),
                () = worker.work() => {}
                () = lane.idle() => {}
            }
        });
    }

    /// Resolves when the session is not needed any more.
    async fn idle(&self) {
        let mut looks = 0;
        while looks < 2 {
            sleep(IDLE_INTERVAL).await;
            let mut is_running = self.is_running();
            let is_idle = !self.shared.is_busy.load(Ordering::Relaxed) && !self.shared.queue.has_waiting();
            looks = if is_idle { looks + 1 } else { 0 };
            *is_running = looks < 2;
        }
    }

    fn is_running(&self) -> MutexGuard<'_, bool> {
        // No code panics between two changes that belong together.
        self.is_running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
