//! Batching probe: tests on the first session whether a row's result depends on the other rows of its batch.
//!
//! The probe runs rows of different scale, sign, spread, constancy and length alone, and then in batches with different
//! neighbours. If only the neighbours differ, the results of a row must be equal to the last bit, or nearly. Between batch
//! sizes they may differ by rounding ([`compare`]). Two random rows of the same range would not suffice: they share the
//! statistics of the batch, such as the range of a dynamically quantised tensor. Repeated runs of one row detect
//! nondeterministic models.
//!
//! The time is limited. The most informative batches run first, and a slow model is probed with fewer.

pub mod compare;
pub mod finding;
pub mod inputs;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use open_inference::{Tensor, TensorMetadata};
use tokio::time::{Instant, sleep};

use self::compare::{distance, magnitude, other_size_tolerance, same_size_tolerance};
use self::finding::{ProbeResult, RowFinding};
pub use self::inputs::probe_rows;
use self::inputs::{FALLBACK_LENGTHS, LENGTHS, MAX_ELEMENTS, RowKind};
use crate::onnx::analysis::RowAnalysis;
use crate::scheduler::settings::BatchSettings;
use crate::session::{Session, SessionConfig, SessionError, SessionInfo, known_shape};

/// After this time the probe tries no further batch, provided that it has tried [`MIN_BATCHES`], or
/// [`MIN_BATCHES_WITH_EVIDENCE`] if graph or settings already show independent rows.
const SOFT_TIME_LIMIT: Duration = Duration::from_secs(1);
const MIN_BATCHES: usize = 5;

/// Fewer batches prove nothing.
const MIN_BATCHES_WITH_EVIDENCE: usize = 2;

/// All runs together may take the run timeout divided by this.
const RUN_TIMEOUT_DIVISOR: u32 = 2;

/// A run ends the probe if it takes longer than this, and longer than this multiple of the first run for each row: some inputs
/// make some models run forever.
const MIN_RUN_TIMEOUT: Duration = Duration::from_secs(2);
const SLOW_RUN_FACTOR: u32 = 10;

/// Runs of one row alone. A model that draws one of a few classes may draw the same one twice.
const REPEATED_RUNS: usize = 4;

/// Probes the model. The error describes a session that is no longer usable. No run is abandoned before it ends.
pub async fn probe<S: Session>(
    session: &mut S,
    session_info: &SessionInfo,
    config: &SessionConfig,
    settings: &BatchSettings,
) -> Result<ProbeResult, String> {
    let inputs: Vec<_> = session_info.required_inputs().collect();
    let has_evidence = session_info.facts.rows == RowAnalysis::Independent || settings.independent_rows == Some(true);
    let start = Instant::now();
    let mut probe = Probe {
        session,
        outputs: &session_info.outputs,
        shapes: &config.shapes,
        max_rows: if settings.unbatched_reason().is_some() { 1 } else { settings.max_rows },
        soft_deadline: start + SOFT_TIME_LIMIT,
        hard_deadline: start + settings.run_timeout / RUN_TIMEOUT_DIVISOR,
        inputs,
        min_batches: if has_evidence { MIN_BATCHES_WITH_EVIDENCE } else { MIN_BATCHES },
        time_per_row: None,
        batches: 0,
        probed: ProbeResult::default(),
    };
    let fixed_axis = probe.fixed_axis();
    if fixed_axis.is_some() {
        probe.max_rows = 1;
    }
    let rows = match probe.run_all().await {
        Err(Stop::Crashed(reason)) => return Err(reason),
        Err(Stop::Dependent(difference)) => RowFinding::Difference(difference),
        Err(Stop::Nondeterministic(how)) => {
            probe.probed.nondeterminism = Some(how.clone());
            RowFinding::Difference(how)
        }
        Err(Stop::OutOfTime) if probe.batches < MIN_BATCHES_WITH_EVIDENCE => {
            RowFinding::NotRun("its runs take too long".to_owned())
        }
        Ok(Some(reason)) if probe.batches == 0 => RowFinding::NotRun(reason),
        Err(Stop::OutOfTime) | Ok(_) => RowFinding::NoDifference { batches: probe.batches },
    };
    Ok(ProbeResult { rows: fixed_axis.map_or(rows, RowFinding::NoBatchAxis), ..probe.probed })
}

