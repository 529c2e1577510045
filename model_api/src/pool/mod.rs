//! A model's sessions, and the requests that wait for them.
//!
//! Requests wait in one bounded [`Queue`], from which each session's worker takes batches. A session that dies is replaced. What
//! was in its batch is run again, each request alone: one that kills again gets its error and is not run a third time, and
//! the others get their answers. A batch that is refused is run again by halves, and one that takes too long one by one, for
//! the same reason: only the request that is to blame gets the error.

mod batch;
mod check;
mod entry;
mod line;
mod mixing;
mod pace;
mod pieces;
mod quarantine;
mod queue;
mod renewal;
mod restarts;
mod rows;
mod run_error;
mod settings;
mod sizes;
mod slow_lane;
mod starter;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use open_inference::{Batching, Tensor};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::metrics::BatchingInfo;
use crate::session::{Blueprint, Hello, Launcher, StartError};
use check::Sampler;
use entry::Admission;
pub use entry::{Entry, Urgency};
use mixing::{Mixing, Revocation};
pub use pace::Pace;
use pieces::{Apart, Division, Joined};
use quarantine::Quarantine;
pub use queue::{Queue, QueueLimits, Refused};
use restarts::Restarts;
pub use rows::probe_rows;
pub use run_error::RunError;
pub use settings::{BatchSettings, PoolSettings};
use slow_lane::SlowLane;
use starter::Starter;
use worker::Worker;

/// The sessions of one model. Dropping the pool ends them.
pub struct Pool {
    shared: Arc<Shared>,
    meters: Meters,
    states: watch::Receiver<Vec<State>>,
    workers: TaskTracker,
    stop: CancellationToken,
    _stops_when_dropped: DropGuard,
}

/// What a pool's workers have in common.
struct Shared {
    queue: Queue,
    quarantine: Quarantine,
    batch: BatchSettings,
    /// Whether requests of different callers run together.
    mixing: Mixing,
    /// Which batches are checked.
    sampler: Sampler,
    /// The session started last runs on a card.
    on_card: AtomicBool,
    /// A run is under way, where there is one session.
    is_busy: AtomicBool,
    /// The model is too large to keep sizes apart, or a session has died of it.
    keeps_no_sizes: AtomicBool,
}

/// A model's counters.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Runs begun.
    pub runs: Counter,
    /// Their seconds.
    pub run_seconds: Histogram,
    /// Rows that were run together.
    pub batch_rows: Histogram,
    /// Rows that wait.
    pub queue_rows: Gauge,
    /// Seconds that requests waited before their run.
    pub queue_seconds: Histogram,
    /// Requests that found no room in the queue.
    pub refused: Counter,
    /// Sessions that died or did not start.
    pub restarts: Counter,
    /// Sessions that were replaced because their memory had grown.
    pub replacements: Counter,
    /// 1 when the session started last runs on the CPU.
    pub on_cpu: Gauge,
    /// 1 when the session started last runs on CUDA.
    pub on_cuda: Gauge,
    /// Whether requests run in one batch, and why.
    pub batching: BatchingInfo,
    /// Batches whose requests were run again one by one, to compare.
    pub batches_checked: Counter,
    /// Those of them whose results differed.
    pub batches_that_differed: Counter,
}

/// What a pool can do for a request now.
#[derive(Clone, Debug)]
pub enum State {
    /// A session is being started: a request waits for it.
    Starting,
    /// A session waits for requests.
    Ready(Arc<Hello>),
    /// No session could be started; the next attempt is not far.
    Unavailable(StartError),
}

/// An answer, and what it took.
#[derive(Debug)]
pub struct Ran {
    /// In the graph's order.
    pub outputs: Vec<Tensor>,
    /// Who answered.
    pub session: Arc<Hello>,
    /// In the queue.
    pub waited: Duration,
    /// In the session, the way to its process included.
    pub ran: Duration,
}

