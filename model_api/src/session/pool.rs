use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, TrySendError};
use open_inference::Tensor;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Span;

use super::restarts::Restarts;
use super::worker::{Entry, Worker};
use super::{Blueprint, Hello, Launcher, StartError};

/// The sessions of one model: requests wait in one bounded queue for whichever is idle. A session that dies is replaced;
/// the request that it died on gets a second chance on the new one, and no third.
///
/// Dropping the pool ends its sessions.
pub struct Pool {
    queue: Sender<Entry>,
    waiting: Receiver<Entry>,
    states: watch::Receiver<Vec<State>>,
    workers: TaskTracker,
    stop: CancellationToken,
    _stops_when_dropped: DropGuard,
}

/// Bounds and counters of a pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// How many sessions.
    pub sessions: usize,
    /// How many requests may wait.
    pub queue_length: usize,
    /// After which a run's session is killed.
    pub run_timeout: Duration,
    /// What it counts.
    pub meters: Meters,
}

/// A model's counters.
#[derive(Clone, Debug)]
pub struct Meters {
    /// Runs begun.
    pub runs: Counter,
    /// Their seconds.
    pub run_seconds: Histogram,
    /// Sessions that died or did not start.
    pub restarts: Counter,
    /// 1 when the session started last runs on the CPU.
    pub on_cpu: Gauge,
    /// 1 when the session started last runs on CUDA.
    pub on_cuda: Gauge,
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

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// As many requests wait as may.
    #[error("too many requests are waiting for this model")]
    Full,
    /// No session can be started.
    #[error("{0}")]
    Unavailable(String),
    /// The model refused these inputs.
    #[error("{0}")]
    Refused(String),
    /// Two sessions in a row died on it.
    #[error("the model crashed on this request")]
    Crashed,
    /// The run took too long; its session has been killed.
    #[error("the model did not answer within {0:?}")]
    TimedOut(Duration),
    /// The pool has been stopped.
    #[error("the model is being stopped")]
    Stopped,
}

impl Pool {
    /// Starts the sessions and comes back at once.
    pub fn start<L: Launcher>(launcher: &L, blueprint: &Blueprint, settings: &PoolSettings) -> Self {
        let (queue, waiting) = async_channel::bounded(settings.queue_length);
        let (publish, states) = watch::channel(vec![State::Starting; settings.sessions]);
        let (workers, stop) = (TaskTracker::new(), CancellationToken::new());
        let publish = Arc::new(publish);
        for number in 0..settings.sessions {
            let worker = Worker {
                number,
                launcher: launcher.clone(),
                blueprint: blueprint.clone(),
                settings: settings.clone(),
                queue: waiting.clone(),
                states: Arc::clone(&publish),
                restarts: Restarts::default(),
            };
            let stop = stop.clone();
            workers.spawn(async move { stop.run_until_cancelled(worker.work()).await });
        }
        workers.close();
        Self { queue, waiting, states, workers, _stops_when_dropped: stop.clone().drop_guard(), stop }
    }

    /// Runs the model once on whichever session is idle first.
    pub async fn run(&self, inputs: Vec<Tensor>) -> Result<Ran, RunError> {
        if let State::Unavailable(reason) = self.state() {
            return Err(RunError::Unavailable(reason.to_string()));
        }
        let (answer, answered) = oneshot::channel();
        let entry = Entry { inputs, since: Instant::now(), span: Span::current(), answer, suspect: false };
        self.queue.try_send(entry).map_err(|error| match error {
            TrySendError::Full(_) => RunError::Full,
            TrySendError::Closed(_) => RunError::Stopped,
        })?;
        answered.await.unwrap_or(Err(RunError::Stopped))
    }

    /// What it can do now.
    pub fn state(&self) -> State {
        best(&self.states.borrow())
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
        self.queue.close();
        // An entry that is dropped tells its asker that there will be no answer.
        while self.waiting.try_recv().is_ok() {}
    }
}

/// The state of several sessions together: as good as the best of them.
pub(super) fn best(states: &[State]) -> State {
    let rank = |state: &&State| match state {
        State::Unavailable(_) => 0,
        State::Starting => 1,
        State::Ready(_) => 2,
    };
    states.iter().max_by_key(rank).cloned().unwrap_or(State::Starting)
}
