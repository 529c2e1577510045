use std::collections::BTreeSet;
use std::fmt::{self, Display, Write as _};

use http::HeaderMap;
use open_inference::{Inference, Provenance, Tensor, TensorMetadata, Timing};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A workflow of models that is a model itself: what `model_api` has checked, and `web_api` runs step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// `sha256:<hex>` of its own settings.
    pub settings_digest: String,
    /// In the order in which they stand: each uses what the pipeline was asked with and what those before it gave.
    pub steps: Vec<Step>,
    /// Where each of its outputs comes from, in the outputs' order.
    pub outputs: Vec<Edge>,
}

/// One of a pipeline's models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What other steps and errors call it.
    pub name: String,
    /// The model that is asked.
    pub model: String,
    /// `None` for the model's default version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What feeds each of the model's inputs.
    pub inputs: Vec<Edge>,
}

/// From a tensor that is known to one that is name_at_source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// What is inputs_of: an input of a step's model, or an output of the pipeline.
    pub name: String,
    /// What feeds it.
    pub from: Source,
}

/// Where a tensor comes from: `"INPUT"` of the pipeline, or `"STEP.OUTPUT"` of a step before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// An input of the pipeline. Its name has no dot in it.
    Input(String),
    /// An output of a step, whose name has no dot in it; the output's may have.
    Step {
        /// The step.
        step: String,
        /// Its model's output.
        output: String,
    },
}

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

impl Pipeline {
    /// Of its own settings and of its steps' models, whose digests stand in the order of the steps: a changed model of a
    /// step makes another pipeline.
    pub fn digest<'a>(&'a self, models: impl IntoIterator<Item = &'a str>) -> String {
        let mut hash = Sha256::new();
        for part in ["pipeline", &self.settings_digest].into_iter().chain(models) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut digest = "sha256:".to_owned();
        for byte in hash.finalize() {
            write!(digest, "{byte:02x}").expect("a string takes everything");
        }
        digest
    }
}

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

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(input) => write!(f, "{input:?}"),
            Self::Step { step, output } => write!(f, "\"{step}.{output}\""),
        }
    }
}

impl From<String> for Source {
    fn from(text: String) -> Self {
        match text.split_once('.') {
            Some((step, output)) => Self::Step { step: step.to_owned(), output: output.to_owned() },
            None => Self::Input(text),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        match source {
            Source::Input(input) => input,
            Source::Step { step, output } => format!("{step}.{output}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn pipeline(json: &str) -> Pipeline {
        serde_json::from_str(json).unwrap()
    }

    /// `twice` and `thrice` can be asked at the same time, `sum` needs both.
    fn diamond() -> Pipeline {
        pipeline(
            r#"{"settings_digest": "s",
                "steps": [{"name": "twice", "model": "times2", "inputs": [{"name": "x", "from": "number"}]},
                          {"name": "thrice", "model": "times3", "inputs": [{"name": "x", "from": "number"}]},
                          {"name": "sum", "model": "add", "inputs": [{"name": "a", "from": "twice.y"},
                                                                     {"name": "b", "from": "thrice.y.0"}]}],
                "outputs": [{"name": "five", "from": "sum.y"}, {"name": "two", "from": "twice.y"}]}"#,
        )
    }

    fn tensor(name: &str, value: f32) -> Tensor {
        Tensor::from_f32(name, Datatype::Fp32, vec![1], &[value]).unwrap()
    }

    fn answer(digest: &str, device: &str, output: Tensor) -> Inference {
        let timing_ms = Timing { decode: 0.0, queue: 1.0, infer: 2.0 };
        let (model_digest, device) = (digest.to_owned(), device.to_owned());
        let provenance = Provenance { model_digest, device, timing_ms };
        let (model, version) = ("m".to_owned(), "1".to_owned());
        Inference { model, version, outputs: vec![output], provenance, headers: HeaderMap::new() }
    }

    #[test]
    fn a_step_is_asked_when_all_that_it_needs_is_known_and_with_its_own_names() {
        let pipeline = diamond();
        let mut run = PipelineRun::new(&pipeline, vec![tensor("number", 1.)]);
        assert_eq!(run.ready_steps(), Ok(vec![(0, vec![tensor("x", 1.)]), (1, vec![tensor("x", 1.)])]));
        run.complete(1, answer("d3", "cuda", tensor("y.0", 3.)));
        assert_eq!(run.ready_steps().unwrap().len(), 1, "the other is still being asked");
        run.complete(0, answer("d2", "cpu", tensor("y", 2.)));
        assert_eq!(run.ready_steps(), Ok(vec![(2, vec![tensor("a", 2.), tensor("b", 3.)])]));
        run.complete(2, answer("d5", "cpu", tensor("y", 5.)));
        assert_eq!(run.ready_steps(), Ok(vec![]));
        let whole = run.finish("p", "7").unwrap();
        assert_eq!(whole.outputs, [tensor("five", 5.), tensor("two", 2.)]);
        assert_eq!((whole.model.as_str(), whole.version.as_str()), ("p", "7"));
        assert_eq!(whole.provenance.model_digest, pipeline.digest(["d2", "d3", "d5"]));
        assert_eq!(whole.provenance.device, "cpu, cuda");
        assert_eq!(whole.provenance.timing_ms, Timing { decode: 0.0, queue: 3.0, infer: 6.0 });
    }

    #[test]
    fn an_output_that_a_changed_model_has_no_longer_is_named() {
        let pipeline = diamond();
        let mut run = PipelineRun::new(&pipeline, vec![tensor("number", 1.)]);
        run.complete(0, answer("d2", "cpu", tensor("z", 2.)));
        run.complete(1, answer("d3", "cpu", tensor("y.0", 3.)));
        let missing = run.ready_steps().unwrap_err().to_string();
        assert_eq!(missing, "\"twice.y\" is missing: its model has been changed meanwhile");
    }

    #[test]
    fn other_settings_another_model_or_another_order_of_models_is_another_digest() {
        let pipeline = diamond();
        let other = Pipeline { settings_digest: "t".to_owned(), ..pipeline.clone() };
        let digests = [
            pipeline.digest(["a", "b"]),
            pipeline.digest(["b", "a"]),
            pipeline.digest(["ab", ""]),
            pipeline.digest(["a"]),
            other.digest(["a", "b"]),
        ];
        assert_eq!(digests.iter().collect::<BTreeSet<_>>().len(), digests.len());
        assert_eq!(digests[0], diamond().digest(["a", "b"]));
    }

    #[test]
    fn a_model_that_is_asked_with_no_rows_has_none_to_answer_with() {
        let rows = |rows: usize| [Tensor::from_f32("x", Datatype::Fp32, vec![rows, 1], &vec![0.; rows]).unwrap()];
        let output = |shape: &[i64]| [TensorMetadata::new("y", Datatype::Int64, shape)];
        let nothing = empty_outputs(&rows(0), &output(&[-1, 3])).unwrap();
        assert_eq!((nothing[0].name.as_str(), &nothing[0].shape), ("y", &vec![0, 3]));
        assert_eq!(empty_outputs(&rows(1), &output(&[-1, 3])), None);
        assert_eq!(empty_outputs(&rows(0), &output(&[-1, -1])), None, "nobody knows how long a row would be");
        assert_eq!(empty_outputs(&rows(0), &output(&[1, 3])), None);
        assert_eq!(empty_outputs(&[], &output(&[-1])), None);
    }
}
