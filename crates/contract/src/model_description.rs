//! Description of models: response of `GET /models` of `model_api`.

use std::collections::BTreeSet;

use open_inference::{Batching, ModelMetadata, ModelState, NotCached, Platform, TensorMetadata};
use serde::{Deserialize, Serialize};

use crate::pipeline::Pipeline;

/// Response of `GET /models` of `model_api`: every selected model, served or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// Models in alphabetical order.
    pub models: Vec<ModelDescription>,
    /// Readiness of `model_api`: every model has completed its warm-up, and one is available now. A model that fails later does not
    /// make the service unready.
    pub ready: bool,
    /// Models in the repository that `MODEL_NAME` does not select.
    #[serde(default)]
    pub unselected: Unselected,
}

/// Models that exist but are not selected by `MODEL_NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unselected {
    /// Value of `MODEL_NAME`.
    pub model_name: String,
    /// Names of the models.
    pub models: BTreeSet<String>,
}

/// Description of one model version, from its graph and settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// Name in routes: that of the folder or file.
    pub name: String,
    /// Folder name of the version, or `"1"` for a model without versions.
    pub version: String,
    /// Whether this is the default version.
    pub is_default: bool,
    /// Title for display. Equals the name if the settings contain none.
    pub title: String,
    /// One sentence for display; may be empty.
    pub description: String,
    /// Notice to show with every result, e.g. "Not for clinical use."
    pub notice: Option<String>,
    /// `sha256:<hex>` of the graph, external data and settings.
    pub digest: String,
    /// State of the model.
    pub state: ModelState,
    /// Why the state is not [`ModelState::Ready`], without file paths.
    pub reason: Option<String>,
    /// Device of the sessions. `None` until a session reports it.
    pub device: Option<Device>,
    /// Inputs of the graph.
    pub inputs: Vec<TensorMetadata>,
    /// Outputs of the graph. `left_out` lists those that are not tensors.
    pub outputs: Vec<TensorMetadata>,
    /// Outputs of the graph that cannot be served, each with the reason.
    pub left_out: Vec<String>,
    /// Files and settings of the model that are not used, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Maximum rows of a batch. 0 if the graph has a fixed batch axis or none.
    pub max_batch_size: u32,
    /// Whether the result of a row depends on that row alone, so that rows can be cached individually.
    pub independent_rows: bool,
    /// Image input. `None` if the model does not accept encoded images.
    pub image: Option<ImageInput>,
    /// Steps of a pipeline. `web_api` runs their models one by one and caches each result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// Platform that runs the model.
    #[serde(default)]
    pub platform: Platform,
    /// Whether rows of different requests share a batch, and why. `None` until a session has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Why results are not cached. `None` if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_cached: Option<NotCached>,
    /// Set once results of a batch differed from those of its requests alone. Results computed before this time, in ms
    /// since the Unix epoch, may be wrong and must not be served from a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_before_ms: Option<u64>,
}

/// Device of a session, and why it is not the preferred one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// `"cpu"` or `"cuda"`.
    pub name: String,
    /// Why CUDA is not used although it is allowed and the machine has a GPU. `None` otherwise.
    #[serde(rename = "stepped_down")]
    pub fallback_reason: Option<String>,
    /// Version of ONNX Runtime, e.g. `"1.31.1"`.
    pub runtime: String,
}

/// Image that a model expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInput {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `"gray"` or `"rgb"`.
    pub color: String,
    /// How images of another size are converted: `digit`, `contain`, `cover` or `stretch`. A page may offer drawing for
    /// `digit`.
    pub fit: String,
}

impl ModelDescription {
    /// Description of a model whose files have not been read.
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

    /// Whether the model is available.
    pub fn is_ready(&self) -> bool {
        self.state == ModelState::Ready
    }

    /// Class names in the order of the last axis of the first output. Empty if the settings contain none.
    pub fn labels(&self) -> &[String] {
        self.outputs.first().map_or(&[], |output| &output.parameters.labels)
    }

    /// Metadata in the format of the Open Inference Protocol.
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

/// Whether `name` is a valid model name: `^[A-Za-z0-9._-]{1,128}$`, and not only dots.
///
/// Names become file names and parts of Redis keys; a valid name is safe in both.
pub fn valid_model_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.bytes().all(|b| b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_name_consists_of_letters_digits_dots_dashes_and_underscores() {
        for valid in ["mnist", "resnet-50_v1.5", "7", "a.b"] {
            assert!(valid_model_name(valid), "{valid}");
        }
        for invalid in ["", ".", "..", "../etc", "a/b", "a\\b", "a b", "a\0", "ä", &"a".repeat(129)] {
            assert!(!valid_model_name(invalid), "{invalid:?}");
        }
    }
}
