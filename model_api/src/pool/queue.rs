//! Waiting requests → one batch.
//!
//! A batch is made when a session is idle, of whatever waits then: under little load each request leaves at once and alone,
//! and the more there are, the larger batches become. What waits is measured in rows and in bytes.
//!
//! A full queue is refused, and so is a *standing* one before it is full. A burst leaves with the next batches, while a queue
//! that no batch empties has more coming than can go: whoever joins it waits for nothing but its length. So once it has stood
//! for [`STANDING`], it is kept as short as a batch or two, and the rest is told at once when to come back. This is
//! controlled delay (Nichols and Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012), at the entrance instead of at
//! the exit: who is refused there has not waited in vain.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::batch::{Batch, Past};
use super::entry::{Entry, Urgency};
use super::pace::Pace;
use super::{BatchSettings, Meters};

/// So long a queue may stand before it is shortened.
const STANDING: Duration = Duration::from_millis(100);

/// So long one may wait in a queue that has stood, or as long as two batches take where that is more.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// Bytes of one batch, unless a single request has more: what travels to a session's process in one piece.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// The longest that a refused client is asked to stay away, s.
const LONGEST_RETRY: f64 = 60.0;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Rows. A request with more is let into an empty queue.
    pub rows: usize,
    /// Bytes of inputs, likewise.
    pub bytes: usize,
}

/// The requests that wait for a model's sessions.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
    limits: QueueLimits,
    sessions: u32,
    /// How fast the sessions are.
    pub pace: Pace,
    meters: Meters,
}

#[derive(Debug, Default)]
struct Waiting {
    interactive: VecDeque<Entry>,
    background: VecDeque<Entry>,
    rows: usize,
    bytes: usize,
    /// Since when no batch has taken all that waited, while there was a session to take it.
    standing: Option<Instant>,
    /// Sessions that take batches.
    serving: usize,
    closed: bool,
}

/// Why a request may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no room, and there will be after this time.
    Full(Duration),
    /// No batch will be made any more.
    Closed,
}

impl Queue {
    /// An empty queue before so many sessions.
    pub fn new(limits: QueueLimits, sessions: usize, meters: Meters) -> Self {
        Self {
            waiting: Mutex::default(),
            came: Notify::new(),
            limits,
            sessions: u32::try_from(sessions.max(1)).unwrap_or(u32::MAX),
            pace: Pace::default(),
            meters,
        }
    }

