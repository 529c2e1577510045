//! Probe for rows that depend on the rows beside them in a batch.
//!
//! Rows that differ in scale, sign, spread, constancy and length are run alone, and then in batches with different
//! neighbours. A row's results must be the same to the last bit, or nearly, wherever batch size and position are the same and
//! only the neighbours differ; between batch sizes they may differ by rounding ([`compare`]). Two random rows of one range
//! would not do: they share the statistics of the batch, such as the range of a dynamically quantised tensor. A row that is
//! run twice shows models that draw random numbers.
//!
//! The time is bounded. What matters most is tried first, and a slow model is tried with less.

mod compare;
mod finding;
mod inputs;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use open_inference::{Tensor, TensorMetadata};
use tokio::time::{Instant, sleep};

pub use self::compare::{distance, magnitude, other_size, same_size};
pub use self::finding::{Finding, Probed};
use self::inputs::{Kind, LENGTHS, LONGER, MAX_ELEMENTS};
pub use self::inputs::{plain_row, probe_rows};
use super::BatchSettings;
use crate::onnx::analysis::RowAnalysis;
use crate::session::{Blueprint, Hello, Session, SessionError, known_shape};

/// After so long no further batch is tried, once the first [`LEAST_BATCHES`] have been, or the first [`FEWEST`] where graph or
/// settings say already that rows are independent.
const BUDGET: Duration = Duration::from_secs(1);
const LEAST_BATCHES: usize = 5;

/// Fewer batches show nothing.
const FEWEST: usize = 2;

/// All runs together end within this part of the time that one request may take.
const PART_OF_RUN_TIMEOUT: u32 = 2;

/// A run ends the probe when it takes longer than this, and than so many times what the first one took for each row: some
/// values make some models run for ever.
const LONG_RUN: Duration = Duration::from_secs(2);
const TIMES_THE_FIRST: u32 = 10;

/// How often one row is run alone: a model that draws one of a few classes may draw the same one twice.
const REPEATS: usize = 4;

/// Tries the model. The error is the session's death; no run is given up before it has ended.
pub async fn probe<S: Session>(
    session: &mut S,
    hello: &Hello,
    blueprint: &Blueprint,
    settings: &BatchSettings,
) -> Result<Probed, String> {
    let inputs: Vec<_> = hello.required_inputs().collect();
    let is_second_opinion = hello.facts.rows == RowAnalysis::Independent || settings.independent == Some(true);
    let begun = Instant::now();
    let mut probe = Probe {
        session,
        outputs: &hello.outputs,
        shapes: &blueprint.shapes,
        most_rows: if settings.why_alone().is_some() { 1 } else { settings.max_rows },
        soft_end: begun + BUDGET,
        hard_end: begun + settings.run_timeout / PART_OF_RUN_TIMEOUT,
        inputs,
        least_batches: if is_second_opinion { FEWEST } else { LEAST_BATCHES },
        row_takes: None,
        batches: 0,
        probed: Probed::default(),
    };
    let closed = probe.closed();
    if closed.is_some() {
        probe.most_rows = 1;
    }
    let rows = match probe.all().await {
        Err(Stop::Died(reason)) => return Err(reason),
        Err(Stop::Found(difference)) => Finding::Difference(difference),
        Err(Stop::Random(how)) => {
            probe.probed.random = Some(how.clone());
            Finding::Difference(how)
        }
        Err(Stop::Late) if probe.batches < FEWEST => Finding::NotRun("its runs take too long".to_owned()),
        Ok(Some(reason)) if probe.batches == 0 => Finding::NotRun(reason),
        Err(Stop::Late) | Ok(_) => Finding::NoDifference { batches: probe.batches },
    };
    Ok(Probed { rows: closed.map_or(rows, Finding::NoBatchAxis), ..probe.probed })
}

/// What ends the probe before its plan does.
enum Stop {
    /// The session has died.
    Died(String),
    /// A row depends on its neighbours.
    Found(String),
    /// Equal inputs give different results.
    Random(String),
    /// There is no time left.
    Late,
}

