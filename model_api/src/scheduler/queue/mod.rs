//! Bounded request queue that forms batches.
//!
//! A batch is formed when a session is idle, from the requests that wait then. Under light load each request runs immediately and
//! alone. Under heavier load batches become larger. The queue is limited in rows and in bytes. A full queue rejects immediately
//! with `Retry-After`.
//!
//! All load shedding happens in this queue ([`overload`]), because only the queue sees the requests of every client and the time
//! of every batch. `web_api` merely limits its requests in flight to what this queue last accepted.

pub mod batch;
pub mod entry;
mod fifo;
mod overload;
mod state;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use self::batch::{Batch, RetryStage};
use self::entry::{Admission, Entry, Priority};
use self::fifo::{BatchBudget, Fifo};
use self::overload::{OverloadMode, StandingQueue};
use self::state::QueueState;
use super::error::RunError;
use super::estimator::CostEstimator;
use super::metrics::PoolMetrics;
use super::settings::{BatchSettings, QueueLimits};

/// Maximum size of the inputs of a batch of several requests, bytes. A session receives them as one frame.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// Maximum `Retry-After`, s.
const MAX_RETRY_AFTER_SECS: f64 = 60.0;

/// The requests that wait for the sessions of one model.
#[derive(Debug)]
pub struct Queue {
    model: String,
    state: Mutex<QueueState>,
    arrived: Notify,
    limits: QueueLimits,
    sessions: u32,
    /// Cost of batches on the sessions.
    pub estimator: CostEstimator,
    metrics: PoolMetrics,
}

/// Why the queue rejects a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The queue is full, probably for this time.
    Full(Duration),
    /// The pool has been stopped.
    Closed,
}

impl Queue {
    /// An empty queue in front of `sessions` sessions.
    pub fn new(model: String, limits: QueueLimits, sessions: usize, metrics: PoolMetrics) -> Self {
        Self {
            model,
            state: Mutex::default(),
            arrived: Notify::new(),
            limits,
            sessions: u32::try_from(sessions.max(1)).unwrap_or(u32::MAX),
            estimator: CostEstimator::default(),
            metrics,
        }
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Registers a session that takes batches until the guard is dropped.
    pub fn register_session(&self) -> SessionGuard<'_> {
        self.lock().active_sessions += 1;
        SessionGuard(self)
    }

