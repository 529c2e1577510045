use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, join_all};
use open_inference::Tensor;
use tokio::sync::oneshot::Sender;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, info, warn};

use super::batch::{Answered, Batch, Past};
use super::check::Check;
use super::mixing::{Decision, Revocation};
use super::restarts::Restarts;
use super::rows::{Finding, Probed, probe};
use super::sizes::keep_sizes;
use super::{Meters, RunError, Shared, State, best};
use crate::session::{Blueprint, Hello, Launcher, Session, SessionError, StartError};

/// Taking the new ones is not a session's to decide: the watch waits until they are still.
const FILES_CHANGED: &str =
    "its files have changed since it was loaded; MODEL_WATCH=poll loads the new ones, and so does POST …/load";

/// Keeps one session alive and hands it batches.
pub struct Worker<L> {
    pub number: usize,
    pub launcher: L,
    pub blueprint: Blueprint,
    pub meters: Meters,
    pub shared: Arc<Shared>,
    pub states: Arc<watch::Sender<Vec<State>>>,
    pub restarts: Restarts,
    /// Parts of batches that came to nothing, the next one last. They go before all that waits.
    pub again: Vec<Batch>,
    /// Checks of batches.
    pub tasks: TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

/// Why there is no session any more.
struct Death {
    error: StartError,
    blame: Blame,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// It did not even start.
    Start,
    /// Nobody knows what it died of: the model, the machine, or one of several requests.
    Unknown,
    /// One request, which is not run again.
    Request,
}

/// What became of a run.
enum Outcome {
    Ran(Vec<Tensor>),
    Refused(String),
    /// Ended since it took too long, or since nobody waits for it.
    GivenUp,
    /// With the reason, and whether it was to end and did not.
    Died(String, bool),
}

impl<L: Launcher> Worker<L> {
    /// Works until it is cancelled.
    pub async fn work(mut self) {
        loop {
            let Death { error, blame } = match self.launch().await {
                Ok((hello, session)) => {
                    self.enter(State::Ready(Arc::clone(&hello)));
                    self.serve(session, &hello).await
                }
                Err(error) => Death { error, blame: Blame::Start },
            };
            let pause = match blame {
                Blame::Start => self.restarts.failed(),
                Blame::Unknown => self.restarts.died(),
                Blame::Request => Duration::ZERO,
            };
            self.meters.restarts.inc();
            warn!(model = self.blueprint.model, reason = %error, ?pause, "a new session is needed");
            if blame == Blame::Start || self.restarts.keeps_dying() {
                self.turn_away(&error);
            } else {
                self.enter(State::Starting);
            }
            sleep(pause).await;
        }
    }

    async fn launch(&self) -> Result<(Arc<Hello>, L::Session), StartError> {
        let (hello, mut session) = self.launcher.launch(&self.blueprint).await?;
        self.check_files().await?;
        self.shared.on_card.store(hello.is_on_card(), Ordering::Relaxed);
        self.decide(&mut session, &hello).await?;
        let sizes = self.keep_sizes(&mut session, &hello).await?;
        if !sizes.is_empty() {
            // It has read them once more for each.
            self.check_files().await?;
        }
        let (device, batching) = (&hello.device, self.shared.mixing.batching());
        info!(
            model = self.blueprint.model,
            device = device.name,
            stepped_down = device.stepped_down,
            batching = batching.as_ref().map(|batching| if batching.enabled { "on" } else { "off" }),
            rows = batching.as_ref().map(|batching| batching.rows.name()),
            reason = batching.as_ref().map(|batching| &*batching.reason),
            sizes = (!sizes.is_empty()).then(|| debug(&sizes)),
            "a session is warm"
        );
        self.meters.on_cpu.set((device.name == "cpu").into());
        self.meters.on_cuda.set(hello.is_on_card().into());
        Ok((Arc::new(hello), session))
    }

    async fn check_files(&self) -> Result<(), StartError> {
        let unchanged = Arc::clone(&self.blueprint.unchanged);
        let is_unchanged = spawn_blocking(move || unchanged()).await.unwrap_or(false);
        if is_unchanged { Ok(()) } else { Err(StartError::Model(FILES_CHANGED.to_owned())) }
    }

