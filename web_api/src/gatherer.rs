//! Questions of different callers, on their way to `model_api` together.
//!
//! A call costs both services more than a small model's answer does. So while [`LANES`] calls to a model are under way, further
//! questions wait, and go together in one call as soon as one of the others is back: the more there are, the more go
//! together, and a question that comes alone leaves at once and alone. So does a full call, whose size goes by what a row takes:
//! a slow model gets every question by itself. No queue forms here: that is `model_api`'s, which knows how long it may be.
//! Those meet whose connections belong to the same core ([`service::runtime`]): to wake the thread of another one costs more than
//! half as many calls save.
//!
//! Only rows that are independent of each other go together, and nobody is to notice: a call that is refused or fails is made
//! again for each of its questions, so that everybody gets his own answer, or the words that fit his own question. A call for
//! several has half of the time, so that the other half is there for each alone.
//!
//! A model that says that it is overloaded is sent no more than it takes ([`window`]). Further requests are refused here, which
//! costs a small part of what it costs there; at many times of what can be answered, that is what the results themselves need.

mod group;
mod window;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contract::ModelDescription;
use futures_util::future::{Either, join_all, select};
use http::StatusCode;
use open_inference::{Inference, Tensor, gives_optional};
use service::request_id::current_request_id;
use service::runtime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use self::group::{Waiting, cut, goes_with, small_rows, stack, tell};
use self::window::{End, Full, Window};
use crate::error::Error;
use crate::model_client::{Call, ModelClient};

/// Calls for one model version under way at the same time, shared out among the cores, which have one at the least: enough that
/// its sessions have their next batch while the last answers are on their way back, and few enough that questions meet.
const LANES: usize = 4;

/// Rows of a call where the model names no size.
const DEFAULT_ROWS: usize = 32;

/// So long the rows of a call may take together: nobody is to wait for many others.
const LONG_CALL: Duration = Duration::from_millis(10);

/// Bytes of a call.
const MOST_BYTES: usize = 4 << 20;

/// Initial window of a model, for each core of this machine: so many requests, or as many as the model answers in such a time
/// where that is known. It is more than the model's queue takes before it is long, so that the model says so.
const INITIAL_WINDOW: usize = 64;
const INITIAL_WINDOW_TAKES: Duration = Duration::from_millis(150);

/// Puts questions together. Clones share what is under way.
#[derive(Clone)]
pub struct Gatherer {
    client: ModelClient,
    roads: Arc<Mutex<HashMap<Destination, Road>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Destination {
    model: String,
    /// `None` for whichever is the default one.
    version: Option<String>,
    /// Work in the background goes by itself: it must not make people's questions wait, nor be as urgent as they are.
    in_background: bool,
}

/// The way to a destination.
struct Road {
    /// Questions under way, those that wait for their call among them.
    window: Window,
    /// Of each core.
    stops: Vec<Stop>,
    /// What a row took in the last call; at the most, since it may have run together with others'.
    row_takes: Duration,
}

/// Where the questions of one core's callers meet.
#[derive(Default)]
struct Stop {
    /// Calls under way.
    calls: usize,
    waiting: Vec<Waiting>,
}

/// A question's place on its road, until this is dropped.
struct Place<'a> {
    gatherer: &'a Gatherer,
    to: &'a Destination,
    since: Instant,
    end: End,
}

/// One of the calls that may be under way to a destination.
struct Lane {
    gatherer: Gatherer,
    to: Destination,
    core: usize,
    most_rows: usize,
    is_given_back: bool,
}

impl Gatherer {
    /// Gathers for this client.
    pub fn new(client: ModelClient) -> Self {
        Self { client, roads: Arc::default() }
    }

    /// What `model` makes of `inputs`; its default version where none is named. Dropping the future gives the question up.
    pub async fn infer(
        &self,
        model: &ModelDescription,
        version: Option<&str>,
        in_background: bool,
        inputs: Vec<Tensor>,
    ) -> Result<Inference, Error> {
        let to = Destination { model: model.name.clone(), version: version.map(str::to_owned), in_background };
        let mut place = self.admit(&to)?;
        let permit = self.client.permit(in_background)?;
        let is_gathered = model.independent_rows && !gives_optional(&inputs, &model.inputs);
        let answer = if let Some(rows) = small_rows(&inputs).filter(|_| is_gathered) {
            self.gather(model, &to, inputs, rows, permit).await
        } else {
            let patience = self.client.patience();
            let call = Call { model: &model.name, version, request_id: current_request_id(), patience, in_background };
            let rows = inputs.first().and_then(Tensor::rows).unwrap_or(1);
            let answer = self.client.infer(call, inputs).await;
            self.note(&to, &answer, rows);
            answer
        };
        place.end = End::of(&answer, place.since.elapsed());
        answer
    }