struct Probe<'a, S> {
    session: &'a mut S,
    inputs: Vec<&'a TensorMetadata>,
    outputs: &'a [TensorMetadata],
    shapes: &'a BTreeMap<String, Vec<i64>>,
    most_rows: usize,
    soft_end: Instant,
    hard_end: Instant,
    least_batches: usize,
    /// What the first run took.
    row_takes: Option<Duration>,
    batches: usize,
    probed: Probed,
}

/// A row that the model takes alone, and its results.
struct Alone {
    kind: Kind,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Results of rows in batches of one size, by position and kind, to compare with those beside other neighbours.
type Seen = HashMap<(usize, Kind), Vec<Tensor>>;

impl<S: Session> Probe<'_, S> {
    /// Which input has no rows.
    fn closed(&self) -> Option<String> {
        let closed = self.inputs.iter().find(|input| known_shape(input, self.shapes).first() != Some(&-1));
        let reason = |input: &&TensorMetadata| {
            let shape = known_shape(input, self.shapes);
            format!("input {:?} has the shape {shape:?}, whose first axis is not open", input.name)
        };
        if self.inputs.is_empty() { Some("there is no input".to_owned()) } else { closed.map(reason) }
    }

    /// Gives the reason why the model took none of the rows, where it took none.
    async fn all(&mut self) -> Result<Option<String>, Stop> {
        let has_open_axes =
            self.inputs.iter().any(|input| known_shape(input, self.shapes).iter().skip(1).any(|&length| length < 0));
        let lengths: &[usize] = if has_open_axes { &LENGTHS } else { &LENGTHS[..1] };
        let mut taken = Vec::new();
        let mut refusal = None;
        for (tried, &length) in lengths.iter().chain(if has_open_axes { &LONGER[..] } else { &[] }).enumerate() {
            if !taken.is_empty() && (tried >= lengths.len() || self.is_late()) {
                break;
            }
            match self.alone(length, &[], self.most_rows.min(3)).await? {
                Ok(alone) => taken.push((length, alone)),
                Err(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        if let Some((_, first)) = taken.first() {
            self.repeat(&first[0]).await?;
        }
        if self.most_rows < 2 {
            return Ok(Some("every request runs alone".to_owned()));
        }
        // The greatest contrasts for each length, before more of any.
        for (_, alone) in &taken {
            self.contrast(alone).await?;
        }
        for (length, mut alone) in taken {
            let known: Vec<Kind> = alone.iter().map(|alone| alone.kind).collect();
            if let Ok(more) = self.alone(length, &known, Kind::ALL.len()).await? {
                alone.extend(more);
            }
            if alone.len() > 1 {
                self.compare_all(&alone).await?;
            }
        }
        Ok(refusal.or_else(|| Some("it takes only one of the probe's rows".to_owned())))
    }

    /// Rows that the model takes, up to so many, of other kinds than those `known`; its words where it takes none.
    async fn alone(&mut self, length: usize, known: &[Kind], most: usize) -> Result<Result<Vec<Alone>, String>, Stop> {
        let elements = inputs::elements(&self.inputs, self.shapes, length);
        if elements.is_none_or(|elements| elements.saturating_mul(2) > MAX_ELEMENTS) {
            return Ok(Err("its inputs are too large".to_owned()));
        }
        let mut alone: Vec<Alone> = Vec::new();
        let mut refusal = "it takes none of the probe's rows".to_owned();
        for kind in Kind::ALL.into_iter().filter(|kind| !known.contains(kind)) {
            if alone.len() == most || (self.batches >= self.least_batches && self.is_late()) {
                break;
            }
            let Some(inputs) = inputs::row(&self.inputs, self.shapes, kind, length) else { continue };
            match self.run(&[&inputs]).await? {
                Ok(outputs) => alone.push(Alone { kind, inputs, outputs }),
                Err(reason) => refusal = reason,
            }
        }
        Ok(if alone.is_empty() { Err(refusal) } else { Ok(alone) })
    }

    /// Whether the model draws random numbers.
    async fn repeat(&mut self, row: &Alone) -> Result<(), Stop> {
        for repeated in 1..REPEATS {
            if repeated > 1 && self.is_late() {
                return Ok(());
            }
            let Ok(again) = self.run(&[&row.inputs]).await? else {
                return Err(Stop::Random("equal inputs are now taken and now refused".to_owned()));
            };
            for (one, other) in row.outputs.iter().zip(&again) {
                if distance(one, other, magnitude(one)) > same_size(one.datatype) {
                    return Err(Stop::Random(format!("equal inputs give different results in output {:?}", one.name)));
                }
            }
        }
        Ok(())
    }

    /// A row with neighbours far larger and far smaller, in both orders.
    async fn contrast(&mut self, alone: &[Alone]) -> Result<(), Stop> {
        let (mut seen, usual) = (Seen::new(), usual(alone));
        let last = alone.len() - 1;
        for pair in [[0, 1], [0, last], [1, 0], [last, 0], [1, last]] {
            if pair[0] != pair[1] && pair[0] <= last && pair[1] <= last {
                self.batch(&pair.map(|place| &alone[place]), &usual, &mut seen).await?;
            }
        }
        Ok(())
    }

    /// All pairs, triples with every row in every position, and batches of the largest size.
    async fn compare_all(&mut self, alone: &[Alone]) -> Result<(), Stop> {
        let count = alone.len();
        let at = |place: usize| &alone[place % count];
        let (mut seen, usual) = (Seen::new(), usual(alone));
        for shift in 0..count {
            for first in 0..count {
                self.batch(&[at(first), at(first + shift)], &usual, &mut seen).await?;
            }
        }
        seen.clear();
        for first in 0..count {
            self.batch(&[at(first), at(first + 1), at(first + 3)], &usual, &mut seen).await?;
            self.batch(&[at(first), at(first + count - 1), at(first + 2 * count - 3)], &usual, &mut seen).await?;
        }
        seen.clear();
        let elements: usize = alone[0].inputs.iter().map(Tensor::len).sum();
        let rows = self.most_rows.min(MAX_ELEMENTS / elements.max(1));
        if rows > 3 {
            // The same rows in every second position, beside different ones in the others.
            for (even, odd) in [(0, 0), (0, 3), (3, 0)] {
                let batch: Vec<_> =
                    (0..rows).map(|place| at(place + if place % 2 == 0 { even } else { odd })).collect();
                self.batch(&batch, &usual, &mut seen).await?;
            }
        }
        Ok(())
    }

    /// Runs the rows in one batch, and compares each with itself alone and beside other neighbours.
    async fn batch(&mut self, rows: &[&Alone], usual: &[f32], seen: &mut Seen) -> Result<(), Stop> {
        if rows.len() > self.most_rows || (self.batches >= self.least_batches && self.is_late()) {
            return Ok(());
        }
        let Some(results) = self.results(rows).await? else { return Ok(()) };
        self.batches += 1;
        for (position, (row, result)) in rows.iter().zip(&results).enumerate() {
            self.hold_against(rows, position, &row.outputs, result, usual, other_size).await?;
            if let Some(before) = seen.get(&(position, row.kind)) {
                self.hold_against(rows, position, before, result, usual, same_size).await?;
            } else {
                seen.insert((position, row.kind), result.clone());
            }
        }
        Ok(())
    }

    /// Each row's results of one batch. `None` for a large batch that the model refuses, as for want of memory: that is no
    /// wrong result.
    async fn results(&mut self, rows: &[&Alone]) -> Result<Option<Vec<Vec<Tensor>>>, Stop> {
        let requests: Vec<&[Tensor]> = rows.iter().map(|row| &row.inputs[..]).collect();
        let count = rows.len();
        let outputs = match self.run(&requests).await? {
            Ok(outputs) => outputs,
            Err(_) if count > 3 => return Ok(None),
            Err(reason) => {
                return Err(Stop::Found(format!(
                    "it refuses a batch of {count} rows that it takes one by one: {reason}"
                )));
            }
        };
        let mut results = vec![Vec::new(); count];
        for (place, spec) in self.outputs.iter().enumerate() {
            let name = &spec.name;
            let Some(output) = outputs.get(place) else { continue };
            if let Some(row) = rows.iter().find(|row| row.outputs.get(place).and_then(Tensor::rows) != Some(1)) {
                let shape = row.outputs.get(place).map(|output| &output.shape[..]).unwrap_or_default();
                return Err(Stop::Found(format!("output {name:?} of one row has the shape {shape:?}")));
            }
            if output.rows() != Some(count) {
                let shape = &output.shape;
                return Err(Stop::Found(format!("output {name:?} of {count} rows has the shape {shape:?}")));
            }
            if let Some(row) = rows.iter().find(|row| row.outputs[place].shape[1..] != output.shape[1..]) {
                let (alone, shape) = (&row.outputs[place].shape, &output.shape);
                return Err(Stop::Found(format!(
                    "output {name:?} has the shape {shape:?} for {count} rows of which one has the shape {alone:?} alone"
                )));
            }
            output.split_rows().into_iter().zip(&mut results).for_each(|(row, results)| results.push(row));
        }
        Ok(Some(results))
    }

    /// Compares the results of the row at `position` with those it had `before`. What differs is run again first: a
    /// model that differs from run to run by itself shows nothing of its rows.
    async fn hold_against(
        &mut self,
        rows: &[&Alone],
        position: usize,
        before: &[Tensor],
        now: &[Tensor],
        usual: &[f32],
        limit: fn(open_inference::Datatype) -> f32,
    ) -> Result<(), Stop> {
        for (place, (before, now)) in before.iter().zip(now).enumerate() {
            let usual = usual.get(place).copied().unwrap_or_default();
            let apart = distance(before, now, usual);
            if apart <= limit(now.datatype) {
                self.probed.rounding = self.probed.rounding.max(apart);
                continue;
            }
            let again = self.results(rows).await?.and_then(|mut rows| rows.get_mut(position).map(std::mem::take));
            let unsteady =
                again.as_ref().and_then(|again| again.get(place)).map_or(0.0, |again| distance(now, again, usual));
            let name = &now.name;
            if unsteady * 4.0 < apart {
                let how = if apart.is_finite() {
                    format!(" by {:.2} % of its largest value", apart * 100.0)
                } else {
                    String::new()
                };
                return Err(Stop::Found(format!("output {name:?} of a row differs with the rows beside it{how}")));
            }
            if unsteady > other_size(now.datatype) {
                return Err(Stop::Random(format!("equal inputs give different results in output {name:?}")));
            }
        }
        Ok(())
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.soft_end
    }

    /// The model's words when it refuses the inputs.
    async fn run(&mut self, requests: &[&[Tensor]]) -> Result<Result<Vec<Tensor>, String>, Stop> {
        let begun = Instant::now();
        let mut left = self.hard_end.saturating_duration_since(begun);
        if let Some(row_takes) = self.row_takes {
            let rows = u32::try_from(requests.len()).unwrap_or(u32::MAX);
            left = left.min(LONG_RUN.max(row_takes.saturating_mul(TIMES_THE_FIRST).saturating_mul(rows)));
        }
        if left.is_zero() {
            return Err(Stop::Late);
        }
        match self.session.run(requests, sleep(left)).await {
            Ok(outputs) => {
                self.row_takes.get_or_insert(begun.elapsed());
                Ok(Ok(outputs))
            }
            Err(SessionError::Refused(reason)) => Ok(Err(reason)),
            Err(SessionError::TooLarge(bytes)) => Ok(Err(format!("its outputs have {bytes} bytes"))),
            Err(SessionError::GivenUp) => Err(Stop::Late),
            Err(SessionError::OutOfMemory(exceeded)) => Err(Stop::Died(exceeded.to_string())),
            Err(SessionError::Died(reason)) => Err(Stop::Died(reason)),
        }
    }
}

/// The usual magnitude of each output: that of the first row.
fn usual(alone: &[Alone]) -> Vec<f32> {
    alone.first().map(|row| row.outputs.iter().map(magnitude).collect()).unwrap_or_default()
}
