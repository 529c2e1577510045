use std::fmt::{self, Display, Write as _};

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
