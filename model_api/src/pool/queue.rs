//! Waiting requests → one batch.
//!
//! A batch is made when a session is idle, of whatever waits then: under little load each request leaves at once and alone,
//! and the more there are, the larger batches become. What waits is measured in rows and in bytes.
//!
//! Load is shed here and nowhere else: this queue sees what every client sends and what each batch takes. `web_api` only sends
//! a model that has refused no more than it took (`gatherer/window.rs`).
//!
//! A full queue rejects immediately with `Retry-After`. Shedding begins when two things hold: the queue is long, by the cost
//! estimate of its batches ([`Pace`]), and it stands, by what requests have really waited ([`StandingQueue`]). The estimate
//! alone would refuse a burst of cheap requests on a busy machine, where batches of one row show little of what larger ones
//! take. The delay alone would refuse a burst that is all but done. From then on the queue is kept as short as keeps the
//! sessions busy, until they are idle for a part of the time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::batch::{Batch, Past};
use super::entry::{Admission, Entry, Urgency};
use super::line::{Line, Room};
use super::pace::Pace;
use super::shedding::{Shedding, StandingQueue};
use super::{BatchSettings, Meters, RunError};

/// A queue is long where the last request would wait for longer than this and behind more batches than this: so many for each
/// session, and so many at the least.
const LONG_WAIT: Duration = Duration::from_millis(150);
const BATCHES_OF_SESSION: usize = 32;
const BATCHES: usize = 64;

/// Within so long, or as long as so many batches take, the sessions must have nothing to do for this part of the time before
/// shedding ends.
const SPELL: Duration = Duration::from_secs(1);
const SPELL_BATCHES: u32 = 16;
const IDLE_PART: u32 = 8;

