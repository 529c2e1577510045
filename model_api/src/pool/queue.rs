//! Waiting requests → one batch.
//!
//! A batch is made when a session is idle, of whatever waits then: under little load each request leaves at once and alone,
//! and the more there are, the larger batches become. What waits is measured in rows and in bytes.
//!
//! Whoever finds the queue full is told at once when to come back; so is whoever would wait long in it. Either shows that more
//! comes than can go, and then a long queue makes everybody wait and answers nobody sooner. So from that moment it is kept as
//! short as keeps the sessions busy, until they have nothing to do for a part of the time. A crowd that asks again when it has
//! its answers never gets there; many more than the sessions can answer get there at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::batch::{Batch, Past};
use super::entry::{Admission, Entry, Urgency};
use super::line::{Line, Room};
use super::pace::Pace;
use super::{BatchSettings, Meters, RunError};

/// So long somebody may have to wait before the queue is shortened, or longer where no more batches wait than a crowd asks for:
/// so many for each session, and so many at the least. Clients of one question each are always let in up to there.
const LONG_WAIT: Duration = Duration::from_millis(150);
const CROWD_OF_SESSION: u32 = 32;
const CROWD: u32 = 64;

/// Within so long, or as long as so many batches take, the sessions must have nothing to do for this part of the time before a
/// queue is kept short no more.
const SPELL: Duration = Duration::from_secs(1);
const SPELL_BATCHES: u32 = 16;
const IDLE_PART: u32 = 8;

/// For so long after it has begun to be, that counts for nothing: telling hundreds that there is no room takes longer than a
/// short queue lasts, and the next hundreds would then fill it.
const TURMOIL: Duration = Duration::from_millis(250);

/// So long, or as long as a batch takes, one waits in a queue that is kept short.
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
    kept_short: Option<Short>,
    /// Sessions that take batches.
    serving: usize,
    closed: bool,
}

/// A part of the time for which the queue is kept short.
#[derive(Debug)]
struct Short {
    since: Instant,
    /// How long sessions had nothing to do in it, all together.
    idle: Duration,
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
        let was_kept_short = waiting.kept_short.is_some();
        let (urgency, rows) = (entry.urgency, entry.request_rows);
        match entry.admission {
            Admission::First => waiting.line(urgency).push_first(entry),
            _ if is_refused => {}
            _ => waiting.line(urgency).push(entry),
        }
        let too_late =
            if urgency == Urgency::Interactive && !is_admitted && (is_refused || self.is_long(&waiting.interactive)) {
                self.shorten(&mut waiting)
            } else {
                Vec::new()
            };
        let retry_after = self.retry_after(waiting.rows() + rows);
        self.note(&waiting);
        let is_shortened = !was_kept_short && waiting.kept_short.is_some();
        drop(waiting);
        if is_shortened {
            info!(model = self.model, refused = too_late.len(), "more comes than can go: its queue is kept short");
        }
        self.meters.refused.inc_by(too_late.len() as u64 + u64::from(is_refused));
        too_late.into_iter().for_each(|entry| entry.tell(Err(RunError::Full { retry_after })));
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
            } else if self.waiting().kept_short.is_some() {
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
        fits && (waiting.kept_short.is_none()
            || entry.urgency == Urgency::Background
            || self.wait(waiting.interactive.rows() + 1) < self.short_wait())
    }

    /// Begins to keep the queue short. Gives those who are left out: those who came last have waited least in vain.
    fn shorten(&self, waiting: &mut Waiting) -> Vec<Entry> {
        let mut too_late = Vec::new();
        // Without a session everybody waits for the next one, which is not far, or is told that there is none.
        if waiting.serving > 0 && waiting.kept_short.is_none() {
            waiting.kept_short = Some(Short::begin(Instant::now() + TURMOIL));
            // A request that is long by itself has nobody before it to wait for.
            while waiting.interactive.has_several()
                && self.wait(waiting.interactive.rows()) > self.short_wait()
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
        let Some(short) = &mut waiting.kept_short else { return };
        short.idle += until.saturating_duration_since(begun.max(short.since));
        if short.idle >= self.spell() * self.sessions / IDLE_PART {
            waiting.kept_short = None;
            drop(waiting);
            info!(model = self.model, "its queue is kept short no more");
        } else if short.since.elapsed() >= self.spell() {
            *short = Short::begin(Instant::now());
        }
    }

    fn spell(&self) -> Duration {
        SPELL.max(self.pace.of_batch() * SPELL_BATCHES)
    }

    fn is_long(&self, line: &Line) -> bool {
        let crowd = CROWD.max(self.sessions.saturating_mul(CROWD_OF_SESSION));
        self.wait(line.rows()) > LONG_WAIT
            && self.pace.of_rows(line.rows()) > self.pace.of_batch().saturating_mul(crowd)
    }

    fn short_wait(&self) -> Duration {
        SHORT_WAIT.max(self.pace.of_batch())
    }

    fn retry_after(&self, rows: usize) -> Duration {
        Duration::from_secs_f64(self.wait(rows).as_secs_f64().ceil().clamp(1.0, LONGEST_RETRY))
    }

    fn note(&self, waiting: &Waiting) {
        self.meters.queue_rows.set(waiting.rows().cast_signed() as i64);
    }

    /// How long it takes until `rows` have gone.
    fn wait(&self, rows: usize) -> Duration {
        self.pace.of_rows(rows) / self.sessions
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

    fn is_turn_of_background(&self) -> bool {
        self.passed_over + 1 >= BATCHES_PER_BACKGROUND_BATCH
            && self.background.first().is_some_and(|first| first.since.elapsed() >= MAX_BACKGROUND_WAIT)
    }
}

impl Short {
    fn begin(since: Instant) -> Self {
        Self { since, idle: Duration::ZERO }
    }
}

#[cfg(test)]
mod background_tests;

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use open_inference::{Datatype, Tensor};
    use prometheus_client::registry::Registry;
    use tokio::time::advance;

    use super::*;
    use crate::metrics::Metrics;

    pub(super) const SETTINGS: BatchSettings = BatchSettings {
        max_rows: 1,
        max_piece_rows: None,
        max_wait: Duration::ZERO,
        longest: Duration::from_millis(10),
        independent: None,
        off: false,
        run_timeout: Duration::from_secs(30),
    };

    /// In front of one session, and kept short from now on.
    fn short_queue() -> Queue {
        let meters = Metrics::register(&mut Registry::default()).session("x");
        let queue = Queue::new("x".to_owned(), QueueLimits { rows: 100, bytes: 1 << 20 }, 1, meters);
        queue.pace.observe(1, Duration::from_millis(4));
        queue.waiting().kept_short = Some(Short::begin(Instant::now()));
        queue
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_a_busy_machine_does_not_let_run_is_not_idle() {
        for (comes_after, is_idle) in [(10, false), (130, true)] {
            let queue = short_queue();
            let mut next = std::pin::pin!(queue.next(&SETTINGS));
            assert!(poll!(&mut next).is_pending());
            advance(Duration::from_millis(comes_after)).await;
            let input = Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
            let (entry, _answered) = Entry::new(vec![input], Urgency::Interactive);
            queue.push(entry).unwrap();
            advance(Duration::from_millis(500)).await;
            assert!(poll!(&mut next).is_ready());
            assert_eq!(queue.waiting().kept_short.is_none(), is_idle, "somebody came after {comes_after} ms");
        }
    }
}