/// Why the probe ends early.
enum Stop {
    /// The session crashed.
    Crashed(String),
    /// A row depends on its neighbours.
    Dependent(String),
    /// Equal inputs give different results.
    Nondeterministic(String),
    /// The time is over.
    OutOfTime,
}

struct Probe<'a, S> {
    session: &'a mut S,
    inputs: Vec<&'a TensorMetadata>,
    outputs: &'a [TensorMetadata],
    shapes: &'a BTreeMap<String, Vec<i64>>,
    max_rows: usize,
    soft_deadline: Instant,
    hard_deadline: Instant,
    min_batches: usize,
    /// Duration of the first run.
    time_per_row: Option<Duration>,
    batches: usize,
    probed: ProbeResult,
}

/// A row that the model accepts alone, and its results.
struct BaselineRow {
    kind: RowKind,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Results of rows in batches of one size, by position and kind, for comparison with other neighbours.
type SeenResults = HashMap<(usize, RowKind), Vec<Tensor>>;

impl<S: Session> Probe<'_, S> {
    /// Describes the input without a batch axis, if any.
    fn fixed_axis(&self) -> Option<String> {
        let fixed_axis = self.inputs.iter().find(|input| known_shape(input, self.shapes).first() != Some(&-1));
        let reason = |input: &&TensorMetadata| {
            let shape = known_shape(input, self.shapes);
            format!("input {:?} has the shape {shape:?}, whose first axis is not open", input.name)
        };
        if self.inputs.is_empty() { Some("there is no input".to_owned()) } else { fixed_axis.map(reason) }
    }

    /// Runs all stages. Returns why the model accepted no row or only one, for a probe without batches.
    async fn run_all(&mut self) -> Result<Option<String>, Stop> {
        let has_open_axes =
            self.inputs.iter().any(|input| known_shape(input, self.shapes).iter().skip(1).any(|&length| length < 0));
        let lengths: &[usize] = if has_open_axes { &LENGTHS } else { &LENGTHS[..1] };
        let mut accepted = Vec::new();
        let mut rejection = None;
        for (tried, &length) in
            lengths.iter().chain(if has_open_axes { &FALLBACK_LENGTHS[..] } else { &[] }).enumerate()
        {
            if !accepted.is_empty() && (tried >= lengths.len() || self.is_past_soft_deadline()) {
                break;
            }
            match self.baseline_rows(length, &[], self.max_rows.min(3)).await? {
                Ok(alone) => accepted.push((length, alone)),
                Err(reason) => rejection = rejection.or(Some(reason)),
            }
        }
        if let Some((_, first)) = accepted.first() {
            self.repeat(&first[0]).await?;
        }
        if self.max_rows < 2 {
            return Ok(Some("batching is disabled".to_owned()));
        }
        // The greatest contrasts of each length run before more batches of any length.
        for (_, alone) in &accepted {
            self.contrast(alone).await?;
        }
        for (length, mut alone) in accepted {
            let known: Vec<RowKind> = alone.iter().map(|alone| alone.kind).collect();
            if let Ok(more) = self.baseline_rows(length, &known, RowKind::ALL.len()).await? {
                alone.extend(more);
            }
            if alone.len() > 1 {
                self.compare_all(&alone).await?;
            }
        }
        Ok(rejection.or_else(|| Some("the model accepts only one of the generated rows".to_owned())))
    }

    /// Up to `max_count` rows that the model accepts, of kinds other than `known`. The inner error is its message if it accepts
    /// none.
    async fn baseline_rows(
        &mut self,
        length: usize,
        known: &[RowKind],
        max_count: usize,
    ) -> Result<Result<Vec<BaselineRow>, String>, Stop> {
        let elements = inputs::elements(&self.inputs, self.shapes, length);
        if elements.is_none_or(|elements| elements.saturating_mul(2) > MAX_ELEMENTS) {
            return Ok(Err("its inputs are too large".to_owned()));
        }
        let mut alone: Vec<BaselineRow> = Vec::new();
        let mut rejection = "the model accepts none of the generated rows".to_owned();
        for kind in RowKind::ALL.into_iter().filter(|kind| !known.contains(kind)) {
            if alone.len() == max_count || (self.batches >= self.min_batches && self.is_past_soft_deadline()) {
                break;
            }
            let Some(inputs) = inputs::row(&self.inputs, self.shapes, kind, length) else { continue };
            match self.run(&[&inputs]).await? {
                Ok(outputs) => alone.push(BaselineRow { kind, inputs, outputs }),
                Err(reason) => rejection = reason,
            }
        }
        Ok(if alone.is_empty() { Err(rejection) } else { Ok(alone) })
    }

