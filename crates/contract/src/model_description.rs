use std::collections::BTreeSet;

use open_inference::{Batching, ModelMetadata, ModelState, NotCached, Platform, TensorMetadata};
use serde::{Deserialize, Serialize};

use crate::pipeline::Pipeline;

/// What `GET /models` of `model_api` answers: every model that was asked for, served or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// In alphabetical order.
    pub models: Vec<ModelDescription>,
    /// `model_api`'s own word: every model has been warm, and one can be asked now. A model that breaks later does not
    /// take the others out of service.
    pub ready: bool,
    /// Models of the folder that are not served because `MODEL_NAME` does not select them.
    #[serde(default)]
    pub unselected: Unselected,
}

/// Models that are there, and that `MODEL_NAME` does not select.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unselected {
    /// The value of `MODEL_NAME`.
    pub model_name: String,
    /// Their names.
    pub models: BTreeSet<String>,
}

/// One model version as people and programs need to know it. Everything comes from the graph and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// The name in routes: the folder's or the file's.
    pub name: String,
    /// The version's folder name, or `"1"` for a model without versions.
    pub version: String,
    /// Whether it is the one that answers where no version is named.
    pub is_default: bool,
    /// A heading for people; the name where the settings give none.
    pub title: String,
    /// One sentence for people; may be empty.
    pub description: String,
    /// What must be said wherever an answer of this model is shown, e.g. "Not for clinical use."
    pub notice: Option<String>,
    /// `sha256:<hex>` over graph, external data and settings.
    pub digest: String,
    /// Whether it can be asked now.
    pub state: ModelState,
    /// Why it is not [`ModelState::Ready`], without paths.
    pub reason: Option<String>,
    /// What runs it. `None` until a session has said so.
    pub device: Option<Device>,
    /// The graph's inputs.
    pub inputs: Vec<TensorMetadata>,
    /// The graph's outputs. Those that are no tensors are left out, and named in `left_out`.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that cannot be served, each with the reason.
    pub left_out: Vec<String>,
    /// What of the model's files is not used, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Rows that a batch should have at most; 0 where the graph fixes its batch axis or has none.
    pub max_batch_size: u32,
    /// Whether each row's answer depends on that row alone, so that rows may be remembered one by one.
    pub independent_rows: bool,
    /// Present when the model can be asked with an encoded picture.
    pub image: Option<ImageInput>,
    /// The steps of a model that is a pipeline: `web_api` asks their models one by one, and remembers each answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// What computes its answers.
    #[serde(default)]
    pub platform: Platform,
    /// Whether rows of different requests run in one batch, and why. `None` until a session has been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Why results are not cached. `None` where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_cached: Option<NotCached>,
    /// Set once results of a batch were found to differ from those of its requests alone: results computed before this time,
    /// in ms since the Unix epoch, may be wrong and must not be served from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_before_ms: Option<u64>,
}

/// What a session really runs on, and why it is not what was wished for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `"cpu"` or `"cuda"`.
    pub name: String,
    /// Why `cuda` was not used although it was allowed and the machine has a card; `None` otherwise.
    #[serde(rename = "stepped_down")]
    pub fallback_reason: Option<String>,
    /// Version of the ONNX Runtime library, e.g. `"1.31.1"`.
    pub runtime: String,
}

/// What a client may know about the picture a model wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInput {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `"gray"` or `"rgb"`.
    pub color: String,
    /// How a picture of another size is brought to this one: `digit`, `contain`, `cover`, `stretch`. A page may offer
    /// drawing where this is `digit`.
    pub fit: String,
}

impl ModelDescription {
    /// A model of which only this is known: its files have not been read.
    pub fn placeholder(name: &str, version: &str, state: ModelState, reason: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            is_default: true,
            title: name.to_owned(),
            description: String::new(),
            notice: None,
            digest: String::new(),
            state,
            reason,
            device: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            left_out: Vec::new(),
            notes: Vec::new(),
            max_batch_size: 0,
            independent_rows: false,
            image: None,
            pipeline: None,
            platform: Platform::default(),
            batching: None,
            not_cached: None,
            wrong_before_ms: None,
        }
    }

    /// Whether it can be asked now.
    pub fn is_ready(&self) -> bool {
        self.state == ModelState::Ready
    }

    /// Class names in the order of the first output's last axis; empty where the settings give none.
    pub fn labels(&self) -> &[String] {
        self.outputs.first().map_or(&[], |output| &output.parameters.labels)
    }

    /// In the protocol's words.
    pub fn metadata(&self) -> ModelMetadata {
        ModelMetadata {
            name: self.name.clone(),
            version: self.version.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            max_batch_size: self.max_batch_size,
            platform: self.platform,
            batching: self.batching.clone(),
            not_cached: self.not_cached,
        }
    }
}

/// Whether `name` may name a model: `^[A-Za-z0-9._-]{1,128}$`, and neither `.` nor `..`.
///
/// Names become file names and parts of Redis keys; whatever passes here is safe in both.
pub fn valid_model_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_letters_digits_dots_dashes_and_underscores() {
        for good in ["mnist", "resnet-50_v1.5", "7", "a.b"] {
            assert!(valid_model_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../etc", "a/b", "a\\b", "a b", "a\0", "ä", &"a".repeat(129)] {
            assert!(!valid_model_name(bad), "{bad:?}");
        }
    }
}
