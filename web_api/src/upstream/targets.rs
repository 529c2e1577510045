//! State per target: congestion window, pending requests of each core, and time per row.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use open_inference::Inference;
use service::runtime;

use super::batch::PendingRequest;
use super::congestion_window::CongestionWindow;
use crate::error::Error;

/// Concurrent calls to one model version, divided among the cores, at least one per core. The sessions of the model have their next
/// batch while the last responses are in transit, and yet requests accumulate into batches.
const MAX_CONCURRENT_CALLS: usize = 4;

/// Upper bound of the expected inference time of a batch, so that batching adds little latency.
const MAX_BATCH_DURATION: Duration = Duration::from_millis(10);

/// Initial window per core: this many requests, or what the model computes in [`INITIAL_WINDOW_DURATION`] if its time per row is
/// known. It exceeds the queue limit of the model, so that the model itself reports overload.
pub const INITIAL_WINDOW: usize = 64;
const INITIAL_WINDOW_DURATION: Duration = Duration::from_millis(150);

/// Where requests of the same batch go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetKey {
    pub model: String,
    /// `None` for the default version.
    pub version: Option<String>,
    /// Background requests are batched separately: they must neither delay interactive requests nor share their priority.
    pub in_background: bool,
}

/// State of one target.
pub struct Target {
    /// Includes pending requests.
    pub window: CongestionWindow,
    /// One per core.
    pub queues: Vec<CoreQueue>,
    /// Time per row of the last call. An upper bound, because the model may have batched it with other calls.
    pub time_per_row: Duration,
}

/// Pending requests of callers on one core.
#[derive(Default)]
pub struct CoreQueue {
    pub calls_in_flight: usize,
    pub pending: Vec<PendingRequest>,
}

/// State of all targets. Clones share it. Entries are never removed: there are as many as model versions in use.
#[derive(Clone, Default)]
pub struct Targets(Arc<Mutex<HashMap<TargetKey, Target>>>);

impl Targets {
    pub fn lock(&self) -> MutexGuard<'_, HashMap<TargetKey, Target>> {
        // Nothing panics while the state is inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the time per row from the result of a call with `rows` rows.
    pub fn record_cost(&self, key: &TargetKey, result: &Result<Inference, Error>, rows: usize) {
        if let Ok(inference) = result
            && let Some(target) = self.lock().get_mut(key)
        {
            target.time_per_row = model_time(inference) / u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
        }
    }
}

impl Target {
    pub fn new() -> Self {
        let queues = (0..runtime::core_count()).map(|_| CoreQueue::default()).collect();
        Self { window: CongestionWindow::default(), queues, time_per_row: Duration::ZERO }
    }

    /// Rows of a batch: at most `max`, and at most what the model computes in [`MAX_BATCH_DURATION`].
    pub fn batch_rows(&self, max: usize) -> usize {
        self.rows_within(MAX_BATCH_DURATION).clamp(1, max)
    }

    /// Size of the initial congestion window, in requests.
    pub fn initial_window(&self) -> usize {
        // A time per row of zero means that there has been no result yet. It must not open the window without bound.
        let measured = if self.time_per_row.is_zero() { 0 } else { self.rows_within(INITIAL_WINDOW_DURATION) };
        measured.max(INITIAL_WINDOW).saturating_mul(self.queues.len())
    }

    fn rows_within(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos() / self.time_per_row.as_nanos().max(1)).unwrap_or(usize::MAX)
    }
}

impl CoreQueue {
    /// Whether the pending requests fill a batch.
    pub fn is_full(&self, batch_rows: usize) -> bool {
        self.pending.iter().map(|request| request.rows).sum::<usize>() >= batch_rows
    }
}

/// Share of [`MAX_CONCURRENT_CALLS`] of one core.
pub fn calls_per_core() -> usize {
    MAX_CONCURRENT_CALLS.div_ceil(runtime::core_count())
}

/// Time that the model spent on a call; zero if it was not measured.
fn model_time(inference: &Inference) -> Duration {
    let timing = &inference.provenance.timing_ms;
    Duration::try_from_secs_f64((timing.decode + timing.infer) / 1e3).unwrap_or_default()
}
