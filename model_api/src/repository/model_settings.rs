//! Model settings: the file `model-settings.json`, with MLServer's field names where MLServer has the field.
//!
//! Unknown fields are ignored, so that a settings file for MLServer stays usable. `parameters.version` and `parameters.uri` are
//! ignored too: folders define versions and their locations.

use std::collections::BTreeMap;

use contract::Source;
use open_inference::{Activation, ContentType, Datatype, Task, utf8_json};
use serde::Deserialize;

use super::triton_config::TritonConfig;
use crate::preprocessing::ImageSettings;

/// Contents of a settings file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelSettings {
    /// If present, must be the folder's name.
    pub name: Option<String>,
    /// `"pipeline"` for a pipeline of other models. Other values are class names of MLServer and are ignored.
    pub implementation: Option<String>,
    /// Maximum number of rows in one batch, which clients also see in the metadata. 0, the default, leaves the choice to the
    /// scheduler; 1 runs every request alone. It has no effect if the graph has no open batch axis.
    pub max_batch_size: u32,
    /// How long a request waits for others while a session is idle, s. The default is 0.
    pub max_batch_time: f64,
    /// Number of sessions of the model. 0, the default, leaves the choice to the server.
    pub parallel_workers: usize,
    /// Settings of inputs, beyond the graph.
    pub inputs: Vec<TensorSettings>,
    /// Settings of outputs, beyond the graph.
    pub outputs: Vec<TensorSettings>,
    /// Steps of a pipeline, in order.
    pub steps: Vec<StepSettings>,
    /// Whether results are cached. `false` keeps all results of this model out of the cache.
    pub cache: Option<bool>,
    /// Whether requests may share a batch.
    pub batching: Option<BatchingMode>,
    /// Settings of the model as a whole.
    pub parameters: Parameters,
    /// Triton's `config.pbtxt`, if the folder has one. The fields above override it.
    #[serde(skip)]
    pub triton: TritonConfig,
}

/// `batching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchingMode {
    /// Requests share a batch if rows are independent.
    Auto,
    /// Every request runs alone, so that its result does not depend on the rounding of another batch size.
    Off,
}

/// Settings of one input or output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TensorSettings {
    /// The tensor's name in the graph.
    pub name: String,
    /// If present, must be the graph's.
    #[serde(default)]
    pub datatype: Option<Datatype>,
    /// If present, must be compatible with the graph's. It may fix lengths that the graph leaves open.
    #[serde(default)]
    pub shape: Option<Vec<i64>>,
    /// Source of a pipeline's output, as `"STEP.OUTPUT"`. The default is the last step's output of the same name.
    #[serde(default)]
    pub from: Option<Source>,
    /// Further settings.
    #[serde(default)]
    pub parameters: TensorParameters,
}

/// `steps[]`: one of a pipeline's models.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSettings {
    /// Name of the step. The default is the model's name.
    #[serde(default)]
    pub name: Option<String>,
    /// The model that the step runs.
    pub model: String,
    /// The version of the model. The default is the model's default version.
    #[serde(default)]
    pub version: Option<String>,
    /// Source of each of the model's inputs: `"INPUT"` of the pipeline, or `"STEP.OUTPUT"` of an earlier step.
    pub inputs: BTreeMap<String, Source>,
}

/// `inputs[].parameters` and `outputs[].parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TensorParameters {
    /// Default encoding of elements in requests and responses: `np`, `pd`, `str`, `base64`, `datetime`, or `image`.
    pub content_type: Option<ContentType>,
    /// Preprocessing of images for this input. The content type is then `image`.
    pub image: Option<ImageSettings>,
    /// Task of an output. The default is derived from the graph.
    pub task: Option<Task>,
    /// The function that turns an output's values into probabilities.
    pub activation: Option<Activation>,
    /// The value from which a class of a binary or multi-label output counts as present.
    pub threshold: Option<f64>,
    /// The unit of a regression's value.
    pub unit: Option<String>,
    /// Names of the classes, in the order of the output's values. For one value that decides between two classes, both names or the
    /// second.
    pub labels: Vec<String>,
    /// Whether axes of this input may have length zero.
    pub allow_empty: bool,
}

/// `parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Whether each row's result depends on that row alone. With `true`, rows are cached one by one, and requests share a batch
    /// whatever the analysis and the probe show. With `false`, neither. Without a value, analysis and probe decide whether requests
    /// share a batch.
    pub independent_rows: Option<bool>,
    /// Whether axes of any input may have length zero.
    pub allow_empty: bool,
    /// Fields that MLServer does not have.
    pub extra: DisplayTexts,
}

/// `parameters.extra`: texts for the web page.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DisplayTexts {
    /// Heading. The default is the model's name.
    pub title: Option<String>,
    /// Description in one sentence.
    pub description: String,
    /// Notice that must be shown with every result.
    pub notice: Option<String>,
}

/// Maximum of `parallel_workers`. More sessions of one model only compete for cores and memory.
const MAX_SESSIONS: usize = 64;

/// Maximum of `max_batch_time`, s. A longer wait looks like a hang to the client.
const MAX_BATCH_TIME: f64 = 10.0;

/// Largest model that has one session per core by default, up to [`MAX_DEFAULT_SESSIONS`]. Its operators are too small to be
/// divided among threads, and several copies need little memory.
const MAX_SMALL_MODEL_BYTES: u64 = 16 << 20;

/// Maximum number of sessions of a model without `parallel_workers`.
const MAX_DEFAULT_SESSIONS: usize = 4;

/// The `implementation` of a pipeline.
pub const PIPELINE: &str = "pipeline";

