//! State shared by a pool and its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::batching::check_sampler::CheckSampler;
use super::batching::policy::{BatchingPolicy, Revocation};
use super::metrics::PoolMetrics;
use super::quarantine::Quarantine;
use super::queue::Queue;
use super::settings::{BatchSettings, PoolSettings};
use crate::session::{SessionConfig, SessionInfo, StartError};

/// Largest model, in bytes, whose sessions use batch buckets: each bucket holds another copy of the weights on the GPU.
const MAX_BUCKETED_MODEL_BYTES: u64 = 128 << 20;

/// What the workers of one queue share.
pub struct Shared {
    /// Requests that wait for a session.
    pub queue: Queue,
    /// Requests that crashed sessions.
    pub quarantine: Quarantine,
    /// Limits of batches, as configured.
    pub batch: BatchSettings,
    /// Whether requests of different callers share batches.
    pub policy: BatchingPolicy,
    /// Selects the batches that are checked.
    pub sampler: CheckSampler,
    /// Whether the most recently started session runs on a GPU.
    pub on_gpu: AtomicBool,
    /// Whether a run is in progress. Meaningful for a pool of one session.
    pub is_busy: AtomicBool,
    /// Whether batch buckets are off: the model is too large, or a session crashed while it added one.
    pub buckets_disabled: AtomicBool,
}

impl Shared {
    /// The state of a pool of `sessions` sessions.
    pub fn new(config: &SessionConfig, settings: &PoolSettings, sessions: usize) -> Self {
        Self {
            queue: Queue::new(config.model.clone(), settings.queue, sessions, settings.metrics.clone()),
            quarantine: Quarantine::default(),
            batch: settings.batch,
            policy: BatchingPolicy::default(),
            sampler: CheckSampler::default(),
            on_gpu: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            buckets_disabled: AtomicBool::new(settings.model_bytes > MAX_BUCKETED_MODEL_BYTES),
        }
    }

    /// Disables batching permanently. Logs the first revocation.
    pub fn revoke(&self, metrics: &PoolMetrics, revocation: Revocation) {
        let reason = revocation.reason.clone();
        if self.policy.revoke(revocation) {
            warn!(model = self.queue.model(), reason, "batching disabled: requests run one by one from now on");
            self.policy.batching().iter().for_each(|batching| metrics.batching.set(batching));
        }
    }

    /// Limits of batches, adjusted to the device and to the current batching policy.
    pub fn batch(&self) -> BatchSettings {
        let batch = if self.on_gpu.load(Ordering::Relaxed) { self.batch.on_gpu() } else { self.batch };
        if self.policy.is_enabled() { batch } else { batch.unbatched() }
    }
}

/// State of a pool.
#[derive(Clone, Debug)]
pub enum PoolState {
    /// A session is starting. Requests wait for it.
    Starting,
    /// At least one session is ready.
    Ready(Arc<SessionInfo>),
    /// No session starts. The next attempt follows after a backoff.
    Unavailable(StartError),
}

impl PoolState {
    /// The best state of several sessions.
    pub fn best(states: &[Self]) -> Self {
        let rank = |state: &&Self| match state {
            Self::Unavailable(_) => 0,
            Self::Starting => 1,
            Self::Ready(_) => 2,
        };
        states.iter().max_by_key(rank).cloned().unwrap_or(Self::Starting)
    }
}