    /// On a card, where rows of different callers go together. What a session dies of is not tried with the next one.
    async fn keep_sizes(&self, session: &mut L::Session, hello: &Hello) -> Result<Vec<usize>, StartError> {
        let batch = self.shared.batch();
        if !hello.is_on_card() || batch.max_rows == 1 || self.shared.keeps_no_sizes.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let kept = match timeout(batch.run_timeout, keep_sizes(session, hello, &self.blueprint, &batch)).await {
            Ok(kept) => kept,
            Err(_) => Err("that took too long".to_owned()),
        };
        kept.map_err(|reason| {
            self.shared.keeps_no_sizes.store(true, Ordering::Relaxed);
            StartError::Died(format!("when it was to keep batches of different sizes apart, {reason}"))
        })
    }

    /// Decides, once for each model, whether requests of different callers run together.
    async fn decide(&self, session: &mut L::Session, hello: &Hello) -> Result<(), StartError> {
        let settings = &self.shared.batch;
        let mut spoiled = None;
        let decide = async {
            let difference = |reason: String| Probed { rows: Finding::Difference(reason), ..Probed::default() };
            let probed = match timeout(settings.run_timeout, probe(session, hello, &self.blueprint, settings)).await {
                Ok(Ok(probed)) => probed,
                Ok(Err(reason)) => difference(spoiled.insert(format!("its session died: {reason}")).clone()),
                Err(_) => difference(spoiled.insert("a run took too long and did not end".to_owned()).clone()),
            };
            let decision = Decision::new(&hello.facts, &probed, settings);
            decision.log_objection(&self.blueprint.model);
            self.meters.batching.set(&decision.batching);
            decision
        };
        self.shared.mixing.decide(decide).await;
        spoiled.map_or(Ok(()), |reason| Err(StartError::Died(format!("when batches were tried, {reason}"))))
    }

    /// Hands batches to the session until it dies.
    async fn serve(&mut self, mut session: L::Session, hello: &Arc<Hello>) -> Death {
        let shared = Arc::clone(&self.shared);
        let _serving = shared.queue.serve();
        let mut answered: Option<Answered> = None;
        loop {
            let settings = self.shared.batch();
            let batch = if let Some(batch) = self.again.pop().or_else(|| self.shared.queue.take_due(&settings)) {
                batch
            } else {
                if let Some(answered) = answered.take() {
                    answered.tell();
                }
                tokio::select! {
                    reason = session.died() => return Death::unexplained(reason),
                    batch = self.shared.queue.next(&settings) => batch,
                }
            };
            let Some(mut batch) = batch.of_those_who_wait() else { continue };
            let begun = Instant::now();
            // The session is to have its next batch before anybody is told of the last one.
            let tell = async { answered.take().map(Answered::tell) };
            let (outcome, _) = join(self.run(&mut session, &mut batch), tell).await;
            let ran = begun.elapsed();
            match outcome {
                Outcome::Ran(outputs) => {
                    self.restarts.succeeded();
                    self.observe(&batch, begun, ran);
                    answered = self.answer(Answered { batch, outputs, session: Arc::clone(hello), begun, ran });
                }
                Outcome::Refused(reason) => {
                    self.restarts.succeeded();
                    self.refused(batch, &reason);
                }
                Outcome::GivenUp => self.too_slow(batch),
                Outcome::Died(reason, was_to_end) => return self.died_of(batch, reason, was_to_end),
            }
        }
    }

    async fn run(&self, session: &mut L::Session, batch: &mut Batch) -> Outcome {
        self.meters.runs.inc();
        self.meters.batch_rows.observe(batch.rows() as f64);
        let allowance = batch.allowance;
        let span = batch.entries.first().map_or_else(Span::none, |entry| entry.span.clone());
        let (inputs, askers): (Vec<&[Tensor]>, Vec<_>) =
            batch.entries.iter_mut().map(|entry| (entry.inputs.as_slice(), &mut entry.answer)).unzip();
        let end = CancellationToken::new();
        let mut run = pin!(session.run(&inputs, end.cancelled()).instrument(span));
        let nobody_waits = join_all(askers.into_iter().map(Sender::closed));
        let result = tokio::select! {
            biased;
            result = &mut run => result,
            _ = nobody_waits => {
                end.cancel();
                run.await
            }
            () = sleep(allowance) => {
                end.cancel();
                run.await
            }
        };
        match result {
            Ok(outputs) => Outcome::Ran(outputs),
            Err(SessionError::Refused(reason)) => Outcome::Refused(reason),
            Err(SessionError::GivenUp) => Outcome::GivenUp,
            Err(SessionError::Died(reason)) => Outcome::Died(reason, end.is_cancelled()),
        }
    }