    /// A place for one more question; an error where the model's window is full.
    fn admit<'a>(&'a self, to: &'a Destination) -> Result<Place<'a>, Error> {
        let mut roads = self.roads();
        // There are as many roads as versions have been asked, and none is taken away.
        if !roads.contains_key(to) {
            roads.insert(to.clone(), Road::new());
        }
        if let Some(road) = roads.get_mut(to) {
            road.window.admit(road.initial_window()).map_err(|full| match full {
                Full::Initial => Error::Busy,
                Full::Overloaded { retry_after_s } => Error::Overloaded { model: to.model.clone(), retry_after_s },
            })?;
        }
        Ok(Place { gatherer: self, to, since: Instant::now(), end: End::Other })
    }

    async fn gather(
        &self,
        model: &ModelDescription,
        to: &Destination,
        inputs: Vec<Tensor>,
        rows: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Inference, Error> {
        let (asker, answered) = oneshot::channel();
        let (request_id, span) = (current_request_id(), Span::current());
        let deadline = Instant::now() + self.client.patience();
        let waiting = Waiting { inputs, rows, deadline, request_id, span, asker, _permit: permit };
        let most_rows = if model.max_batch_size > 0 { model.max_batch_size as usize } else { DEFAULT_ROWS };
        let core = runtime::current_core();
        if self.enqueue(to, core, most_rows, waiting) {
            let to = to.clone();
            let lane = Lane { gatherer: self.clone(), to, core, most_rows, is_given_back: false };
            // A task of its own: it goes on for others when its first caller has his answer.
            tokio::spawn(lane.run());
        }
        answered.await.unwrap_or(Err(Error::Internal))
    }

    /// Whether a call is to leave for it, which then counts as under way.
    fn enqueue(&self, to: &Destination, core: usize, most_rows: usize, waiting: Waiting) -> bool {
        let mut roads = self.roads();
        let Some(road) = roads.get_mut(to) else { return false };
        let most_rows = road.rows_of_a_call(most_rows);
        let stop = &mut road.stops[core];
        stop.waiting.push(waiting);
        let leaves = stop.calls < lanes() || stop.is_full(most_rows);
        stop.calls += usize::from(leaves);
        leaves
    }

    /// Notes what a row took.
    fn note(&self, to: &Destination, answer: &Result<Inference, Error>, rows: usize) {
        if let Ok(inference) = answer
            && let Some(road) = self.roads().get_mut(to)
        {
            road.row_takes = took(inference) / u32::try_from(rows.max(1)).unwrap_or(u32::MAX);
        }
    }

    fn roads(&self) -> MutexGuard<'_, HashMap<Destination, Road>> {
        // No code panics between two changes that belong together.
        self.roads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Makes calls until nothing waits.
    async fn run(mut self) {
        while let Some(group) = self.next() {
            self.carry(group).await;
        }
    }

    /// What goes next: the question that has waited longest, and those that go with it. When there is none, or enough is under
    /// way, the lane is given back, in the same breath: whoever comes next must find it free.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut roads = self.gatherer.roads();
        let road = roads.get_mut(&self.to)?;
        let most_rows = road.rows_of_a_call(self.most_rows);
        let stop = &mut road.stops[self.core];
        stop.waiting.retain(|waiting| !waiting.asker.is_closed());
        if stop.waiting.is_empty() || (stop.calls > lanes() && !stop.is_full(most_rows)) {
            stop.calls -= 1;
            self.is_given_back = true;
            return None;
        }
        let mut waiting = std::mem::take(&mut stop.waiting).into_iter();
        let first = waiting.next()?;
        let (mut rows, mut bytes) = (first.rows, first.bytes());
        let mut group = vec![first];
        for other in waiting {
            let fits = rows + other.rows <= most_rows && bytes + other.bytes() <= MOST_BYTES;
            if fits && goes_with(&group[0].inputs, &other.inputs) {
                rows += other.rows;
                bytes += other.bytes();
                group.push(other);
            } else {
                stop.waiting.push(other);
            }
        }
        Some(group)
    }

