use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, join_all};
use open_inference::Tensor;
use tokio::sync::oneshot::Sender;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span, warn};

use super::batch::{Answered, Batch, Past};
use super::check::Check;
use super::mixing::Revocation;
use super::renewal::Renewal;
use super::restarts::Restarts;
use super::slow_lane::{SlowLane, patience};
use super::starter::Starter;
use super::{Meters, RunError, Shared, State, best};
use crate::memory::Exceeded;
use crate::session::{Hello, Launcher, Session, SessionError, StartError};

/// Time between two looks whether requests wait for a run that takes long.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps one session alive and hands it batches.
pub struct Worker<L> {
    pub number: usize,
    pub starter: Starter<L>,
    pub meters: Meters,
    pub shared: Arc<Shared>,
    pub states: Arc<watch::Sender<Vec<State>>>,
    pub restarts: Restarts,
    /// Parts of batches that came to nothing, the next one last. They go before all that waits.
    pub again: Vec<Batch>,
    /// Where runs that take far longer than usual go on; `None` there.
    pub slow_lane: Option<Arc<SlowLane>>,
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
    /// One request, which is not run again, or the memory that it took.
    Request,
    /// Its memory had grown, and there was no room for a second one beside it.
    Renewal,
}

/// What became of a run.
enum Outcome {
    Ran(Vec<Tensor>),
    Refused(String),
    /// Ended since it took too long, or since nobody waits for it.
    GivenUp,
    /// Ended since it took far longer than usual while others waited; with the reason where its session died of that.
    PutOff(Option<String>),
    /// Its outputs have so many bytes.
    TooLarge(usize),
    /// Its session used more memory than it may and was ended.
    OutOfMemory(Exceeded),
    /// With the reason, and whether it was to end and did not.
    Died(String, bool),
}

impl<L: Launcher> Worker<L> {
    /// Works until it is cancelled.
    pub async fn work(mut self) {
        loop {
            let Death { error, blame } = match self.starter.start().await {
                Ok((hello, session)) => {
                    self.enter(State::Ready(Arc::clone(&hello)));
                    self.serve(session, &hello).await
                }
                Err(error) => Death { error, blame: Blame::Start },
            };
            let pause = match blame {
                Blame::Start => self.restarts.failed(),
                Blame::Unknown => self.restarts.died(),
                Blame::Request | Blame::Renewal => Duration::ZERO,
            };
            if blame != Blame::Renewal {
                self.meters.restarts.inc();
            }
            warn!(model = self.starter.blueprint.model, reason = %error, ?pause, "a new session is needed");
            if blame == Blame::Start || self.restarts.keeps_dying() {
                self.turn_away(&error);
            } else {
                self.enter(State::Starting);
            }
            sleep(pause).await;
        }
    }

    /// Hands batches to the session until it dies.
    async fn serve(&mut self, mut session: L::Session, hello: &Arc<Hello>) -> Death {
        let mut hello = Arc::clone(hello);
        let mut renewal = Renewal::of(&self.starter, &session, &hello);
        let shared = Arc::clone(&self.shared);
        let _serving = shared.queue.serve();
        let mut answered: Option<Answered> = None;
        loop {
            if let Err(death) = self.renew(&mut renewal, &mut session, &mut hello).await {
                answered.into_iter().for_each(Answered::tell);
                return death;
            }
            let settings = self.shared.batch();
            let batch = if let Some(batch) = self.again.pop().or_else(|| self.shared.queue.take_due(&settings)) {
                batch
            } else {
                if let Some(answered) = answered.take() {
                    answered.tell();
                }
                let mut next = pin!(shared.queue.next(&settings));
                loop {
                    tokio::select! {
                        reason = session.died() => return Death::unexplained(reason),
                        batch = &mut next => break batch,
                        () = renewal.due() => {
                            if let Err(death) = self.renew(&mut renewal, &mut session, &mut hello).await {
                                return death;
                            }
                        }
                    }
                }
            };
            let Some(mut batch) = batch.of_those_who_wait() else { continue };
            let begun = Instant::now();
            // The session is to have its next batch before anybody is told of the last one.
            let tell = async { answered.take().map(Answered::tell) };
            let (outcome, _) = join(self.run(&mut session, &mut batch), tell).await;
            let ran = begun.elapsed();
            renewal.ran();
            match outcome {
                Outcome::Ran(outputs) => {
                    self.restarts.succeeded();
                    self.observe(&batch, begun, ran);
                    answered = self.answer(Answered { batch, outputs, session: Arc::clone(&hello), begun, ran });
                }
                Outcome::Refused(reason) => {
                    self.restarts.succeeded();
                    self.refused(batch, || RunError::Refused(reason.clone()));
                }
                Outcome::TooLarge(bytes) => {
                    self.restarts.succeeded();
                    self.refused(batch, || RunError::result_too_large(bytes));
                }
                Outcome::OutOfMemory(exceeded) => return self.out_of_memory(batch, &exceeded),
                Outcome::GivenUp => self.too_slow(batch),
                Outcome::PutOff(died) => {
                    self.put_off(batch);
                    if let Some(reason) = died {
                        return Death { error: StartError::Died(reason), blame: Blame::Request };
                    }
                }
                Outcome::Died(reason, was_to_end) => return self.died_of(batch, reason, was_to_end),
            }
        }
    }