    fn observe(&self, batch: &Batch, begun: Instant, ran: Duration) {
        self.shared.queue.pace.observe(batch.rows(), ran);
        self.meters.run_seconds.observe(ran.as_secs_f64());
        for entry in &batch.entries {
            self.meters.queue_seconds.observe(begun.saturating_duration_since(entry.since).as_secs_f64());
        }
    }

    /// `None` when the outputs have no rows for the requests, which then have to be run alone.
    fn answer(&mut self, answered: Answered) -> Option<Answered> {
        if answered.can_be_cut() {
            self.check(&answered);
            return Some(answered);
        }
        let shapes: Vec<_> = answered.outputs.iter().map(|output| &output.shape).collect();
        let rows = answered.batch.rows();
        let reason = format!("a batch of {rows} rows had results of the shapes {shapes:?}");
        self.shared.revoke(&self.meters, Revocation { reason, random: false, wrong_before_ms: None });
        let allowance = self.shared.batch.run_timeout;
        self.again.extend(answered.batch.singles(allowance, Past::Refused).rev());
        None
    }

    /// Has some batches run again request by request, to compare.
    fn check(&self, answered: &Answered) {
        if let Some(check) = Check::of(answered, &self.shared, &self.meters) {
            let stop = self.stop.clone();
            self.tasks.spawn(async move { stop.run_until_cancelled(check.run()).await });
        }
    }

    /// By halves, until it is plain whose inputs they are that the model does not take.
    fn refused(&mut self, batch: Batch, reason: &str) {
        if batch.entries.len() == 1 {
            batch.refuse(|| RunError::Refused(reason.to_owned()));
        } else {
            self.again.extend(batch.halves().into_iter().rev());
        }
    }

    fn too_slow(&mut self, batch: Batch) {
        let timeout = self.shared.batch.run_timeout;
        if batch.entries.len() == 1 {
            batch.refuse(|| RunError::TimedOut(timeout));
        } else {
            // In all, no more than what the batch has left; each has more than was expected of all (`BatchSettings`).
            let allowance = timeout / 2 / u32::try_from(batch.entries.len()).unwrap_or(u32::MAX);
            self.again.extend(batch.singles(allowance, Past::TimedOut).rev());
        }
    }

    fn died_of(&mut self, batch: Batch, reason: String, was_to_end: bool) -> Death {
        let (is_one, past) = (batch.entries.len() == 1, batch.past);
        if was_to_end {
            self.too_slow(batch);
            return Death { error: StartError::Died(reason), blame: Blame::Request };
        }
        if is_one && past == Past::Died {
            batch.entries.iter().for_each(|entry| self.shared.quarantine.put(&entry.inputs));
            batch.refuse(|| RunError::Crashed);
            return Death { error: StartError::Died(reason), blame: Blame::Request };
        }
        self.again.extend(batch.singles(self.shared.batch.run_timeout, Past::Died).rev());
        Death::unexplained(reason)
    }

    /// Whoever waits now would wait too long: the next attempt may fail as well.
    fn turn_away(&mut self, error: &StartError) {
        self.enter(State::Unavailable(error.clone()));
        let refusal = || RunError::Unavailable(error.to_string());
        self.again.drain(..).for_each(|batch| batch.refuse(refusal));
        // Another session of this model may still be working: the queue is then its.
        if matches!(best(&self.states.borrow()), State::Unavailable(_)) {
            self.shared.queue.drain().into_iter().for_each(|entry| entry.tell(Err(refusal())));
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

impl Death {
    fn unexplained(reason: String) -> Self {
        Self { error: StartError::Died(reason), blame: Blame::Unknown }
    }
}
