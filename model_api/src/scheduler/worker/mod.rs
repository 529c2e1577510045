//! Worker: supervises one session and feeds it batches.
//!
//! The worker starts its session, restarts it with backoff after a crash and replaces it when its memory has grown. It decides
//! what becomes of a failed batch: the module docs of the scheduler list the cases.

pub mod batch_buckets;
pub mod batch_check;
pub mod outcome;
pub mod replacement;
pub mod restart_backoff;
pub mod session_starter;
pub mod slow_lane;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, join_all};
use open_inference::Tensor;
use tokio::sync::oneshot::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, warn};

use self::outcome::{CompletedRun, FailureCause, RunOutcome, SessionFailure};
use self::replacement::SessionReplacement;
use self::restart_backoff::RestartBackoff;
use self::session_starter::SessionStarter;
use self::slow_lane::{SlowLane, slow_run_threshold};
use super::metrics::PoolMetrics;
use super::queue::batch::{Batch, CompletedBatch, RetryStage};
use super::settings::BatchSettings;
use super::shared::{PoolState, Shared};
use crate::session::{Launcher, Session, SessionError, SessionInfo, StartError};

/// How often a slow run looks for waiting requests.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Supervisor of one session.
pub struct Worker<L> {
    pub number: usize,
    pub starter: SessionStarter<L>,
    pub metrics: PoolMetrics,
    pub shared: Arc<Shared>,
    pub states: Arc<watch::Sender<Vec<PoolState>>>,
    pub backoff: RestartBackoff,
    /// Parts of failed batches, the next one last. They run before the requests in the queue.
    pub retries: Vec<Batch>,
    /// Takes requests that run far longer than expected. `None` on the slow lane itself.
    pub slow_lane: Option<Arc<SlowLane>>,
    /// Background tasks: batch checks and the worker of the slow lane.
    pub tasks: TaskTracker,
    /// Ends the background tasks.
    pub stop: CancellationToken,
}

impl<L: Launcher> Worker<L> {
    /// Starts sessions one after the other and serves requests on them, until the future is dropped.
    pub async fn run_sessions(mut self) {
        loop {
            let SessionFailure { error, cause } = match self.starter.start().await {
                Ok((session_info, session)) => {
                    self.publish(PoolState::Ready(Arc::clone(&session_info)));
                    self.serve(session, session_info).await
                }
                Err(error) => SessionFailure { error, cause: FailureCause::StartFailed },
            };
            let delay = match cause {
                FailureCause::StartFailed => self.backoff.on_start_failure(),
                FailureCause::Unknown => self.backoff.on_crash(),
                FailureCause::Request | FailureCause::MemoryGrowth => Duration::ZERO,
            };
            if cause != FailureCause::MemoryGrowth {
                self.metrics.restarts.inc();
            }
            warn!(model = self.starter.config.model, reason = %error, ?delay, "session ended, starting a new one");
            if cause == FailureCause::StartFailed || self.backoff.is_crash_looping() {
                self.reject_all(&error);
            } else {
                self.publish(PoolState::Starting);
            }
            sleep(delay).await;
        }
    }

    /// Runs batches on the session until it ends.
    async fn serve(&mut self, mut session: L::Session, mut session_info: Arc<SessionInfo>) -> SessionFailure {
        let mut replacement = SessionReplacement::new(&self.starter, &session, &session_info);
        let shared = Arc::clone(&self.shared);
        let _session_guard = shared.queue.register_session();
        let mut completed: Option<CompletedBatch> = None;
        loop {
            if let Err(failure) = self.check_replacement(&mut replacement, &mut session, &mut session_info).await {
                completed.into_iter().for_each(CompletedBatch::send_replies);
                return failure;
            }
            let settings = self.shared.batch();
            let pending = self.retries.pop().or_else(|| shared.queue.try_next_batch(&settings));
            let batch = if let Some(batch) = pending {
                batch
            } else {
                completed.take().into_iter().for_each(CompletedBatch::send_replies);
                match self.wait_for_batch(&settings, &mut replacement, &mut session, &mut session_info).await {
                    Ok(batch) => batch,
                    Err(failure) => return failure,
                }
            };
            let Some(mut batch) = batch.retain_live() else { continue };
            let started_at = Instant::now();
            // Replies to the previous batch are sent only after the session has the next one, so that it never idles for them.
            let send_replies = async { completed.take().map(CompletedBatch::send_replies) };
            let (outcome, _) = join(self.run(&mut session, &mut batch), send_replies).await;
            let run_time = started_at.elapsed();
            replacement.record_run();
            let run = CompletedRun { session: Arc::clone(&session_info), started_at, run_time };
            match self.handle(outcome, batch, run) {
                Ok(next) => completed = next,
                Err(failure) => return failure,
            }
        }
    }