impl ModelSettings {
    /// Parses and validates the settings of the model `name`. The error names the invalid field.
    pub fn from_json(json: &[u8], name: &str) -> Result<Self, String> {
        let json = utf8_json(json).map_err(|error| format!("model-settings.json: {error}"))?;
        let settings: Self = serde_json::from_slice(json).map_err(|error| format!("model-settings.json: {error}"))?;
        if let Some(other) = settings.name.as_deref().filter(|other| *other != name) {
            return Err(format!("model-settings.json: name: {other:?} is not the folder's, {name:?}"));
        }
        if settings.parallel_workers > MAX_SESSIONS {
            let workers = settings.parallel_workers;
            return Err(format!("model-settings.json: parallel_workers: {workers} is more than {MAX_SESSIONS}"));
        }
        if !(0.0..=MAX_BATCH_TIME).contains(&settings.max_batch_time) {
            let time = settings.max_batch_time;
            return Err(format!("model-settings.json: max_batch_time: {time} is not within 0 and {MAX_BATCH_TIME} s"));
        }
        Ok(settings)
    }

    /// The same settings, with defaults from Triton's configuration.
    pub fn with_triton_defaults(mut self, triton: TritonConfig) -> Result<Self, String> {
        if triton.max_batch_time > MAX_BATCH_TIME {
            let field = "config.pbtxt: dynamic_batching.max_queue_delay_microseconds";
            return Err(format!("{field}: {} s is more than {MAX_BATCH_TIME} s", triton.max_batch_time));
        }
        if self.max_batch_size == 0 {
            self.max_batch_size = triton.max_batch_size;
        }
        if self.max_batch_time == 0.0 {
            self.max_batch_time = triton.max_batch_time;
        }
        self.triton = triton;
        Ok(self)
    }

    /// Whether the model is a pipeline.
    pub fn is_pipeline(&self) -> bool {
        self.implementation.as_deref() == Some(PIPELINE)
    }

    /// Whether rows are cached one by one. With `"batching": "off"` they are not: a row of a larger batch may differ from the same row
    /// alone in its last bits.
    pub fn caches_rows(&self) -> bool {
        self.parameters.independent_rows == Some(true) && self.batching != Some(BatchingMode::Off)
    }

    /// The number of sessions of a model of this size on a machine with this number of cores.
    pub fn session_count(&self, bytes: u64, cores: usize) -> usize {
        match self.parallel_workers {
            0 if bytes <= MAX_SMALL_MODEL_BYTES => cores.clamp(1, MAX_DEFAULT_SESSIONS),
            workers => workers.max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_ignored() {
        let settings = ModelSettings::from_json("\u{feff}{\"name\": \"mnist\"}".as_bytes(), "mnist").unwrap();
        assert_eq!(settings.name.as_deref(), Some("mnist"));
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = ModelSettings::from_json(&utf16, "mnist").unwrap_err();
        assert_eq!(error, "model-settings.json: the JSON is encoded as UTF-16 or UTF-32; send it as UTF-8");
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let json = br#"{
            "name": "mnist", "implementation": "mlserver_onnx.OnnxModel", "max_batch_size": 64, "parallel_workers": 2,
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 28, 28, 1],
                        "parameters": {"content_type": "image", "image": {"fit": "digit"}}}],
            "outputs": [{"name": "probabilities", "parameters": {"task": "classification", "labels": ["0", "1"]}}],
            "parameters": {"version": "1", "uri": "./1/model.onnx", "extra": {"title": "Digits", "colour": "blue"}}
        }"#;
        let settings = ModelSettings::from_json(json, "mnist").unwrap();
        assert_eq!((settings.session_count(1, 8), settings.max_batch_size), (2, 64));
        assert_eq!(settings.inputs[0].datatype, Some(Datatype::Fp32));
        assert!(settings.inputs[0].parameters.image.is_some());
        assert_eq!(settings.outputs[0].parameters.labels, ["0", "1"]);
        assert_eq!(settings.parameters.extra.title.as_deref(), Some("Digits"));
        assert_eq!(ModelSettings::from_json(b"{}", "x").unwrap(), ModelSettings::default());
    }

    #[test]
    fn an_error_names_its_field() {
        for (json, words) in [
            (r#"{"name": "other"}"#, "name: \"other\" is not the folder's"),
            (r#"{"max_batch_time": -0.1}"#, "max_batch_time: -0.1 is not within 0 and 10 s"),
            (r#"{"parallel_workers": 65}"#, "parallel_workers: 65 is more than 64"),
            (r#"{"inputs": [{"shape": [1]}]}"#, "missing field `name`"),
            (r#"{"inputs": [{"name": "x", "datatype": "FP33"}]}"#, "unknown variant `FP33`"),
            (r#"{"inputs": [{"name": "x", "parameters": {"content_type": "hg_json"}}]}"#, "unknown variant `hg_json`"),
            (r#"{"outputs": [{"name": "y", "parameters": {"task": "guess"}}]}"#, "unknown variant `guess`"),
            (r#"{"max_batch_size": -1}"#, "invalid value: integer `-1`"),
            (r#"{"inputs": [{"name": "x", "parameters": {"image": {"fitt": "digit"}}}]}"#, "unknown field `fitt`"),
            ("{", "EOF"),
        ] {
            let error = ModelSettings::from_json(json.as_bytes(), "mnist").unwrap_err();
            assert!(error.starts_with("model-settings.json: ") && error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_small_model_has_one_session_per_core_and_a_large_model_has_one() {
        let settings = ModelSettings::default();
        let sessions = [(1, 1), (1, 2), (1, 64), (MAX_SMALL_MODEL_BYTES + 1, 64)]
            .map(|(bytes, cores)| settings.session_count(bytes, cores));
        assert_eq!(sessions, [1, 2, 4, 1]);
    }
}