    /// A session begins to take batches. It does until the guard is dropped.
    pub fn serve(&self) -> Serving<'_> {
        let mut waiting = self.waiting();
        waiting.serving += 1;
        // What has come while there was none is a burst.
        waiting.standing = waiting.standing.map(|_| Instant::now());
        Serving(self)
    }

    /// Puts a request at the end, or says at once that it cannot be.
    pub fn push(&self, entry: Entry) -> Result<(), Refused> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        let (rows, bytes) = (entry.weight(), entry.bytes());
        if !self.has_room(&waiting, &entry, rows, bytes) {
            // Those who have gone make room for those who have not.
            waiting.forget_gone();
            if !self.has_room(&waiting, &entry, rows, bytes) {
                self.meters.refused.inc();
                let whole = self.wait(waiting.rows + rows).as_secs_f64().ceil().clamp(1.0, LONGEST_RETRY);
                return Err(Refused::Full(Duration::from_secs_f64(whole)));
            }
        }
        waiting.rows += rows;
        waiting.bytes += bytes;
        waiting.standing.get_or_insert_with(Instant::now);
        match entry.urgency {
            Urgency::Interactive => waiting.interactive.push_back(entry),
            Urgency::Background => waiting.background.push_back(entry),
        }
        self.meters.queue_rows.set(waiting.rows.cast_signed() as i64);
        drop(waiting);
        self.came.notify_one();
        Ok(())
    }

    /// Waits until there is something to run, and, where the settings want it, for more that can go with it. Cancel-safe.
    pub async fn next(&self, settings: &BatchSettings) -> Batch {
        loop {
            let came = self.came.notified();
            if let Some(batch) = self.take_due(settings) {
                return batch;
            }
            match self.due(settings) {
                Some(moment) => drop(timeout_at(moment, came).await),
                None => came.await,
            }
        }
    }

    /// [`Self::take`], unless it is worth while to wait for more.
    pub fn take_due(&self, settings: &BatchSettings) -> Option<Batch> {
        self.due(settings).filter(|&moment| moment <= Instant::now()).and_then(|_| self.take(settings))
    }

    /// What can be run now: the request that has waited longest, the urgent ones first, and those that go with it.
    pub fn take(&self, settings: &BatchSettings) -> Option<Batch> {
        let mut waiting = self.waiting();
        let mut entries = Vec::new();
        let mut room = Room { rows: settings.rows(&self.pace), bytes: MAX_BATCH_BYTES };
        let Waiting { interactive, background, .. } = &mut *waiting;
        let (mut rows, mut bytes) = (0, 0);
        for line in [interactive, background] {
            let (took_rows, took_bytes) = fill(&mut entries, line, &mut room);
            rows += took_rows;
            bytes += took_bytes;
        }
        waiting.rows -= rows;
        waiting.bytes -= bytes;
        // Background work may wait for as long as it likes.
        if waiting.interactive.is_empty() {
            waiting.standing = None;
        }
        self.meters.queue_rows.set(waiting.rows.cast_signed() as i64);
        let is_more = !waiting.interactive.is_empty() || !waiting.background.is_empty();
        drop(waiting);
        if is_more {
            // Whoever put it there may have woken the one session that took this batch.
            self.came.notify_one();
        }
        let allowance = if entries.len() > 1 { settings.run_timeout / 2 } else { settings.run_timeout };
        (!entries.is_empty()).then_some(Batch { entries, allowance, past: Past::New })
    }

    /// Lets nothing in any more, and gives back what waits.
    pub fn close(&self) -> Vec<Entry> {
        self.waiting().closed = true;
        self.drain()
    }

    /// Takes out all that waits.
    pub fn drain(&self) -> Vec<Entry> {
        let mut waiting = self.waiting();
        let interactive = std::mem::take(&mut waiting.interactive);
        let background = std::mem::take(&mut waiting.background);
        (waiting.rows, waiting.bytes, waiting.standing) = (0, 0, None);
        self.meters.queue_rows.set(0);
        interactive.into_iter().chain(background).collect()
    }

    fn has_room(&self, waiting: &Waiting, entry: &Entry, rows: usize, bytes: usize) -> bool {
        if waiting.rows == 0 {
            return true;
        }
        // Half of it is kept for people.
        let part = if entry.urgency == Urgency::Background { 2 } else { 1 };
        let fits = waiting.rows + rows <= self.limits.rows / part && waiting.bytes + bytes <= self.limits.bytes / part;
        // Without a session everybody waits for the next one, which is not far, or is told that there is none.
        let stands = waiting.serving > 0 && waiting.standing.is_some_and(|since| since.elapsed() > STANDING);
        let is_short = self.wait(waiting.rows) <= SHORT_WAIT.max(self.pace.of_batch() * 2);
        fits && (!stands || entry.urgency == Urgency::Background || is_short)
    }

    /// How long it takes until `rows` have gone.
    fn wait(&self, rows: usize) -> Duration {
        self.pace.of_rows(rows) / self.sessions
    }

    /// When the next batch leaves; `None` while nothing waits.
    fn due(&self, settings: &BatchSettings) -> Option<Instant> {
        let waiting = self.waiting();
        let first = waiting.interactive.front().or(waiting.background.front())?;
        let since = first.since;
        // More could not go with it.
        let is_full = first.rows.is_none() || waiting.rows >= settings.rows(&self.pace);
        Some(if is_full { since } else { since + settings.max_wait })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No code panics between two changes that belong together.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session that takes batches.
pub struct Serving<'a>(&'a Queue);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.waiting().serving -= 1;
    }
}

/// What a batch still takes.
struct Room {
    rows: usize,
    bytes: usize,
}

/// Moves what goes together from `line` to `entries`, and drops those whose askers have gone. Gives the rows and bytes that have
/// left the line.
fn fill(entries: &mut Vec<Entry>, line: &mut VecDeque<Entry>, room: &mut Room) -> (usize, usize) {
    let (mut rows, mut bytes, mut place) = (0, 0, 0);
    while let Some(entry) = line.get(place) {
        let (entry_rows, entry_bytes) = (entry.weight(), entry.bytes());
        let is_gone = entry.is_gone();
        let fits = entries
            .first()
            .is_none_or(|first: &Entry| entry_rows <= room.rows && entry_bytes <= room.bytes && first.goes_with(entry));
        if !is_gone && !fits {
            place += 1;
            continue;
        }
        rows += entry_rows;
        bytes += entry_bytes;
        if let Some(entry) = line.remove(place).filter(|_| !is_gone) {
            entries.push(entry);
            room.rows = room.rows.saturating_sub(entry_rows);
            room.bytes = room.bytes.saturating_sub(entry_bytes);
            if room.rows == 0 {
                break;
            }
        }
    }
    (rows, bytes)
}

impl Waiting {
    fn forget_gone(&mut self) {
        for line in [&mut self.interactive, &mut self.background] {
            line.retain(|entry| {
                let stays = !entry.is_gone();
                if !stays {
                    self.rows -= entry.weight();
                    self.bytes -= entry.bytes();
                }
                stays
            });
        }
    }
}
