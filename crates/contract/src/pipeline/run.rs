//! Execution state of a pipeline.

use std::collections::BTreeSet;

use http::HeaderMap;
use open_inference::{Inference, Provenance, Tensor, TensorMetadata, Timing};

use super::definition::{Edge, Pipeline, Source};

/// Execution state of a pipeline: which steps are ready, with which inputs, and the results so far. The caller runs the
/// models.
pub struct PipelineRun<'a> {
    pipeline: &'a Pipeline,
    inputs: Vec<Tensor>,
    results: Vec<Option<Inference>>,
}

/// A tensor that the result of a step does not contain, because its model has changed since the pipeline was validated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing because its model has changed")]
pub struct MissingTensor(Source);

impl<'a> PipelineRun<'a> {
    /// Starts a run with the inputs of the pipeline.
    pub fn new(pipeline: &'a Pipeline, inputs: Vec<Tensor>) -> Self {
        Self { pipeline, inputs, results: vec![None; pipeline.steps.len()] }
    }

    /// Steps whose inputs are complete, by index, each with the inputs of its model. Empty once all steps are complete.
    pub fn ready_steps(&self) -> Result<Vec<(usize, Vec<Tensor>)>, MissingTensor> {
        let is_pending = |&number: &usize| self.results[number].is_none();
        let is_ready = |&number: &usize| {
            self.pipeline.steps[number].inputs.iter().all(|edge| match &edge.from {
                Source::Input(_) => true,
                Source::Step { step, .. } => self.result_of(step).is_some(),
            })
        };
        // An optional input that the request omits is omitted in the step as well.
        let is_present = |edge: &&Edge| match &edge.from {
            Source::Input(name) => self.inputs.iter().any(|tensor| tensor.name == *name),
            Source::Step { .. } => true,
        };
        let inputs_of = |number: usize| {
            let edges = self.pipeline.steps[number].inputs.iter().filter(is_present);
            Ok((number, self.resolve(edges)?))
        };
        (0..self.results.len()).filter(is_pending).filter(is_ready).map(inputs_of).collect()
    }

    /// Records the result of a step.
    pub fn complete(&mut self, step: usize, result: Inference) {
        self.results[step] = Some(result);
    }

    /// Result of the pipeline once every step is complete. Its digest is that of the models that computed it, and its
    /// times are the sums of theirs.
    pub fn finish(self, model: &str, version: &str) -> Result<Inference, MissingTensor> {
        let outputs = self.resolve(self.pipeline.outputs.iter())?;
        let steps = || self.results.iter().flatten().map(|result| &result.provenance);
        let devices: BTreeSet<_> = steps().map(|step| step.device.as_str()).filter(|name| !name.is_empty()).collect();
        let sum = |of: fn(&Timing) -> f64| steps().map(|step| of(&step.timing_ms)).sum();
        let provenance = Provenance {
            model_digest: self.pipeline.digest(steps().map(|step| step.model_digest.as_str())),
            device: devices.into_iter().collect::<Vec<_>>().join(", "),
            timing_ms: Timing {
                decode: sum(|timing| timing.decode),
                queue: sum(|timing| timing.queue),
                infer: sum(|timing| timing.infer),
            },
        };
        let (model, version) = (model.to_owned(), version.to_owned());
        Ok(Inference { model, version, outputs, provenance, headers: HeaderMap::new() })
    }

    fn resolve<'w>(&self, edges: impl Iterator<Item = &'w Edge>) -> Result<Vec<Tensor>, MissingTensor> {
        let tensor_of = |Edge { name, from }: &Edge| {
            let (tensors, name_at_source) = match from {
                Source::Input(input) => (Some(&self.inputs), input),
                Source::Step { step, output } => (self.result_of(step).map(|result| &result.outputs), output),
            };
            let tensor = tensors.into_iter().flatten().find(|tensor| tensor.name == *name_at_source);
            let tensor = tensor.ok_or_else(|| MissingTensor(from.clone()))?;
            Ok(Tensor { name: name.clone(), ..tensor.clone() })
        };
        edges.map(tensor_of).collect()
    }

    fn result_of(&self, step: &str) -> Option<&Inference> {
        let number = self.pipeline.steps.iter().position(|other| other.name == step)?;
        self.results[number].as_ref()
    }
}

/// Outputs of a model with these `outputs` for inputs without rows: outputs without rows. An earlier step may have
/// found nothing. `None` if `inputs` have rows, or if the length of another output axis is unknown.
pub fn empty_outputs(inputs: &[Tensor], outputs: &[TensorMetadata]) -> Option<Vec<Tensor>> {
    if inputs.is_empty() || !inputs.iter().all(|input| input.rows() == Some(0)) {
        return None;
    }
    let empty = |output: &TensorMetadata| {
        let (-1, row) = output.shape.split_first().map(|(rows, row)| (*rows, row))? else { return None };
        let row = row.iter().map(|&length| usize::try_from(length).ok());
        let shape = std::iter::once(Some(0)).chain(row).collect::<Option<_>>()?;
        Some(Tensor { name: output.name.clone(), datatype: output.datatype, shape, data: bytes::Bytes::new() })
    };
    outputs.iter().map(empty).collect()
}
