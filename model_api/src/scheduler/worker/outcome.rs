//! Outcome of a run: which requests get their results, which get an error, and which are retried.
//!
//! A failed batch is split until the request that causes the failure is alone. Only that request gets the error.

use std::sync::Arc;
use std::time::Duration;

use open_inference::Tensor;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::Worker;
use super::batch_check::BatchCheck;
use super::restart_backoff::RestartBackoff;
use super::slow_lane::SlowLane;
use crate::memory::LimitExceeded;
use crate::scheduler::batching::policy::Revocation;
use crate::scheduler::error::RunError;
use crate::scheduler::queue::batch::{Batch, CompletedBatch, RetryStage};
use crate::scheduler::queue::entry::Entry;
use crate::scheduler::shared::PoolState;
use crate::session::{Launcher, SessionInfo, StartError};

/// Why a session has ended.
pub struct SessionFailure {
    pub error: StartError,
    pub cause: FailureCause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// It did not start.
    StartFailed,
    /// Not known: the model, the machine, or one of several requests.
    Unknown,
    /// One request, which is not run again, or the memory that a batch used.
    Request,
    /// Its memory had grown, and there was no room for a second session beside it.
    MemoryGrowth,
}

/// Result of a run.
pub enum RunOutcome {
    Completed(Vec<Tensor>),
    Rejected(String),
    /// Cancelled because of the time budget, or because every caller had gone.
    Cancelled,
    /// Cancelled because it took far longer than expected while others waited. Holds the reason if the session crashed.
    Deferred(Option<String>),
    /// Size of the outputs, bytes.
    OutputsTooLarge(usize),
    /// The session exceeded a memory limit and was killed.
    OutOfMemory(LimitExceeded),
    /// The reason, and whether the session crashed because it did not respond to a cancellation.
    Crashed(String, bool),
}

/// Figures of a run.
pub struct CompletedRun {
    pub session: Arc<SessionInfo>,
    pub started_at: Instant,
    pub run_time: Duration,
}

/// What becomes of a batch after its run.
impl<L: Launcher> Worker<L> {
    /// Returns the batch whose replies are to be sent. The error is the end of the session.
    pub fn handle(
        &mut self,
        outcome: RunOutcome,
        batch: Batch,
        run: CompletedRun,
    ) -> Result<Option<CompletedBatch>, SessionFailure> {
        let CompletedRun { session, started_at, run_time } = run;
        match outcome {
            RunOutcome::Completed(outputs) => {
                self.backoff.reset();
                self.record(&batch, started_at, run_time);
                return Ok(self.complete(CompletedBatch { batch, outputs, session, started_at, run_time }));
            }
            RunOutcome::Rejected(reason) => {
                self.backoff.reset();
                self.on_rejected(batch, || RunError::Rejected(reason.clone()));
            }
            RunOutcome::OutputsTooLarge(bytes) => {
                self.backoff.reset();
                self.on_rejected(batch, || RunError::result_too_large(bytes));
            }
            RunOutcome::OutOfMemory(exceeded) => return Err(self.on_out_of_memory(batch, &exceeded)),
            RunOutcome::Cancelled => self.on_timeout(batch),
            RunOutcome::Deferred(crash) => {
                self.defer(batch);
                if let Some(reason) = crash {
                    return Err(SessionFailure::of_request(reason));
                }
            }
            RunOutcome::Crashed(reason, was_cancelled) => return Err(self.on_crash(batch, reason, was_cancelled)),
        }
        Ok(None)
    }

    fn record(&self, batch: &Batch, started_at: Instant, run_time: Duration) {
        self.starter.shared.queue.estimator.record(batch.rows(), run_time);
        self.metrics.run_seconds.observe(run_time.as_secs_f64());
        for entry in &batch.entries {
            let queue_time = started_at.saturating_duration_since(entry.queued_at);
            self.metrics.queue_seconds.observe(queue_time.as_secs_f64());
        }
    }

    /// `None` if the outputs cannot be split by request. The requests then run alone.
    fn complete(&mut self, completed: CompletedBatch) -> Option<CompletedBatch> {
        if completed.is_splittable() {
            self.check(&completed);
            return Some(completed);
        }
        let shapes: Vec<_> = completed.outputs.iter().map(|output| &output.shape).collect();
        let rows = completed.batch.rows();
        let reason = format!("a batch of {rows} rows had results of the shapes {shapes:?}");
        self.shared.revoke(&self.metrics, Revocation { reason, nondeterministic: false, invalid_before_ms: None });
        let time_budget = self.shared.batch.run_timeout;
        self.retries.extend(completed.batch.into_singles(time_budget, RetryStage::Rejected).rev());
        None
    }