    /// Looks at the memory of the session, or puts the next one in its place. The error is its end.
    async fn renew(
        &self,
        renewal: &mut Renewal<L>,
        session: &mut L::Session,
        hello: &mut Arc<Hello>,
    ) -> Result<(), Death> {
        if let Some(next) = renewal.started().await {
            (*hello, *session) = next;
            *renewal = Renewal::again(&self.starter, session, hello);
            self.enter(State::Ready(Arc::clone(hello)));
        }
        let end = |reason| Death { error: StartError::Died(reason), blame: Blame::Renewal };
        renewal.look(session).map_err(end)
    }

    async fn run(&self, session: &mut L::Session, batch: &mut Batch) -> Outcome {
        self.meters.runs.inc();
        self.meters.batch_rows.observe(batch.rows() as f64);
        let allowance = batch.allowance;
        let patience = patience(batch.rows(), &self.starter.shared.queue.pace, &self.shared.batch);
        let may_be_put_off = self.slow_lane.is_some() && batch.past != Past::TimedOut && patience < allowance;
        let span = batch.entries.first().map_or_else(Span::none, |entry| entry.span.clone());
        let (inputs, askers): (Vec<&[Tensor]>, Vec<_>) =
            batch.entries.iter_mut().map(|entry| (entry.inputs.as_slice(), &mut entry.answer)).unzip();
        let (end, mut is_put_off) = (CancellationToken::new(), false);
        self.shared.is_busy.store(true, Ordering::Relaxed);
        let mut run = pin!(session.run(&inputs, end.cancelled()).instrument(span));
        let nobody_waits = join_all(askers.into_iter().map(Sender::closed));
        let result = tokio::select! {
            biased;
            result = &mut run => result,
            _ = nobody_waits => {
                end.cancel();
                run.await
            }
            () = self.others_wait(patience), if may_be_put_off => {
                is_put_off = true;
                end.cancel();
                run.await
            }
            () = sleep(allowance) => {
                end.cancel();
                run.await
            }
        };
        self.shared.is_busy.store(false, Ordering::Relaxed);
        match result {
            Err(SessionError::GivenUp) if is_put_off => Outcome::PutOff(None),
            Err(SessionError::Died(reason)) if is_put_off => Outcome::PutOff(Some(reason)),
            Ok(outputs) => Outcome::Ran(outputs),
            Err(SessionError::Refused(reason)) => Outcome::Refused(reason),
            Err(SessionError::TooLarge(bytes)) => Outcome::TooLarge(bytes),
            Err(SessionError::OutOfMemory(exceeded)) => Outcome::OutOfMemory(exceeded),
            Err(SessionError::GivenUp) => Outcome::GivenUp,
            Err(SessionError::Died(reason)) => Outcome::Died(reason, end.is_cancelled()),
        }
    }

    /// Resolves after this time, as soon as any other request waits for this session.
    async fn others_wait(&self, patience: Duration) {
        sleep(patience).await;
        while self.again.is_empty() && !self.shared.queue.has_waiting() {
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Requests that took far longer than usual: one goes on elsewhere, and several are run again one by one.
    fn put_off(&mut self, mut batch: Batch) {
        if let (Some(lane), [_]) = (&self.slow_lane, batch.entries.as_slice()) {
            for entry in batch.entries.drain(..) {
                lane.take(entry, &self.starter, &self.tasks, &self.stop);
            }
        } else {
            self.again.extend(batch.singles(self.shared.batch.run_timeout, Past::New).rev());
        }
    }

    fn observe(&self, batch: &Batch, begun: Instant, ran: Duration) {
        self.starter.shared.queue.pace.observe(batch.rows(), ran);
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
    fn refused(&mut self, batch: Batch, error: impl Fn() -> RunError) {
        if batch.entries.len() == 1 {
            batch.refuse(error);
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

    /// Each request is run again alone, on a new session: the one that was ended may have been large before this batch.
    fn out_of_memory(&mut self, batch: Batch, exceeded: &Exceeded) -> Death {
        let error = StartError::Died(exceeded.to_string());
        if batch.entries.len() == 1 && batch.past == Past::OutOfMemory {
            if matches!(exceeded, Exceeded::Each(_)) {
                let error = RunError::OutOfMemory(exceeded.clone());
                batch.entries.iter().for_each(|entry| self.shared.quarantine.put(&entry.inputs, error.clone()));
            }
            batch.refuse(|| RunError::OutOfMemory(exceeded.clone()));
        } else {
            self.again.extend(batch.singles(self.shared.batch.run_timeout, Past::OutOfMemory).rev());
        }
        Death { error, blame: Blame::Request }
    }

    fn died_of(&mut self, batch: Batch, reason: String, was_to_end: bool) -> Death {
        let (is_one, past) = (batch.entries.len() == 1, batch.past);
        if was_to_end {
            self.too_slow(batch);
            return Death { error: StartError::Died(reason), blame: Blame::Request };
        }
        if is_one && past == Past::Died {
            batch.entries.iter().for_each(|entry| self.shared.quarantine.put(&entry.inputs, RunError::Crashed));
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
