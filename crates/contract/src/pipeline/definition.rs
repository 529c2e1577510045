//! Definition of a pipeline: steps, and edges between their tensors.

use std::fmt::{self, Display, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A pipeline: a model whose steps are other models. `model_api` validates it, `web_api` runs it step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// `sha256:<hex>` of the settings of the pipeline.
    pub settings_digest: String,
    /// Steps in order. Each uses inputs of the pipeline and outputs of earlier steps.
    pub steps: Vec<Step>,
    /// Sources of the outputs, in the order of the outputs.
    pub outputs: Vec<Edge>,
}

/// A step of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the step in other steps and in errors.
    pub name: String,
    /// Model of the step.
    pub model: String,
    /// Version of the model. `None` for the default version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Sources of the inputs of the model.
    pub inputs: Vec<Edge>,
}

/// An edge from a source to a named tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Destination: an input of a step's model, or an output of the pipeline.
    pub name: String,
    /// Source of the tensor.
    pub from: Source,
}

/// Source of a tensor: `"INPUT"` of the pipeline, or `"STEP.OUTPUT"` of an earlier step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Source {
    /// An input of the pipeline, whose name contains no dot.
    Input(String),
    /// An output of a step. The name of the step contains no dot; that of the output may.
    Step {
        /// Name of the step.
        step: String,
        /// Output of the model.
        output: String,
    },
}

impl Pipeline {
    /// Digest of the settings of the pipeline and of the models of its steps, in the order of the steps. A changed
    /// model of a step changes the digest.
    pub fn digest<'a>(&'a self, models: impl IntoIterator<Item = &'a str>) -> String {
        let mut hash = Sha256::new();
        for part in ["pipeline", &self.settings_digest].into_iter().chain(models) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut digest = "sha256:".to_owned();
        for byte in hash.finalize() {
            write!(digest, "{byte:02x}").expect("writing to a string cannot fail");
        }
        digest
    }
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