    /// Tests whether the model is nondeterministic.
    async fn repeat(&mut self, row: &BaselineRow) -> Result<(), Stop> {
        for repeated in 1..REPEATED_RUNS {
            if repeated > 1 && self.is_past_soft_deadline() {
                return Ok(());
            }
            let Ok(again) = self.run(&[&row.inputs]).await? else {
                return Err(Stop::Nondeterministic(
                    "equal inputs are sometimes accepted and sometimes rejected".to_owned(),
                ));
            };
            for (one, other) in row.outputs.iter().zip(&again) {
                if distance(one, other, magnitude(one)) > same_size_tolerance(one.datatype) {
                    return Err(Stop::Nondeterministic(format!(
                        "equal inputs give different results in output {:?}",
                        one.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// Runs a row with much larger and much smaller neighbours, in both orders.
    async fn contrast(&mut self, alone: &[BaselineRow]) -> Result<(), Stop> {
        let (mut seen, typical) = (SeenResults::new(), typical(alone));
        let last = alone.len() - 1;
        for pair in [[0, 1], [0, last], [1, 0], [last, 0], [1, last]] {
            if pair[0] != pair[1] && pair[0] <= last && pair[1] <= last {
                self.batch(&pair.map(|index| &alone[index]), &typical, &mut seen).await?;
            }
        }
        Ok(())
    }

    /// Runs all pairs, triples with every row in every position, and batches of maximum size.
    async fn compare_all(&mut self, alone: &[BaselineRow]) -> Result<(), Stop> {
        let count = alone.len();
        let at = |index: usize| &alone[index % count];
        let (mut seen, typical) = (SeenResults::new(), typical(alone));
        for shift in 0..count {
            for first in 0..count {
                self.batch(&[at(first), at(first + shift)], &typical, &mut seen).await?;
            }
        }
        seen.clear();
        for first in 0..count {
            self.batch(&[at(first), at(first + 1), at(first + 3)], &typical, &mut seen).await?;
            self.batch(&[at(first), at(first + count - 1), at(first + 2 * count - 3)], &typical, &mut seen).await?;
        }
        seen.clear();
        let elements: usize = alone[0].inputs.iter().map(Tensor::len).sum();
        let rows = self.max_rows.min(MAX_ELEMENTS / elements.max(1));
        if rows > 3 {
            // The same rows in every second position, with different rows in the others.
            for (even, odd) in [(0, 0), (0, 3), (3, 0)] {
                let batch: Vec<_> =
                    (0..rows).map(|index| at(index + if index % 2 == 0 { even } else { odd })).collect();
                self.batch(&batch, &typical, &mut seen).await?;
            }
        }
        Ok(())
    }

    /// Runs the rows in one batch. Compares each with itself alone and with itself beside other neighbours.
    async fn batch(&mut self, rows: &[&BaselineRow], typical: &[f32], seen: &mut SeenResults) -> Result<(), Stop> {
        if rows.len() > self.max_rows || (self.batches >= self.min_batches && self.is_past_soft_deadline()) {
            return Ok(());
        }
        let Some(results) = self.results(rows).await? else { return Ok(()) };
        self.batches += 1;
        for (position, (row, result)) in rows.iter().zip(&results).enumerate() {
            self.compare_results(rows, position, &row.outputs, result, typical, other_size_tolerance).await?;
            if let Some(before) = seen.get(&(position, row.kind)) {
                self.compare_results(rows, position, before, result, typical, same_size_tolerance).await?;
            } else {
                seen.insert((position, row.kind), result.clone());
            }
        }
        Ok(())
    }

    /// Results of one batch, by row. `None` if the model rejects a large batch, for example for lack of memory: that is not a
    /// wrong result.
    async fn results(&mut self, rows: &[&BaselineRow]) -> Result<Option<Vec<Vec<Tensor>>>, Stop> {
        let requests: Vec<&[Tensor]> = rows.iter().map(|row| &row.inputs[..]).collect();
        let count = rows.len();
        let outputs = match self.run(&requests).await? {
            Ok(outputs) => outputs,
            Err(_) if count > 3 => return Ok(None),
            Err(reason) => {
                return Err(Stop::Dependent(format!(
                    "it rejects a batch of {count} rows that it accepts one by one: {reason}"
                )));
            }
        };
        let mut results = vec![Vec::new(); count];
        for (index, spec) in self.outputs.iter().enumerate() {
            let name = &spec.name;
            let Some(output) = outputs.get(index) else { continue };
            if let Some(row) = rows.iter().find(|row| row.outputs.get(index).and_then(Tensor::rows) != Some(1)) {
                let shape = row.outputs.get(index).map(|output| &output.shape[..]).unwrap_or_default();
                return Err(Stop::Dependent(format!("output {name:?} of one row has the shape {shape:?}")));
            }
            if output.rows() != Some(count) {
                let shape = &output.shape;
                return Err(Stop::Dependent(format!("output {name:?} of {count} rows has the shape {shape:?}")));
            }
            if let Some(row) = rows.iter().find(|row| row.outputs[index].shape[1..] != output.shape[1..]) {
                let (alone, shape) = (&row.outputs[index].shape, &output.shape);
                return Err(Stop::Dependent(format!(
                    "output {name:?} has the shape {shape:?} for {count} rows of which one has the shape {alone:?} alone"
                )));
            }
            output.split_rows().into_iter().zip(&mut results).for_each(|(row, results)| results.push(row));
        }
        Ok(Some(results))
    }

    /// Compares the results of the row at `position` with those `before`. A difference is confirmed by another run first:
    /// differences between equal runs do not show dependent rows.
    async fn compare_results(
        &mut self,
        rows: &[&BaselineRow],
        position: usize,
        before: &[Tensor],
        now: &[Tensor],
        typical: &[f32],
        limit: fn(open_inference::Datatype) -> f32,
    ) -> Result<(), Stop> {
        for (index, (before, now)) in before.iter().zip(now).enumerate() {
            let typical = typical.get(index).copied().unwrap_or_default();
            let difference = distance(before, now, typical);
            if difference <= limit(now.datatype) {
                self.probed.rounding = self.probed.rounding.max(difference);
                continue;
            }
            let again = self.results(rows).await?.and_then(|mut rows| rows.get_mut(position).map(std::mem::take));
            let noise =
                again.as_ref().and_then(|again| again.get(index)).map_or(0.0, |again| distance(now, again, typical));
            let name = &now.name;
            if noise * 4.0 < difference {
                let how = if difference.is_finite() {
                    format!(" by {:.2} % of its largest value", difference * 100.0)
                } else {
                    String::new()
                };
                return Err(Stop::Dependent(format!("output {name:?} of a row differs with the rows beside it{how}")));
            }
            if noise > other_size_tolerance(now.datatype) {
                return Err(Stop::Nondeterministic(format!("equal inputs give different results in output {name:?}")));
            }
        }
        Ok(())
    }

    fn is_past_soft_deadline(&self) -> bool {
        Instant::now() >= self.soft_deadline
    }

    /// Runs the model. The inner error is its message if it rejects the inputs.
    async fn run(&mut self, requests: &[&[Tensor]]) -> Result<Result<Vec<Tensor>, String>, Stop> {
        let start = Instant::now();
        let mut left = self.hard_deadline.saturating_duration_since(start);
        if let Some(time_per_row) = self.time_per_row {
            let rows = u32::try_from(requests.len()).unwrap_or(u32::MAX);
            left = left.min(MIN_RUN_TIMEOUT.max(time_per_row.saturating_mul(SLOW_RUN_FACTOR).saturating_mul(rows)));
        }
        if left.is_zero() {
            return Err(Stop::OutOfTime);
        }
        match self.session.run(requests, sleep(left)).await {
            Ok(outputs) => {
                self.time_per_row.get_or_insert(start.elapsed());
                Ok(Ok(outputs))
            }
            Err(SessionError::Rejected(reason)) => Ok(Err(reason)),
            Err(SessionError::OutputsTooLarge(bytes)) => Ok(Err(format!("its outputs have {bytes} bytes"))),
            Err(SessionError::Cancelled) => Err(Stop::OutOfTime),
            Err(SessionError::OutOfMemory(exceeded)) => Err(Stop::Crashed(exceeded.to_string())),
            Err(SessionError::Crashed(reason)) => Err(Stop::Crashed(reason)),
        }
    }
}

/// The typical magnitude of each output: that of the first row.
fn typical(alone: &[BaselineRow]) -> Vec<f32> {
    alone.first().map(|row| row.outputs.iter().map(magnitude).collect()).unwrap_or_default()
}
