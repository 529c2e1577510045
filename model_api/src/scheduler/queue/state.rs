//! State of a queue behind its lock: one FIFO for each priority class, and overload mode.

use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Admission, Entry, Priority};
use super::fifo::{BatchBudget, Fifo};
use super::overload::{OverloadMode, StandingQueue};

/// Under constant interactive load, background requests get one in this many batches, once the first of them has waited for this
/// long. Shorter bursts of interactive requests run before all of them.
const BATCHES_PER_BACKGROUND_BATCH: u32 = 16;
pub const MAX_BACKGROUND_WAIT: Duration = Duration::from_secs(1);

/// State of a queue.
#[derive(Debug, Default)]
pub struct QueueState {
    pub interactive: Fifo,
    pub background: Fifo,
    /// Batches since the last one with a background request.
    batches_since_background: u32,
    /// `None` unless load is shed.
    pub overload: Option<OverloadMode>,
    pub standing: StandingQueue,
    /// Rows that batches are expected to have once many requests wait. 0 before the first batch.
    pub expected_batch_rows: usize,
    /// Sessions that take batches.
    pub active_sessions: usize,
    pub closed: bool,
}

impl QueueState {
    /// The requests of one priority class.
    pub fn fifo(&mut self, priority: Priority) -> &mut Fifo {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Background => &mut self.background,
        }
    }

    /// Rows of all requests.
    pub fn rows(&self) -> usize {
        self.interactive.rows() + self.background.rows()
    }

    /// Bytes of all inputs.
    pub fn bytes(&self) -> usize {
        self.interactive.bytes() + self.background.bytes()
    }

    /// The first interactive request, or else the first background request.
    pub fn front(&self) -> Option<&Entry> {
        self.interactive.front().or(self.background.front())
    }

    /// Moves the requests of the next batch to `entries`.
    pub fn drain_into(&mut self, entries: &mut Vec<Entry>, budget: &mut BatchBudget) {
        let is_background_turn = self.is_background_turn();
        let rows = self.background.rows();
        if is_background_turn {
            self.background.drain_into(entries, budget);
        }
        self.interactive.drain_into(entries, budget);
        if !is_background_turn {
            self.background.drain_into(entries, budget);
        }
        let is_skipped = rows > 0 && self.background.rows() == rows;
        self.batches_since_background = if is_skipped { self.batches_since_background.saturating_add(1) } else { 0 };
    }

    /// Records the queueing delay of the first interactive request. Later chunks of a request do not count: they have waited for
    /// their own first chunk.
    pub fn record_delay(&mut self, batch: &[Entry]) {
        let is_interactive = |entry: &&Entry| entry.priority == Priority::Interactive;
        let mut entries = batch.iter().chain(self.interactive.front()).filter(is_interactive).peekable();
        if entries.peek().is_none() {
            self.standing = StandingQueue::default();
        } else if let Some(first) = entries.find(|entry| entry.admission != Admission::Front) {
            let now = Instant::now();
            self.standing.record(now.saturating_duration_since(first.queued_at), now);
        }
    }

    fn is_background_turn(&self) -> bool {
        self.batches_since_background + 1 >= BATCHES_PER_BACKGROUND_BATCH
            && self.background.front().is_some_and(|first| first.queued_at.elapsed() >= MAX_BACKGROUND_WAIT)
    }
}
