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
//! alone would refuse a burst of cheap requests on a busy machine, where batches of one row take long and show little of what
//! larger ones take. The delay alone would refuse a burst that is all but done. From then on the queue is kept as short as
//! keeps the sessions busy, until they are idle for a part of the time. Clients that send their next request after the last
//! response never get there; many more than the sessions can answer get there within a fifth of a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use super::batch::{Batch, Past};
use super::entry::{Entry, Urgency};
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
        if !self.has_room(&waiting, &entry) {
            // Those who have gone make room for those who have not.
            waiting.interactive.forget_gone();
            waiting.background.forget_gone();
        }
        let is_refused = !self.has_room(&waiting, &entry);
        let was_shedding = waiting.shedding.is_some();
        let (urgency, rows) = (entry.urgency, entry.weight());
        if !is_refused && urgency == Urgency::Background {
            waiting.background.push(entry);
        } else if !is_refused {
            waiting.interactive.push(entry);
        }
        let is_overloaded =
            urgency == Urgency::Interactive && waiting.standing.stands() && (is_refused || self.is_long(&waiting));
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

    /// What can be run now: the request that has waited longest, the urgent ones first, and those that go with it.
    pub fn take(&self, settings: &BatchSettings) -> Option<Batch> {
        let mut waiting = self.waiting();
        let mut entries = Vec::new();
        let mut room = Room { rows: settings.rows(&self.pace), bytes: MAX_BATCH_BYTES };
        waiting.interactive.fill(&mut entries, &mut room);
        waiting.background.fill(&mut entries, &mut room);
        if let Some(first) = entries.first() {
            let (now, is_interactive) = (Instant::now(), first.urgency == Urgency::Interactive);
            let waited = if is_interactive { now.saturating_duration_since(first.since) } else { Duration::ZERO };
            waiting.standing.observe(waited, now);
            waiting.batch_rows = settings.expected_rows(&self.pace);
        }
        self.note(&waiting);
        let is_more = waiting.first().is_some();
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
        self.note(&waiting);
        interactive.into_entries().into_iter().chain(background.into_entries()).collect()
    }

    fn has_room(&self, waiting: &Waiting, entry: &Entry) -> bool {
        let (rows, bytes) = (waiting.rows(), waiting.bytes());
        if rows == 0 {
            return true;
        }
        // Half of it is kept for people.
        let part = if entry.urgency == Urgency::Background { 2 } else { 1 };
        let fits =
            rows + entry.weight() <= self.limits.rows / part && bytes + entry.bytes() <= self.limits.bytes / part;
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
            {
                too_late.extend(waiting.interactive.pop_last());
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
    fn rows(&self) -> usize {
        self.interactive.rows() + self.background.rows()
    }

    fn bytes(&self) -> usize {
        self.interactive.bytes() + self.background.bytes()
    }

    fn first(&self) -> Option<&Entry> {
        self.interactive.first().or(self.background.first())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use open_inference::{Datatype, Tensor};
    use prometheus_client::registry::Registry;
    use tokio::time::advance;

    use super::*;
    use crate::metrics::Metrics;

    const SETTINGS: BatchSettings = BatchSettings {
        max_rows: 1,
        max_wait: Duration::ZERO,
        longest: Duration::from_millis(10),
        independent: None,
        off: false,
        run_timeout: Duration::from_secs(30),
    };

    /// In front of one session, and shedding from now on.
    fn short_queue() -> Queue {
        let meters = Metrics::register(&mut Registry::default()).session("x");
        let queue = Queue::new("x".to_owned(), QueueLimits { rows: 100, bytes: 1 << 20 }, 1, meters);
        queue.pace.observe(1, Duration::from_millis(4));
        queue.waiting().shedding = Some(Shedding::since(Instant::now()));
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
            assert_eq!(queue.waiting().shedding.is_none(), is_idle, "somebody came after {comes_after} ms");
        }
    }
}
