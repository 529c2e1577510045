use std::collections::BTreeSet;

use http::HeaderMap;
use open_inference::{Inference, Provenance, Tensor, TensorMetadata, Timing};

use super::definition::{Edge, Pipeline, Source};

/// A run of a pipeline: which step can be asked what, and what has come of it. Whoever has one asks the models.
pub struct PipelineRun<'a> {
    pipeline: &'a Pipeline,
    inputs: Vec<Tensor>,
    results: Vec<Option<Inference>>,
}

/// A tensor that a step's answer should have, and has not: its model has been changed since the pipeline was checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing: its model has been changed meanwhile")]
pub struct MissingTensor(Source);

impl<'a> PipelineRun<'a> {
    /// A run that has yet to begin.
    pub fn new(pipeline: &'a Pipeline, inputs: Vec<Tensor>) -> Self {
        Self { pipeline, inputs, results: vec![None; pipeline.steps.len()] }
    }

    /// The steps that wait for no other one any more, by their numbers, each with its model's inputs. Empty when all have
    /// been answered.
    pub fn ready_steps(&self) -> Result<Vec<(usize, Vec<Tensor>)>, MissingTensor> {
        let is_pending = |&number: &usize| self.results[number].is_none();
        let is_ready = |&number: &usize| {
            self.pipeline.steps[number].inputs.iter().all(|edge| match &edge.from {
                Source::Input(_) => true,
                Source::Step { step, .. } => self.result_of(step).is_some(),
            })
        };
        // An optional input of the pipeline that the request leaves out is left out of the step as well.
        let is_given = |edge: &&Edge| match &edge.from {
            Source::Input(name) => self.inputs.iter().any(|tensor| tensor.name == *name),
            Source::Step { .. } => true,
        };
        let inputs_of = |number: usize| {
            let edges = self.pipeline.steps[number].inputs.iter().filter(is_given);
            Ok((number, self.resolve(edges)?))
        };
        (0..self.results.len()).filter(is_pending).filter(is_ready).map(inputs_of).collect()
    }

    /// What came of a step.
    pub fn complete(&mut self, step: usize, result: Inference) {
        self.results[step] = Some(result);
    }

    /// The pipeline's own answer, once every step has been answered. Its digest is that of the models that really answered,
    /// its times are the sums of theirs.
    pub fn finish(self, model: &str, version: &str) -> Result<Inference, MissingTensor> {
        let outputs = self.resolve(self.pipeline.outputs.iter())?;
        let steps = || self.results.iter().flatten().map(|answer| &answer.provenance);
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
        let inputs_of = |Edge { name, from }: &Edge| {
            let (tensors, name_at_source) = match from {
                Source::Input(input) => (Some(&self.inputs), input),
                Source::Step { step, output } => (self.result_of(step).map(|answer| &answer.outputs), output),
            };
            let tensor = tensors.into_iter().flatten().find(|tensor| tensor.name == *name_at_source);
            let tensor = tensor.ok_or_else(|| MissingTensor(from.clone()))?;
            Ok(Tensor { name: name.clone(), ..tensor.clone() })
        };
        edges.map(inputs_of).collect()
    }

    fn result_of(&self, step: &str) -> Option<&Inference> {
        let number = self.pipeline.steps.iter().position(|other| other.name == step)?;
        self.results[number].as_ref()
    }
}

/// What a model with these `outputs` gives where a step before has found nothing, so that it has no row to be asked with:
/// no rows either. `None` where `inputs` have rows, or the outputs' other lengths are not known.
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
