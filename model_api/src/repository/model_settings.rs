//! `model-settings.json`, in MLServer's words where MLServer has the word. Fields that are not here are left alone: a
//! settings file written for MLServer stays usable. `parameters.version` and `parameters.uri` are among those: here the
//! folder says which versions there are and where.

use std::collections::BTreeMap;

use contract::Source;
use open_inference::{Activation, ContentType, Datatype, Task, utf8_json};
use serde::Deserialize;

use super::triton_config::TritonConfig;
use crate::image_input::ImageSettings;

/// What a settings file may say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelSettings {
    /// Must be the folder's name when it is given.
    pub name: Option<String>,
    /// `"pipeline"` for a model that is made of others. Anything else is MLServer's word for a class of its own.
    pub implementation: Option<String>,
    /// Rows of different requests that are run together at most, and that clients are told to send at most. 0, also where it
    /// is left out, is no opinion; 1 runs every request alone. It means nothing for a model whose graph fixes its batch axis
    /// or has none.
    pub max_batch_size: u32,
    /// Seconds that a request waits, while a session is idle, for others to go with. By default it does not wait.
    pub max_batch_time: f64,
    /// How many sessions run the model at the same time; 0, also where it is left out, is no opinion.
    pub parallel_workers: usize,
    /// What there is to say about inputs beyond the graph.
    pub inputs: Vec<TensorSettings>,
    /// What there is to say about outputs beyond the graph.
    pub outputs: Vec<TensorSettings>,
    /// Of a pipeline, in their order.
    pub steps: Vec<StepSettings>,
    /// Whether results are cached. `false` keeps all results of this model out of the cache.
    pub cache: Option<bool>,
    /// Whether requests may run in one batch at all.
    pub batching: Option<BatchingMode>,
    /// What there is to say about the model.
    pub parameters: Parameters,
    /// What Triton's `config.pbtxt` says, where the folder has one. The fields above win.
    #[serde(skip)]
    pub triton: TritonConfig,
}

/// `batching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchingMode {
    /// Requests run together where rows are independent.
    Auto,
    /// Every request runs alone, so that results never differ by the rounding of another batch size.
    Off,
}

/// An input or an output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TensorSettings {
    /// The graph's name for it.
    pub name: String,
    /// Must be the graph's when it is given.
    #[serde(default)]
    pub datatype: Option<Datatype>,
    /// Must fit the graph's when it is given; may fix lengths that the graph leaves open.
    #[serde(default)]
    pub shape: Option<Vec<i64>>,
    /// Where an output of a pipeline comes from, as `"STEP.OUTPUT"`; the last step's output of this name where it is left out.
    #[serde(default)]
    pub from: Option<Source>,
    /// More about it.
    #[serde(default)]
    pub parameters: TensorParameters,
}

/// `steps[]`: one of a pipeline's models.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSettings {
    /// What other steps call it; the model's name where it is left out.
    #[serde(default)]
    pub name: Option<String>,
    /// The model that is asked.
    pub model: String,
    /// Its default version where it is left out.
    #[serde(default)]
    pub version: Option<String>,
    /// What feeds each of the model's inputs: `"INPUT"` of the pipeline, or `"STEP.OUTPUT"` of a step before.
    pub inputs: BTreeMap<String, Source>,
}

/// `inputs[].parameters` and `outputs[].parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TensorParameters {
    /// How elements are to be read, or written, where a request says nothing else: `np`, `pd`, `str`, `base64`, `datetime`,
    /// or `image`.
    pub content_type: Option<ContentType>,
    /// How a picture becomes this input. The content type is then `image`.
    pub image: Option<ImageSettings>,
    /// What an output is; derived from the graph where it is left out.
    pub task: Option<Task>,
    /// What turns an output's values into probabilities.
    pub activation: Option<Activation>,
    /// From which value on a class of a binary or multi-label output counts as present.
    pub threshold: Option<f64>,
    /// The unit of a regression's value.
    pub unit: Option<String>,
    /// Names of the classes, in the order of the output's values; of one value for two classes, both or the second's.
    pub labels: Vec<String>,
    /// Whether an axis of this input may have the length zero.
    pub allow_empty: bool,
}

/// `parameters`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Whether each row's answer depends on that row alone. `true`: rows may be cached one by one, and rows of different
    /// requests run in one batch, whatever graph and probe show. `false`: neither. Where nothing is said, analysis of the graph
    /// and probe decide whether they run in one batch.
    pub independent_rows: Option<bool>,
    /// Whether an axis of any input may have the length zero.
    pub allow_empty: bool,
    /// What is ours alone.
    pub extra: DisplayTexts,
}

/// `parameters.extra`: words for people.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DisplayTexts {
    /// A heading; the name where it is missing.
    pub title: Option<String>,
    /// One sentence.
    pub description: String,
    /// What must be said wherever an answer is shown.
    pub notice: Option<String>,
}

/// Beyond this, sessions of one model only take each other's cores and memory.
const MAX_SESSIONS: usize = 64;

/// s; a request that waits longer for company is a request that hangs.
const MAX_BATCH_TIME: f64 = 10.0;

/// A model of up to so many bytes has a session for each core, up to [`MAX_DEFAULT_SESSIONS`]: its operators are too small to be worth
/// dividing among threads, and it takes little memory to have it several times.
const MAX_SMALL_MODEL_BYTES: u64 = 16 << 20;

/// Of a model whose settings have no opinion.
const MAX_DEFAULT_SESSIONS: usize = 4;

/// The `implementation` of a model that is made of others.
pub const PIPELINE: &str = "pipeline";

impl ModelSettings {
    /// Reads a settings file for the model `name`. The error names the field that is wrong.
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

    /// The same with Triton's configuration beneath.
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

    /// Whether they are those of a model that is made of others.
    pub fn is_pipeline(&self) -> bool {
        self.implementation.as_deref() == Some(PIPELINE)
    }

    /// Whether rows may be cached one by one. With `"batching": "off"` they may not: a row of a larger batch may differ in its
    /// last bits from the same row alone.
    pub fn caches_rows(&self) -> bool {
        self.parameters.independent_rows == Some(true) && self.batching != Some(BatchingMode::Off)
    }

    /// How many sessions run a model of so many bytes on so many cores.
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
    fn a_byte_order_mark_is_no_part_of_the_settings() {
        let settings = ModelSettings::from_json("\u{feff}{\"name\": \"mnist\"}".as_bytes(), "mnist").unwrap();
        assert_eq!(settings.name.as_deref(), Some("mnist"));
        let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = ModelSettings::from_json(&utf16, "mnist").unwrap_err();
        assert_eq!(error, "model-settings.json: the JSON is encoded as UTF-16 or UTF-32; send it as UTF-8");
    }

    #[test]
    fn reads_what_it_knows_and_leaves_the_rest_alone() {
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
    fn a_mistake_is_told_with_its_field() {
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
    fn a_small_model_has_a_session_for_each_core_and_a_large_one_has_one() {
        let settings = ModelSettings::default();
        let sessions = [(1, 1), (1, 2), (1, 64), (MAX_SMALL_MODEL_BYTES + 1, 64)]
            .map(|(bytes, cores)| settings.session_count(bytes, cores));
        assert_eq!(sessions, [1, 2, 4, 1]);
    }
}