/// So long, or as long as a batch takes, a request waits while load is shed.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// While interactive requests never stop coming, background requests still get one of so many batches, once the first of them has
/// waited for so long. Requests that come for less time than that go before all of them.
const BATCHES_PER_BACKGROUND_BATCH: u32 = 16;
const MAX_BACKGROUND_WAIT: Duration = Duration::from_secs(1);

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
    /// The model's name.
    model: String,
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
    interactive: Line,
    background: Line,
    /// Batches without a background request since the last one with one.
    passed_over: u32,
    /// Where more comes than can go.
    shedding: Option<Shedding>,
    standing: StandingQueue,
    /// Rows that batches are expected to have once many requests wait; 0 before the first batch.
    batch_rows: usize,
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
    /// An empty queue before so many sessions of a model.
    pub fn new(model: String, limits: QueueLimits, sessions: usize, meters: Meters) -> Self {
        Self {
            model,
            waiting: Mutex::default(),
            came: Notify::new(),
            limits,
            sessions: u32::try_from(sessions.max(1)).unwrap_or(u32::MAX),
            pace: Pace::default(),
            meters,
        }
    }

    /// The name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// A session begins to take batches. It does until the guard is dropped.
    pub fn serve(&self) -> Serving<'_> {
        self.waiting().serving += 1;
        Serving(self)
    }

    /// Puts a request at the end, or says at once that it cannot be.
    pub fn push(&self, entry: Entry) -> Result<(), Refused> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Refused::Closed);
        }
        let is_admitted = entry.admission != Admission::Checked;
        if !is_admitted && !self.has_room(&waiting, &entry) {
            // Those who have gone make room for those who have not.
            waiting.interactive.forget_gone();
            waiting.background.forget_gone();
        }
        let is_refused = !is_admitted && !self.has_room(&waiting, &entry);
        let was_shedding = waiting.shedding.is_some();
        let (urgency, rows) = (entry.urgency, entry.request_rows);
        match entry.admission {
            Admission::First => waiting.line(urgency).push_first(entry),
            _ if is_refused => {}
            _ => waiting.line(urgency).push(entry),
        }
        let is_overloaded = urgency == Urgency::Interactive
            && !is_admitted
            && waiting.standing.stands()
            && (is_refused || self.is_long(&waiting));
        let too_late = if is_overloaded { self.shed(&mut waiting) } else { Vec::new() };
        let retry_after = self.retry_after(&waiting, rows);
        self.note(&waiting);
        let begins = !was_shedding && waiting.shedding.is_some();
        drop(waiting);
        if begins {
            info!(model = self.model, refused = too_late.len(), "model overloaded, shedding load");
        }
        self.meters.refused.inc_by(too_late.len() as u64 + u64::from(is_refused));
        for entry in too_late {
            entry.tell(Err(RunError::Full { retry_after }));
        }
        if is_refused {
            return Err(Refused::Full(retry_after));
        }
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
            if let Some(moment) = self.due(settings) {
                let _ = timeout_at(moment, came).await;
            } else if self.waiting().shedding.is_some() {
                let begun = Instant::now();
                let _ = timeout(self.spell() / IDLE_PART, came).await;
                self.was_idle(begun);
            } else {
                came.await;
            }
        }
    }

    /// [`Self::take`], unless it is worth while to wait for more.
    pub fn take_due(&self, settings: &BatchSettings) -> Option<Batch> {
        self.due(settings).filter(|&moment| moment <= Instant::now()).and_then(|_| self.take(settings))
    }

    /// What can be run now: the request that has waited longest, the urgent ones first, and those that go with it. A background
    /// request whose turn it is counts as urgent.
    pub fn take(&self, settings: &BatchSettings) -> Option<Batch> {
        let mut waiting = self.waiting();
        let mut entries = Vec::new();
        let mut room = Room { rows: settings.rows(&self.pace), bytes: MAX_BATCH_BYTES };
        waiting.fill(&mut entries, &mut room);
        if !entries.is_empty() {
            waiting.observe_delay(&entries);
            waiting.batch_rows = settings.expected_rows(&self.pace);
        }
        self.note(&waiting);
        let is_more = waiting.first().is_some();
        drop(waiting);
        if is_more {
            // Whoever put it there may have woken the one session that took this batch.
            self.came.notify_one();
        }
        let allowance = match entries.as_slice() {
            [only] => only.allowance.unwrap_or(settings.run_timeout),
            _ => settings.run_timeout / 2,
        };
        (!entries.is_empty()).then_some(Batch { entries, allowance, past: Past::New })
    }

    /// Whether any request waits.
    pub fn has_waiting(&self) -> bool {
        self.waiting().first().is_some()
    }

    /// Lets nothing in any more, and gives back what waits.
    pub fn close(&self) -> Vec<Entry> {
        self.waiting().closed = true;
        self.drain()
    }

    /// Takes out all that waits.
    pub fn drain(&self) -> Vec<Entry> {
        let mut waiting = self.waiting();
        let lines = [std::mem::take(&mut waiting.interactive), std::mem::take(&mut waiting.background)];
        self.note(&waiting);
        lines.into_iter().flat_map(Line::into_entries).collect()
    }

    fn has_room(&self, waiting: &Waiting, entry: &Entry) -> bool {
        let (rows, bytes) = (waiting.rows(), waiting.bytes());
        // Interactive requests alone never keep background requests out.
        let is_first_in_background = entry.urgency == Urgency::Background && waiting.background.first().is_none();
        if rows == 0 || is_first_in_background {
            return true;
        }
        // Half of it is kept for people.
        let part = if entry.urgency == Urgency::Background { 2 } else { 1 };
        let fits =
            rows + entry.request_rows <= self.limits.rows / part && bytes + entry.bytes() <= self.limits.bytes / part;
        fits && (waiting.shedding.is_none()
            || entry.urgency == Urgency::Background
            || self.wait(waiting, waiting.interactive.rows() + 1) < self.short_wait())
    }

    /// Begins to shed load. Returns the requests that are refused: the last ones, which have waited for the shortest time.
    fn shed(&self, waiting: &mut Waiting) -> Vec<Entry> {
        let mut too_late = Vec::new();
        // Without a session all requests wait for the next one, which is not far, or are refused when there is none.
        if waiting.serving > 0 && waiting.shedding.is_none() {
            waiting.shedding = Some(Shedding::begin());
            // A request that takes long by itself waits for no other.
            while waiting.interactive.has_several()
                && self.wait(waiting, waiting.interactive.rows()) > self.short_wait()
                && let Some(last) = waiting.interactive.pop_last()
            {
                too_late.push(last);
            }
        }
        too_late
    }

    /// A session has had nothing to do from then until somebody came, which on a busy machine is a while before it is here.
    fn was_idle(&self, begun: Instant) {
        let mut waiting = self.waiting();
        let until = waiting.first().map_or_else(Instant::now, |first| first.since);
        let Some(shedding) = &mut waiting.shedding else { return };
        shedding.idle += until.saturating_duration_since(begun.max(shedding.since));
        if shedding.idle >= self.spell() * self.sessions / IDLE_PART {
            (waiting.shedding, waiting.standing) = (None, StandingQueue::default());
            drop(waiting);
            info!(model = self.model, "model recovered, load shedding off");
        } else if shedding.since.elapsed() >= self.spell() {
            *shedding = Shedding::since(Instant::now());
        }
    }

    fn spell(&self) -> Duration {
        SPELL.max(self.pace.of_batch() * SPELL_BATCHES)
    }

    fn is_long(&self, waiting: &Waiting) -> bool {
        let rows = waiting.interactive.rows();
        let batches = rows.div_ceil(waiting.batch_rows.max(1));
        batches > BATCHES.max(BATCHES_OF_SESSION.saturating_mul(self.sessions as usize))
            && self.wait(waiting, rows) > LONG_WAIT
    }

    fn short_wait(&self) -> Duration {
        SHORT_WAIT.max(self.pace.of_batch())
    }

    /// When there is room for so many rows behind all that wait.
    fn retry_after(&self, waiting: &Waiting, rows: usize) -> Duration {
        let wait = self.wait(waiting, waiting.rows() + rows);
        Duration::from_secs_f64(wait.as_secs_f64().ceil().clamp(1.0, LONGEST_RETRY))
    }

    fn note(&self, waiting: &Waiting) {
        self.meters.queue_rows.set(waiting.rows().cast_signed() as i64);
    }

    /// The estimated time until `rows` have gone: that of so many batches, shared out among the sessions.
    fn wait(&self, waiting: &Waiting, rows: usize) -> Duration {
        let most = if waiting.batch_rows == 0 { rows } else { waiting.batch_rows };
        self.pace.of_batches(rows, most) / self.sessions
    }

    /// When the next batch leaves; `None` while nothing waits.
    fn due(&self, settings: &BatchSettings) -> Option<Instant> {
        let waiting = self.waiting();
        let first = waiting.first()?;
        let since = first.since;
        // More could not go with it.
        let is_full = first.rows.is_none() || waiting.rows() >= settings.rows(&self.pace);
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

impl Waiting {
    fn line(&mut self, urgency: Urgency) -> &mut Line {
        match urgency {
            Urgency::Interactive => &mut self.interactive,
            Urgency::Background => &mut self.background,
        }
    }

    fn rows(&self) -> usize {
        self.interactive.rows() + self.background.rows()
    }

    fn bytes(&self) -> usize {
        self.interactive.bytes() + self.background.bytes()
    }

    fn first(&self) -> Option<&Entry> {
        self.interactive.first().or(self.background.first())
    }

    /// Moves what goes into the next batch to `entries`.
    fn fill(&mut self, entries: &mut Vec<Entry>, room: &mut Room) {
        let is_turn = self.is_turn_of_background();
        let rows = self.background.rows();
        if is_turn {
            self.background.fill(entries, room);
        }
        self.interactive.fill(entries, room);
        if !is_turn {
            self.background.fill(entries, room);
        }
        let is_passed_over = rows > 0 && self.background.rows() == rows;
        self.passed_over = if is_passed_over { self.passed_over.saturating_add(1) } else { 0 };
    }

    /// Records what the first interactive request has waited. Later pieces of a request have waited for their own first ones.
    fn observe_delay(&mut self, batch: &[Entry]) {
        let is_interactive = |entry: &&Entry| entry.urgency == Urgency::Interactive;
        let mut entries = batch.iter().chain(self.interactive.first()).filter(is_interactive).peekable();
        if entries.peek().is_none() {
            self.standing = StandingQueue::default();
        } else if let Some(first) = entries.find(|entry| entry.admission != Admission::First) {
            let now = Instant::now();
            self.standing.observe(now.saturating_duration_since(first.since), now);
        }
    }

    fn is_turn_of_background(&self) -> bool {
        self.passed_over + 1 >= BATCHES_PER_BACKGROUND_BATCH
            && self.background.first().is_some_and(|first| first.since.elapsed() >= MAX_BACKGROUND_WAIT)
    }
}

#[cfg(test)]
mod background_tests;

#[cfg(test)]
mod tests;