    /// Waits for the next batch. The error is the end of the session.
    async fn wait_for_batch(
        &self,
        settings: &BatchSettings,
        replacement: &mut SessionReplacement<L>,
        session: &mut L::Session,
        session_info: &mut Arc<SessionInfo>,
    ) -> Result<Batch, SessionFailure> {
        let mut next = pin!(self.shared.queue.next_batch(settings));
        loop {
            tokio::select! {
                reason = session.exited() => return Err(SessionFailure::unknown(reason)),
                batch = &mut next => return Ok(batch),
                () = replacement.due() => self.check_replacement(replacement, session, session_info).await?,
            }
        }
    }

    /// Checks the memory of the session, or switches to its replacement. The error is the end of the session.
    async fn check_replacement(
        &self,
        replacement: &mut SessionReplacement<L>,
        session: &mut L::Session,
        session_info: &mut Arc<SessionInfo>,
    ) -> Result<(), SessionFailure> {
        if let Some(next) = replacement.take_started().await {
            (*session_info, *session) = next;
            *replacement = SessionReplacement::after_replacement(&self.starter, session, session_info);
            self.publish(PoolState::Ready(Arc::clone(session_info)));
        }
        let ended = |reason| SessionFailure { error: StartError::Crashed(reason), cause: FailureCause::MemoryGrowth };
        replacement.check(session).map_err(ended)
    }

    async fn run(&self, session: &mut L::Session, batch: &mut Batch) -> RunOutcome {
        self.metrics.runs.inc();
        self.metrics.batch_rows.observe(batch.rows() as f64);
        let time_budget = batch.time_budget;
        let threshold = slow_run_threshold(batch.rows(), &self.starter.shared.queue.estimator, &self.shared.batch);
        let may_be_deferred =
            self.slow_lane.is_some() && batch.stage != RetryStage::TimedOut && threshold < time_budget;
        let span = batch.entries.first().map_or_else(Span::none, |entry| entry.span.clone());
        let (inputs, replies): (Vec<&[Tensor]>, Vec<_>) =
            batch.entries.iter_mut().map(|entry| (entry.inputs.as_slice(), &mut entry.reply)).unzip();
        let (cancel, mut is_deferred) = (CancellationToken::new(), false);
        self.shared.is_busy.store(true, Ordering::Relaxed);
        let mut run = pin!(session.run(&inputs, cancel.cancelled()).instrument(span));
        let all_callers_gone = join_all(replies.into_iter().map(Sender::closed));
        let result = tokio::select! {
            biased;
            result = &mut run => result,
            _ = all_callers_gone => {
                cancel.cancel();
                run.await
            }
            () = self.contention_after(threshold), if may_be_deferred => {
                is_deferred = true;
                cancel.cancel();
                run.await
            }
            () = sleep(time_budget) => {
                cancel.cancel();
                run.await
            }
        };
        self.shared.is_busy.store(false, Ordering::Relaxed);
        match result {
            Err(SessionError::Cancelled) if is_deferred => RunOutcome::Deferred(None),
            Err(SessionError::Crashed(reason)) if is_deferred => RunOutcome::Deferred(Some(reason)),
            Ok(outputs) => RunOutcome::Completed(outputs),
            Err(SessionError::Rejected(reason)) => RunOutcome::Rejected(reason),
            Err(SessionError::OutputsTooLarge(bytes)) => RunOutcome::OutputsTooLarge(bytes),
            Err(SessionError::OutOfMemory(exceeded)) => RunOutcome::OutOfMemory(exceeded),
            Err(SessionError::Cancelled) => RunOutcome::Cancelled,
            Err(SessionError::Crashed(reason)) => RunOutcome::Crashed(reason, cancel.is_cancelled()),
        }
    }

    /// Resolves once `threshold` has passed and another request waits for this session.
    async fn contention_after(&self, threshold: Duration) {
        sleep(threshold).await;
        while self.retries.is_empty() && !self.shared.queue.has_pending() {
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl<L> Worker<L> {
    fn publish(&self, state: PoolState) {
        self.states.send_modify(|states| states[self.number] = state);
    }
}

impl<L> Drop for Worker<L> {
    /// Publishes the end, also after a panic: a model without a worker must not look ready.
    fn drop(&mut self) {
        self.publish(PoolState::Unavailable(StartError::Crashed("its sessions have been stopped".to_owned())));
    }
}