impl Pool {
    /// Starts the sessions and comes back at once.
    pub fn start<L: Launcher>(launcher: &L, blueprint: &Blueprint, settings: &PoolSettings) -> Self {
        let (publish, states) = watch::channel(vec![State::Starting; settings.sessions]);
        let (workers, stop) = (TaskTracker::new(), CancellationToken::new());
        let publish = Arc::new(publish);
        let shared = Arc::new(Shared::new(blueprint, settings, settings.sessions));
        let slow_lane = SlowLane::new(Shared::new(blueprint, settings, 1));
        for number in 0..settings.sessions {
            let starter = Starter {
                launcher: launcher.clone(),
                blueprint: blueprint.clone(),
                meters: settings.meters.clone(),
                shared: Arc::clone(&shared),
            };
            let worker = Worker {
                number,
                starter,
                meters: settings.meters.clone(),
                shared: Arc::clone(&shared),
                states: Arc::clone(&publish),
                restarts: Restarts::default(),
                again: Vec::new(),
                slow_lane: Some(Arc::clone(&slow_lane)),
                tasks: workers.clone(),
                stop: stop.clone(),
            };
            let stop = stop.clone();
            workers.spawn(async move { stop.run_until_cancelled(worker.work()).await });
        }
        workers.close();
        Self {
            shared,
            meters: settings.meters.clone(),
            states,
            workers,
            _stops_when_dropped: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Runs the model on these inputs, which must fit its signature, on whichever session is idle first, and together with
    /// whatever else waits for it. A request with many rows that are independent runs in pieces. Dropping the future leaves
    /// the request out, or what of it has not run, and ends its run when nobody else waits for it.
    pub async fn run(&self, inputs: Vec<Tensor>, urgency: Urgency) -> Result<Ran, RunError> {
        match Division::of(&inputs, &self.shared.batch, &self.shared.mixing)? {
            Division::Whole => self.run_entry(Entry::new(inputs, urgency)).await,
            Division::Pieces(rows) => self.run_pieces(inputs, rows, urgency).await,
        }
    }

    /// One piece after the other. `RUN_TIMEOUT_MS` holds for the sum of their runs.
    async fn run_pieces(&self, inputs: Vec<Tensor>, piece_rows: usize, urgency: Urgency) -> Result<Ran, RunError> {
        let (rows, timeout) =
            (inputs.first().and_then(Tensor::rows).unwrap_or_default(), self.shared.batch.run_timeout);
        let mut joined: Option<Joined> = None;
        let mut last = None;
        for (start, piece) in pieces::cut(&inputs, rows, piece_rows) {
            let (mut entry, answered) = Entry::new(piece, urgency);
            let of_piece = entry.weight();
            let left = timeout.saturating_sub(joined.as_ref().map_or(Duration::ZERO, Joined::ran));
            if left.is_zero() {
                return Err(RunError::TimedOut(timeout));
            }
            entry.allowance = Some(left);
            entry.admission = if start > 0 { Admission::First } else { Admission::Checked };
            entry.request_rows = rows;
            let ran = self.run_entry((entry, answered)).await.map_err(|error| error.of_rows(start, of_piece))?;
            let added = match &mut joined {
                Some(joined) => joined.add(&ran, of_piece),
                None => Joined::begin(&ran, of_piece, rows).map(|begun| joined = Some(begun)),
            };
            match added {
                Ok(()) => last = Some(ran),
                Err(Apart::TooLarge(error)) => return Err(error),
                Err(Apart::Shapes(reason)) => {
                    self.shared.revoke(&self.meters, Revocation { reason, random: false, wrong_before_ms: None });
                    Division::whole(&inputs)?;
                    return self.run_entry(Entry::new(inputs, urgency)).await;
                }
            }
        }
        match (joined, last) {
            (Some(joined), Some(last)) => Ok(joined.end(last)),
            _ => self.run_entry(Entry::new(inputs, urgency)).await,
        }
    }

    /// The same as [`Self::run`], never together with other requests and never in pieces.
    pub async fn run_alone(&self, inputs: Vec<Tensor>, urgency: Urgency) -> Result<Ran, RunError> {
        Division::whole(&inputs)?;
        let (entry, answered) = Entry::new(inputs, urgency);
        self.run_entry((entry.alone(), answered)).await
    }

    async fn run_entry(
        &self,
        (entry, answered): (Entry, oneshot::Receiver<Result<Ran, RunError>>),
    ) -> Result<Ran, RunError> {
        if let State::Unavailable(reason) = self.state() {
            return Err(RunError::Unavailable(reason.to_string()));
        }
        if let Some(error) = self.shared.quarantine.holds(&entry.inputs) {
            return Err(error);
        }
        self.shared.queue.push(entry).map_err(|refused| match refused {
            Refused::Full(retry_after) => RunError::Full { retry_after },
            Refused::Closed => RunError::Stopped,
        })?;
        answered.await.unwrap_or(Err(RunError::Stopped))
    }

    /// What it can do now.
    pub fn state(&self) -> State {
        best(&self.states.borrow())
    }

    /// Whether requests of different callers run in one batch, and why. `None` before the first session is warm.
    pub fn batching(&self) -> Option<Batching> {
        self.shared.mixing.batching()
    }

    /// Whether equal inputs are known to give different results.
    pub fn is_random(&self) -> bool {
        self.shared.mixing.is_random()
    }

    /// When the running model showed that results computed before may be wrong, in ms since the Unix epoch.
    pub fn wrong_before_ms(&self) -> Option<u64> {
        self.shared.mixing.revocation().and_then(|revocation| revocation.wrong_before_ms)
    }

    /// Waits for a session, telling every reason why there is none yet. `None` when the pool is stopped first.
    pub async fn ready(&self, mut failed: impl FnMut(&StartError)) -> Option<Arc<Hello>> {
        let mut states = self.states.clone();
        loop {
            let state = best(&states.borrow_and_update());
            match state {
                State::Ready(hello) => return Some(hello),
                State::Unavailable(error) => failed(&error),
                State::Starting => {}
            }
            states.changed().await.ok()?;
        }
    }

    /// Resolves when all its sessions have ended, as they do once the pool is dropped. The future holds nothing of it.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let workers = self.workers.clone();
        async move { workers.wait().await }
    }

    /// Kills the sessions; comes back when nobody uses them any more and whoever waited has been told. It does not wait
    /// until the system has taken the processes down, which nothing could hurry.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.workers.wait().await;
        // An entry that is dropped tells its asker that there will be no answer.
        drop(self.shared.queue.close());
    }
}

