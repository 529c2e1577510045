use std::sync::Arc;
use std::time::Instant;

use async_channel::Receiver;
use open_inference::Tensor;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{Instrument, Span, info, warn};

use super::pool::{PoolSettings, Ran, RunError, State, best};
use super::restarts::Restarts;
use super::{Blueprint, Hello, Launcher, Session, SessionError, StartError};

/// Taking the new ones is not a session's to decide: the watch waits until they are still.
const FILES_CHANGED: &str =
    "its files have changed since it was loaded; MODEL_WATCH=poll loads the new ones, and so does POST …/load";

/// A waiting request.
pub struct Entry {
    pub inputs: Vec<Tensor>,
    pub since: Instant,
    /// The asker's, so that what happens here is logged under its request id.
    pub span: Span,
    pub answer: oneshot::Sender<Result<Ran, RunError>>,
    /// A session has died on it.
    pub suspect: bool,
}

/// Keeps one session alive and hands it requests.
pub struct Worker<L> {
    pub number: usize,
    pub launcher: L,
    pub blueprint: Blueprint,
    pub settings: PoolSettings,
    pub queue: Receiver<Entry>,
    pub states: Arc<watch::Sender<Vec<State>>>,
    pub restarts: Restarts,
}

/// How a session's service ended, and the request that waits for the next session.
struct Death {
    reason: String,
    survivor: Option<Entry>,
}

impl<L: Launcher> Worker<L> {
    /// Works until it is cancelled.
    pub async fn work(mut self) {
        let mut survivor = None;
        loop {
            let (error, hopeless) = match self.launch().await {
                Ok((hello, session)) => {
                    self.enter(State::Ready(Arc::clone(&hello)));
                    let death = self.serve(session, &hello, survivor.take()).await;
                    survivor = death.survivor;
                    (StartError::Died(death.reason), false)
                }
                Err(error) => (error, true),
            };
            let pause = self.restarts.failed();
            self.settings.meters.restarts.inc();
            warn!(model = self.blueprint.model, reason = %error, ?pause, "a new session is needed");
            if hopeless || self.restarts.keeps_dying() {
                self.turn_away(&error, survivor.take());
            } else {
                self.enter(State::Starting);
            }
            sleep(pause).await;
        }
    }

    async fn launch(&self) -> Result<(Arc<Hello>, L::Session), StartError> {
        let (hello, session) = self.launcher.launch(&self.blueprint).await?;
        let unchanged = Arc::clone(&self.blueprint.unchanged);
        if !spawn_blocking(move || unchanged()).await.unwrap_or(false) {
            return Err(StartError::Model(FILES_CHANGED.to_owned()));
        }
        let device = &hello.device;
        info!(
            model = self.blueprint.model,
            device = device.name,
            stepped_down = device.stepped_down,
            "a session is warm"
        );
        self.settings.meters.on_cpu.set((device.name == "cpu").into());
        self.settings.meters.on_cuda.set((device.name == "cuda").into());
        Ok((Arc::new(hello), session))
    }

    /// Hands requests to the session until it dies.
    async fn serve(&mut self, mut session: L::Session, hello: &Arc<Hello>, survivor: Option<Entry>) -> Death {
        let mut waiting = survivor;
        loop {
            let mut entry = if let Some(entry) = waiting.take() {
                entry
            } else {
                tokio::select! {
                    reason = session.died() => return Death { reason, survivor: None },
                    Ok(entry) = self.queue.recv() => entry,
                }
            };
            if entry.answer.is_closed() {
                continue;
            }
            self.settings.meters.runs.inc();
            let begun = Instant::now();
            let run = timeout(self.settings.run_timeout, session.run(&entry.inputs)).instrument(entry.span.clone());
            match run.await {
                Ok(Ok(outputs)) => {
                    self.restarts.succeeded();
                    let (waited, ran) = (begun - entry.since, begun.elapsed());
                    self.settings.meters.run_seconds.observe(ran.as_secs_f64());
                    entry.reply(Ok(Ran { outputs, session: Arc::clone(hello), waited, ran }));
                }
                Ok(Err(SessionError::Refused(reason))) => {
                    self.restarts.succeeded();
                    entry.reply(Err(RunError::Refused(reason)));
                }
                Ok(Err(SessionError::Died(reason))) if entry.suspect => {
                    entry.reply(Err(RunError::Crashed));
                    return Death { reason, survivor: None };
                }
                Ok(Err(SessionError::Died(reason))) => {
                    entry.suspect = true;
                    return Death { reason, survivor: Some(entry) };
                }
                Err(_) => {
                    let patience = self.settings.run_timeout;
                    entry.reply(Err(RunError::TimedOut(patience)));
                    return Death { reason: format!("a run took longer than {patience:?}"), survivor: None };
                }
            }
        }
    }

    /// Whoever waits now would wait too long: the next attempt may fail as well.
    fn turn_away(&self, error: &StartError, survivor: Option<Entry>) {
        self.enter(State::Unavailable(error.clone()));
        let refuse = |entry: Entry| entry.reply(Err(RunError::Unavailable(error.to_string())));
        survivor.into_iter().for_each(refuse);
        // Another session of this model may still be working: the queue is then its.
        if matches!(best(&self.states.borrow()), State::Unavailable(_)) {
            std::iter::from_fn(|| self.queue.try_recv().ok()).for_each(refuse);
        }
    }
}

impl<L> Worker<L> {
    fn enter(&self, state: State) {
        self.states.send_modify(|states| states[self.number] = state);
    }
}

impl<L> Drop for Worker<L> {
    /// Also when a mistake of ours made it panic: a model without a worker must not look ready.
    fn drop(&mut self) {
        self.enter(State::Unavailable(StartError::Died("its sessions have been stopped".to_owned())));
    }
}

impl Entry {
    fn reply(self, answer: Result<Ran, RunError>) {
        // Nobody may be waiting any more.
        let _ = self.answer.send(answer);
    }
}