    /// Queues a request, or rejects it immediately.
    pub fn push(&self, entry: Entry) -> Result<(), PushError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PushError::Closed);
        }
        let is_admitted = entry.admission != Admission::IfCapacity;
        if !is_admitted && !self.has_capacity(&state, &entry) {
            // Requests whose callers have gone make room.
            state.interactive.drop_cancelled();
            state.background.drop_cancelled();
        }
        let is_rejected = !is_admitted && !self.has_capacity(&state, &entry);
        let was_overloaded = state.overload.is_some();
        let (priority, rows) = (entry.priority, entry.request_rows);
        match entry.admission {
            Admission::Front => state.fifo(priority).push_front(entry),
            _ if is_rejected => {}
            _ => state.fifo(priority).push_back(entry),
        }
        let is_overloaded = priority == Priority::Interactive
            && !is_admitted
            && state.standing.is_standing()
            && (is_rejected || self.is_long(&state));
        let evicted = if is_overloaded { self.enter_overload(&mut state) } else { Vec::new() };
        let retry_after = self.retry_after(&state, rows);
        self.update_gauge(&state);
        let has_entered_overload = !was_overloaded && state.overload.is_some();
        drop(state);
        if has_entered_overload {
            info!(model = self.model, refused = evicted.len(), "model overloaded, shedding load");
        }
        self.metrics.refused.inc_by(evicted.len() as u64 + u64::from(is_rejected));
        for entry in evicted {
            entry.send_reply(Err(RunError::QueueFull { retry_after }));
        }
        if is_rejected {
            return Err(PushError::Full(retry_after));
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits for a batch: until a request arrives, and then for `max_batch_time` for others to join it. Cancel-safe.
    pub async fn next_batch(&self, settings: &BatchSettings) -> Batch {
        loop {
            let arrived = self.arrived.notified();
            if let Some(batch) = self.try_next_batch(settings) {
                return batch;
            }
            if let Some(due_at) = self.due_at(settings) {
                let _ = timeout_at(due_at, arrived).await;
            } else if self.lock().overload.is_some() {
                let idle_since = Instant::now();
                let _ = timeout(self.overload_window() / overload::IDLE_FRACTION, arrived).await;
                self.record_idle(idle_since);
            } else {
                arrived.await;
            }
        }
    }

    /// [`Self::form_batch`], unless waiting for more requests pays.
    pub fn try_next_batch(&self, settings: &BatchSettings) -> Option<Batch> {
        self.due_at(settings).filter(|&due_at| due_at <= Instant::now()).and_then(|_| self.form_batch(settings))
    }

    /// Forms a batch now: the oldest request of the highest priority, and all that can be batched with it. A background request
    /// whose turn it is has the highest priority.
    pub fn form_batch(&self, settings: &BatchSettings) -> Option<Batch> {
        let mut state = self.lock();
        let mut entries = Vec::new();
        let mut budget = BatchBudget { rows: settings.batch_rows(&self.estimator), bytes: MAX_BATCH_BYTES };
        state.drain_into(&mut entries, &mut budget);
        if !entries.is_empty() {
            state.record_delay(&entries);
            state.expected_batch_rows = settings.expected_batch_rows(&self.estimator);
        }
        self.update_gauge(&state);
        let has_more = state.front().is_some();
        drop(state);
        if has_more {
            // The notification for these requests may have woken the session that has just taken this batch.
            self.arrived.notify_one();
        }
        let time_budget = match entries.as_slice() {
            [only] => only.time_budget.unwrap_or(settings.run_timeout),
            _ => settings.run_timeout / 2,
        };
        (!entries.is_empty()).then_some(Batch { entries, time_budget, stage: RetryStage::New })
    }

    /// Whether any request waits.
    pub fn has_pending(&self) -> bool {
        self.lock().front().is_some()
    }

    /// Closes the queue and returns the waiting requests.
    pub fn close(&self) -> Vec<Entry> {
        self.lock().closed = true;
        self.drain()
    }

    /// Removes and returns the waiting requests.
    pub fn drain(&self) -> Vec<Entry> {
        let mut state = self.lock();
        let fifos = [std::mem::take(&mut state.interactive), std::mem::take(&mut state.background)];
        self.update_gauge(&state);
        fifos.into_iter().flat_map(Fifo::into_entries).collect()
    }

    fn has_capacity(&self, state: &QueueState, entry: &Entry) -> bool {
        let (rows, bytes) = (state.rows(), state.bytes());
        // Interactive requests alone never lock out background requests.
        let is_first_in_background = entry.priority == Priority::Background && state.background.front().is_none();
        if rows == 0 || is_first_in_background {
            return true;
        }
        // Half of the queue is reserved for interactive requests.
        let divisor = if entry.priority == Priority::Background { 2 } else { 1 };
        let is_within_limits = rows + entry.request_rows <= self.limits.rows / divisor
            && bytes + entry.bytes() <= self.limits.bytes / divisor;
        is_within_limits
            && (state.overload.is_none()
                || entry.priority == Priority::Background
                || self.estimated_wait(state, state.interactive.rows() + 1) < self.overload_max_wait())
    }

    /// Enters overload mode. Returns the evicted requests, newest first: they have waited for the shortest time.
    fn enter_overload(&self, state: &mut QueueState) -> Vec<Entry> {
        let mut evicted = Vec::new();
        // Without a session, requests wait for the start of the next one, or are rejected if there is none.
        if state.active_sessions > 0 && state.overload.is_none() {
            state.overload = Some(OverloadMode::enter());
            // A single request stays: however long it takes, it waits for no other request.
            while state.interactive.has_several()
                && self.estimated_wait(state, state.interactive.rows()) > self.overload_max_wait()
                && let Some(newest) = state.interactive.pop_newest()
            {
                evicted.push(newest);
            }
        }
        evicted
    }

    /// Records that a session was idle until a request arrived. On a busy machine the task runs later than that.
    fn record_idle(&self, idle_since: Instant) {
        let mut state = self.lock();
        let until = state.front().map_or_else(Instant::now, |first| first.queued_at);
        let (window, sessions) = (self.overload_window(), self.sessions);
        let Some(overload) = &mut state.overload else { return };
        if overload.record_idle(idle_since, until, window, sessions) {
            (state.overload, state.standing) = (None, StandingQueue::default());
            drop(state);
            info!(model = self.model, "model recovered, load shedding off");
        }
    }

    fn overload_window(&self) -> Duration {
        overload::window(self.estimator.batch_duration())
    }

    fn overload_max_wait(&self) -> Duration {
        overload::max_wait(self.estimator.batch_duration())
    }

    fn is_long(&self, state: &QueueState) -> bool {
        let rows = state.interactive.rows();
        let batches = rows.div_ceil(state.expected_batch_rows.max(1));
        overload::is_long(batches, self.sessions as usize, self.estimated_wait(state, rows))
    }

    /// When the queue probably has capacity for `rows` more rows.
    fn retry_after(&self, state: &QueueState, rows: usize) -> Duration {
        let wait = self.estimated_wait(state, state.rows() + rows);
        Duration::from_secs_f64(wait.as_secs_f64().ceil().clamp(1.0, MAX_RETRY_AFTER_SECS))
    }

    fn update_gauge(&self, state: &QueueState) {
        self.metrics.queue_rows.set(state.rows().cast_signed() as i64);
    }

    /// The estimated time for `rows` rows: that of their batches, divided by the number of sessions.
    fn estimated_wait(&self, state: &QueueState, rows: usize) -> Duration {
        let max_rows = if state.expected_batch_rows == 0 { rows } else { state.expected_batch_rows };
        self.estimator.total_duration(rows, max_rows) / self.sessions
    }

    /// When the next batch is due. `None` if no request waits.
    fn due_at(&self, settings: &BatchSettings) -> Option<Instant> {
        let state = self.lock();
        let first = state.front()?;
        let queued_at = first.queued_at;
        // No other request could join the batch.
        let is_full = first.rows.is_none() || state.rows() >= settings.batch_rows(&self.estimator);
        Some(if is_full { queued_at } else { queued_at + settings.max_wait })
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // A panic cannot leave the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registration of a session. Dropping it ends the registration.
pub struct SessionGuard<'a>(&'a Queue);

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        self.0.lock().active_sessions -= 1;
    }
}

#[cfg(test)]
mod background_tests;

#[cfg(test)]
mod tests;