impl Shared {
    fn new(blueprint: &Blueprint, settings: &PoolSettings, sessions: usize) -> Self {
        Self {
            queue: Queue::new(blueprint.model.clone(), settings.queue, sessions, settings.meters.clone()),
            quarantine: Quarantine::default(),
            batch: settings.batch,
            mixing: Mixing::default(),
            sampler: Sampler::default(),
            on_card: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            keeps_no_sizes: AtomicBool::new(settings.bytes > sizes::LARGEST_MODEL),
        }
    }

    /// Turns mixing off for good, and says so once.
    fn revoke(&self, meters: &Meters, revocation: Revocation) {
        let reason = revocation.reason.clone();
        if self.mixing.revoke(revocation) {
            warn!(model = self.queue.model(), reason, "requests no longer run in one batch");
            self.mixing.batching().iter().for_each(|batching| meters.batching.set(batching));
        }
    }

    /// How batches are made, after what is known of the model by now.
    fn batch(&self) -> BatchSettings {
        let batch = if self.on_card.load(Ordering::Relaxed) { self.batch.on_card() } else { self.batch };
        if self.mixing.is_on() { batch } else { batch.alone() }
    }
}

/// The state of several sessions together: as good as the best of them.
fn best(states: &[State]) -> State {
    let rank = |state: &&State| match state {
        State::Unavailable(_) => 0,
        State::Starting => 1,
        State::Ready(_) => 2,
    };
    states.iter().max_by_key(rank).cloned().unwrap_or(State::Starting)
}