    /// Starts a background check of the batch if it is sampled.
    fn check(&self, completed: &CompletedBatch) {
        if let Some(check) = BatchCheck::sample(completed, &self.shared, &self.metrics) {
            let stop = self.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(check.run()).await });
        }
    }

    /// Bisects the batch, until the requests whose inputs the model rejects are alone.
    fn on_rejected(&mut self, batch: Batch, error: impl Fn() -> RunError) {
        if batch.entries.len() == 1 {
            batch.reject(error);
        } else {
            self.retries.extend(batch.bisect().into_iter().rev());
        }
    }

    fn on_timeout(&mut self, batch: Batch) {
        let timeout = self.shared.batch.run_timeout;
        if batch.entries.len() == 1 {
            batch.reject(|| RunError::TimedOut(timeout));
        } else {
            // The requests share the remaining half of the timeout. Each share exceeds the expected time of the whole batch:
            // `BatchSettings` limits batches to a small part of the timeout.
            let time_budget = timeout / 2 / u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
            self.retries.extend(batch.into_singles(time_budget, RetryStage::TimedOut).rev());
        }
    }

    /// Retries each request alone on a new session: the killed session may have been large before this batch.
    fn on_out_of_memory(&mut self, batch: Batch, exceeded: &LimitExceeded) -> SessionFailure {
        let failure = SessionFailure::of_request(exceeded.to_string());
        if batch.entries.len() == 1 && batch.stage == RetryStage::OutOfMemory {
            if matches!(exceeded, LimitExceeded::PerSession(_)) {
                let error = RunError::OutOfMemory(exceeded.clone());
                batch.entries.iter().for_each(|entry| self.shared.quarantine.insert(&entry.inputs, error.clone()));
            }
            batch.reject(|| RunError::OutOfMemory(exceeded.clone()));
        } else {
            self.retries.extend(batch.into_singles(self.shared.batch.run_timeout, RetryStage::OutOfMemory).rev());
        }
        failure
    }

    fn on_crash(&mut self, batch: Batch, reason: String, was_cancelled: bool) -> SessionFailure {
        let (is_single, stage) = (batch.entries.len() == 1, batch.stage);
        if was_cancelled {
            self.on_timeout(batch);
            return SessionFailure::of_request(reason);
        }
        if is_single && stage == RetryStage::Crashed {
            batch.entries.iter().for_each(|entry| self.shared.quarantine.insert(&entry.inputs, RunError::Crashed));
            batch.reject(|| RunError::Crashed);
            return SessionFailure::of_request(reason);
        }
        self.retries.extend(batch.into_singles(self.shared.batch.run_timeout, RetryStage::Crashed).rev());
        SessionFailure::unknown(reason)
    }

    /// After a run that took far longer than expected: a single request moves to the slow lane, several are retried alone.
    fn defer(&mut self, mut batch: Batch) {
        if let (Some(lane), [_]) = (&self.slow_lane, batch.entries.as_slice()) {
            for entry in batch.entries.drain(..) {
                self.run_on_slow_lane(lane, entry);
            }
        } else {
            self.retries.extend(batch.into_singles(self.shared.batch.run_timeout, RetryStage::New).rev());
        }
    }

    /// Moves an admitted request to the slow lane, and starts the worker of the lane unless it is running.
    fn run_on_slow_lane(&self, lane: &Arc<SlowLane>, entry: Entry) {
        info!(model = self.starter.config.model, "slow request moved to a session of its own");
        if !lane.enqueue(entry) {
            return;
        }
        let worker = Worker {
            number: 0,
            starter: self.starter.clone(),
            metrics: self.starter.metrics.clone(),
            shared: Arc::clone(&lane.shared),
            states: Arc::new(watch::channel(vec![PoolState::Starting]).0),
            backoff: RestartBackoff::default(),
            retries: Vec::new(),
            slow_lane: None,
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        let (lane, stop) = (Arc::clone(lane), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => drop(lane.shared.queue.close()),
                () = worker.run_sessions() => {}
                () = lane.idle() => {}
            }
        });
    }

    /// Rejects every waiting request: the next start may fail as well, so they would wait too long.
    pub fn reject_all(&mut self, error: &StartError) {
        self.publish(PoolState::Unavailable(error.clone()));
        let unavailable = || RunError::Unavailable(error.to_string());
        self.retries.drain(..).for_each(|batch| batch.reject(unavailable));
        // Another session of this model may still serve the queue.
        if matches!(PoolState::best(&self.states.borrow()), PoolState::Unavailable(_)) {
            self.shared.queue.drain().into_iter().for_each(|entry| entry.send_reply(Err(unavailable())));
        }
    }
}

impl SessionFailure {
    /// A crash whose cause is not known.
    pub fn unknown(reason: String) -> Self {
        Self { error: StartError::Crashed(reason), cause: FailureCause::Unknown }
    }

    /// A crash that one request caused.
    pub fn of_request(reason: String) -> Self {
        Self { error: StartError::Crashed(reason), cause: FailureCause::Request }
    }
}
