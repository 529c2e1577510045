//! Session pool of one model: the entry point of the scheduler.

use std::sync::Arc;
use std::time::Duration;

use open_inference::{Batching, Tensor};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::batching::policy::Revocation;
use super::chunking::{self, AppendError, Chunking, OutputAssembler};
use super::error::RunError;
use super::metrics::PoolMetrics;
use super::queue::PushError;
use super::queue::entry::{Admission, Entry, Priority, RunOutput};
use super::settings::PoolSettings;
use super::shared::{PoolState, Shared};
use super::worker::Worker;
use super::worker::restart_backoff::RestartBackoff;
use super::worker::session_starter::SessionStarter;
use super::worker::slow_lane::SlowLane;
use crate::session::{Launcher, SessionConfig, SessionInfo, StartError};

/// The sessions of one model. Dropping the pool ends them.
pub struct Pool {
    shared: Arc<Shared>,
    metrics: PoolMetrics,
    states: watch::Receiver<Vec<PoolState>>,
    workers: TaskTracker,
    stop: CancellationToken,
    _stops_when_dropped: DropGuard,
}

impl Pool {
    /// Starts the workers and returns immediately.
    pub fn start<L: Launcher>(launcher: &L, config: &SessionConfig, settings: &PoolSettings) -> Self {
        let (publish, states) = watch::channel(vec![PoolState::Starting; settings.sessions]);
        let (workers, stop) = (TaskTracker::new(), CancellationToken::new());
        let publish = Arc::new(publish);
        let shared = Arc::new(Shared::new(config, settings, settings.sessions));
        let slow_lane = SlowLane::new(Shared::new(config, settings, 1));
        for number in 0..settings.sessions {
            let starter = SessionStarter {
                launcher: launcher.clone(),
                config: config.clone(),
                metrics: settings.metrics.clone(),
                shared: Arc::clone(&shared),
            };
            let worker = Worker {
                number,
                starter,
                metrics: settings.metrics.clone(),
                shared: Arc::clone(&shared),
                states: Arc::clone(&publish),
                backoff: RestartBackoff::default(),
                retries: Vec::new(),
                slow_lane: Some(Arc::clone(&slow_lane)),
                tasks: workers.clone(),
                stop: stop.clone(),
            };
            let stop = stop.clone();
            workers.spawn(async move { stop.run_until_cancelled(worker.run_sessions()).await });
        }
        workers.close();
        Self {
            shared,
            metrics: settings.metrics.clone(),
            states,
            workers,
            _stops_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Runs the model on `inputs`, which must match its signature. The first idle session takes the request, batched with
    /// other waiting requests. A request with many independent rows runs in chunks. Dropping the future removes the request
    /// from the queue, and cancels its run unless the batch has other live requests.
    pub async fn run(&self, inputs: Vec<Tensor>, priority: Priority) -> Result<RunOutput, RunError> {
        match Chunking::plan(&inputs, &self.shared.batch, &self.shared.policy)? {
            Chunking::Whole => self.run_entry(Entry::new(inputs, priority)).await,
            Chunking::Chunks(rows) => self.run_chunks(inputs, rows, priority).await,
        }
    }

    /// Runs the chunks in sequence. `RUN_TIMEOUT_MS` limits the sum of their run times.
    async fn run_chunks(
        &self,
        inputs: Vec<Tensor>,
        chunk_rows: usize,
        priority: Priority,
    ) -> Result<RunOutput, RunError> {
        let (rows, timeout) =
            (inputs.first().and_then(Tensor::rows).unwrap_or_default(), self.shared.batch.run_timeout);
        let mut assembler: Option<OutputAssembler> = None;
        let mut last = None;
        for (start, chunk) in chunking::chunks(&inputs, rows, chunk_rows) {
            let (mut entry, response) = Entry::new(chunk, priority);
            let rows_of_chunk = entry.weight();
            let left = timeout.saturating_sub(assembler.as_ref().map_or(Duration::ZERO, OutputAssembler::run_time));
            if left.is_zero() {
                return Err(RunError::TimedOut(timeout));
            }
            entry.time_budget = Some(left);
            entry.admission = if start > 0 { Admission::Front } else { Admission::IfCapacity };
            entry.request_rows = rows;
            let output =
                self.run_entry((entry, response)).await.map_err(|error| error.of_rows(start, rows_of_chunk))?;
            let appended = match &mut assembler {
                Some(assembler) => assembler.append(&output, rows_of_chunk),
                None => OutputAssembler::new(&output, rows_of_chunk, rows).map(|new| assembler = Some(new)),
            };
            match appended {
                Ok(()) => last = Some(output),
                Err(AppendError::TooLarge(error)) => return Err(error),
                Err(AppendError::ShapeMismatch(reason)) => {
                    self.shared
                        .revoke(&self.metrics, Revocation { reason, nondeterministic: false, invalid_before_ms: None });
                    Chunking::check_whole(&inputs)?;
                    return self.run_entry(Entry::new(inputs, priority)).await;
                }
            }
        }
        match (assembler, last) {
            (Some(assembler), Some(last)) => Ok(assembler.finish(last)),
            _ => self.run_entry(Entry::new(inputs, priority)).await,
        }
    }

    /// Like [`Self::run`], but never batched with other requests and never in chunks.
    pub async fn run_unbatched(&self, inputs: Vec<Tensor>, priority: Priority) -> Result<RunOutput, RunError> {
        Chunking::check_whole(&inputs)?;
        let (entry, response) = Entry::new(inputs, priority);
        self.run_entry((entry.unbatched(), response)).await
    }

    async fn run_entry(
        &self,
        (entry, response): (Entry, oneshot::Receiver<Result<RunOutput, RunError>>),
    ) -> Result<RunOutput, RunError> {
        if let PoolState::Unavailable(reason) = self.state() {
            return Err(RunError::Unavailable(reason.to_string()));
        }
        if let Some(error) = self.shared.quarantine.find(&entry.inputs) {
            return Err(error);
        }
        self.shared.queue.push(entry).map_err(|error| match error {
            PushError::Full(retry_after) => RunError::QueueFull { retry_after },
            PushError::Closed => RunError::Stopped,
        })?;
        response.await.unwrap_or(Err(RunError::Stopped))
    }

    /// The current state.
    pub fn state(&self) -> PoolState {
        PoolState::best(&self.states.borrow())
    }

    /// Whether requests of different callers share batches, and why. `None` before the first session is warm.
    pub fn batching(&self) -> Option<Batching> {
        self.shared.policy.batching()
    }

    /// Whether equal inputs are known to give different results.
    pub fn is_nondeterministic(&self) -> bool {
        self.shared.policy.is_nondeterministic()
    }

    /// Results computed before this time may be wrong, as a check of the running model showed; ms since the Unix epoch.
    pub fn invalid_before_ms(&self) -> Option<u64> {
        self.shared.policy.revocation().and_then(|revocation| revocation.invalid_before_ms)
    }

    /// Waits for the first ready session. Passes each start error to `failed`. `None` if the pool stops first.
    pub async fn ready(&self, mut failed: impl FnMut(&StartError)) -> Option<Arc<SessionInfo>> {
        let mut states = self.states.clone();
        loop {
            let state = PoolState::best(&states.borrow_and_update());
            match state {
                PoolState::Ready(info) => return Some(info),
                PoolState::Unavailable(error) => failed(&error),
                PoolState::Starting => {}
            }
            states.changed().await.ok()?;
        }
    }

    /// Resolves when all sessions have ended, which they do once the pool is dropped. The future does not keep the pool alive.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let workers = self.workers.clone();
        async move { workers.wait().await }
    }

    /// Kills the sessions. Returns when no worker uses them and every waiting request has its error. It does not wait for the
    /// kernel to reap the processes: nothing could speed that up.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.workers.wait().await;
        // Dropping an entry closes its reply channel, which its caller receives as `RunError::Stopped`.
        drop(self.shared.queue.close());
    }
}