    /// One call for all of the group, and one for each where that does not do.
    async fn carry(&self, mut group: Vec<Waiting>) {
        let Some(outcome) = self.call(&mut group).await else { return };
        match outcome {
            Ok(inference) => match cut(inference, &group) {
                Some(answers) => tell(group, answers.into_iter().map(Ok)),
                None => self.carry_apart(group).await,
            },
            Err(error) if group.len() > 1 && may_be_anothers(&error) => self.carry_apart(group).await,
            Err(error) => {
                let errors = vec![error; group.len()];
                tell(group, errors.into_iter().map(Err));
            }
        }
    }

    async fn carry_apart(&self, group: Vec<Waiting>) {
        let carry = async |waiting: Waiting| {
            let mut alone = vec![waiting];
            if let Some(outcome) = self.call(&mut alone).await {
                tell(alone, [outcome]);
            }
        };
        join_all(group.into_iter().map(carry)).await;
    }

    /// One call for all of the group; `None` when everybody who asked has gone before there was an answer, and with them
    /// the call.
    async fn call(&self, group: &mut [Waiting]) -> Option<Result<Inference, Error>> {
        let first = group.first()?;
        let (request_id, span) = (first.request_id.clone(), first.span.clone());
        let left = first.deadline.saturating_duration_since(Instant::now());
        let patience = if group.len() > 1 { left.min(self.gatherer.client.patience() / 2) } else { left };
        let Destination { model, version, in_background } = &self.to;
        let in_background = *in_background;
        let call = Call { model, version: version.as_deref(), request_id, patience, in_background };
        let inputs = stack(group);
        let answer = pin!(self.gatherer.client.infer(call, inputs).instrument(span));
        let nobody_waits = join_all(group.iter_mut().map(|waiting| waiting.asker.closed()));
        let answer = match select(answer, nobody_waits).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => return None,
        };
        self.gatherer.note(&self.to, &answer, group.iter().map(|waiting| waiting.rows).sum());
        Some(answer)
    }
}

impl Drop for Lane {
    /// Also after a panic. Without a call there is nobody to send the requests that wait here, so they get their error now;
    /// the next request begins a new call.
    fn drop(&mut self) {
        if self.is_given_back {
            return;
        }
        let mut roads = self.gatherer.roads();
        let Some(stop) = roads.get_mut(&self.to).map(|road| &mut road.stops[self.core]) else { return };
        stop.calls -= 1;
        let lost = if stop.calls == 0 { std::mem::take(&mut stop.waiting) } else { Vec::new() };
        drop(roads);
        let errors = vec![Error::Internal; lost.len()];
        tell(lost, errors.into_iter().map(Err));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(road) = self.gatherer.roads().get_mut(self.to) {
            road.window.leave(self.end);
        }
    }
}

impl Road {
    fn new() -> Self {
        let stops = (0..runtime::core_count()).map(|_| Stop::default()).collect();
        Self { window: Window::default(), stops, row_takes: Duration::ZERO }
    }

    fn rows_of_a_call(&self, most: usize) -> usize {
        self.rows_within(LONG_CALL).clamp(1, most)
    }

    fn initial_window(&self) -> usize {
        // Before the first result nothing is known, and a window of all that may come would be none.
        let known = if self.row_takes.is_zero() { 0 } else { self.rows_within(INITIAL_WINDOW_TAKES) };
        known.max(INITIAL_WINDOW).saturating_mul(self.stops.len())
    }

    fn rows_within(&self, time: Duration) -> usize {
        usize::try_from(time.as_nanos() / self.row_takes.as_nanos().max(1)).unwrap_or(usize::MAX)
    }
}

impl Stop {
    /// Whether what waits would fill a call.
    fn is_full(&self, rows_of_a_call: usize) -> bool {
        self.waiting.iter().map(|waiting| waiting.rows).sum::<usize>() >= rows_of_a_call
    }
}

/// Of each core.
fn lanes() -> usize {
    LANES.div_ceil(runtime::core_count())
}

/// What the model was busy with it for; zero for what no clock has said.
fn took(inference: &Inference) -> Duration {
    let timing = &inference.provenance.timing_ms;
    Duration::try_from_secs_f64((timing.decode + timing.infer) / 1e3).unwrap_or_default()
}

/// Whether one of several questions may be to blame, and the others would be answered without it.
fn may_be_anothers(error: &Error) -> bool {
    let status = error.status().0;
    status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR || matches!(error, Error::Deadline)
}

#[cfg(test)]
mod tests;
