use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Datatype;

/// What there is to know of one model version before it is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// The name in routes.
    pub name: String,
    /// The version that is described.
    pub version: String,
    /// In the graph's order.
    pub inputs: Vec<TensorMetadata>,
    /// In the graph's order.
    pub outputs: Vec<TensorMetadata>,
    /// Rows that a batch should have at most; 0 where the graph fixes its batch axis or has none.
    pub max_batch_size: u32,
    /// What computes its answers.
    #[serde(default)]
    pub platform: Platform,
    /// Whether rows of different requests run in one batch, and why. `None` until a session has been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Why results are not cached. `None` where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_cached: Option<NotCached>,
}

/// Whether rows of different requests run in one batch, and what that decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Whether rows of different requests run in one batch now.
    pub enabled: bool,
    /// Whether a row's result depends on that row alone.
    pub rows: RowDependence,
    /// What shows it, or what stands against it: an operator, a difference that the probe found, a setting.
    pub reason: String,
}

/// Whether a row's result depends on that row alone, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowDependence {
    /// The batch axis was followed through every operator of the graph, and the probe agrees.
    IndependentByAnalysis,
    /// The graph leaves it open; the probe found no difference.
    IndependentByProbe,
    /// The settings say so (`independent_rows: true`).
    IndependentBySettings,
    /// A row's result depends on the other rows of its batch, or the settings say that it may.
    Dependent,
    /// Neither analysis nor probe shows anything; treated as dependent.
    Unknown,
    /// An input or output has no open first axis, so there are no rows.
    NoBatchAxis,
}

/// Why a model's results are not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotCached {
    /// The settings say `"cache": false`.
    Settings,
    /// The graph draws random numbers, or equal inputs gave different results.
    Random,
}

impl ModelMetadata {
    /// `parameters` of its metadata: `version`, `max_batch_size`, `batching` where it is known, and `cache`.
    pub fn parameters(&self) -> serde_json::Value {
        let cache = match self.not_cached {
            None => json!({"enabled": true}),
            Some(reason) => json!({"enabled": false, "reason": reason}),
        };
        let mut parameters = json!({"version": self.version, "max_batch_size": self.max_batch_size, "cache": cache});
        if let Some(batching) = &self.batching {
            parameters["batching"] = json!(batching);
        }
        parameters
    }
}

impl RowDependence {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::IndependentByAnalysis,
        Self::IndependentByProbe,
        Self::IndependentBySettings,
        Self::Dependent,
        Self::Unknown,
        Self::NoBatchAxis,
    ];

    /// As metrics, logs and metadata give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IndependentByAnalysis => "independent_by_analysis",
            Self::IndependentByProbe => "independent_by_probe",
            Self::IndependentBySettings => "independent_by_settings",
            Self::Dependent => "dependent",
            Self::Unknown => "unknown",
            Self::NoBatchAxis => "no_batch_axis",
        }
    }
}

/// What computes a model's answers, as its metadata says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Platform {
    /// ONNX Runtime, in Triton's word for it.
    #[default]
    #[serde(rename = "onnxruntime_onnx")]
    OnnxRuntime,
    /// Programs that take requests out of a queue, in whatever language.
    #[serde(rename = "queue")]
    Queue,
    /// Other models, one after the other, in Triton's word for it.
    #[serde(rename = "ensemble")]
    Ensemble,
}

/// Name, datatype and shape of an input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorMetadata {
    /// The graph's name for it.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// −1 where any length fits; empty for a scalar.
    pub shape: Vec<i64>,
    /// What the settings say of it beyond the graph.
    #[serde(default, skip_serializing_if = "TensorParameters::is_default")]
    pub parameters: TensorParameters,
}

/// `parameters` of an input or output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TensorParameters {
    /// How its elements are to be read, or written, where the request says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// What an output is. Derived from the graph where the settings give none; absent for inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// What turns the output's values into probabilities; [`Activation::None`] where they are probabilities already. `None` where
    /// they are scores of an unknown scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// From which value on a binary or multi-label class counts as present, after the activation; 0.5 where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The unit of a regression's value, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whether the input may be left out of a request: the graph then uses its own default.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Names of the classes, in the order of the output's values; of one value for two classes, both or the second's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether an axis may have the length zero. ONNX Runtime has kernels that die of it, so it is refused otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
}

/// How elements are to be understood, in MLServer's words; `image` is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// Numbers as they are.
    Np,
    /// Columns of a table, one input each.
    Pd,
    /// Text in UTF-8.
    Str,
    /// Bytes written as base64.
    Base64,
    /// Moments in ISO 8601.
    Datetime,
    /// Encoded pictures.
    Image,
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A value for each class, of which one is right; or one value, the probability of the second of two classes.
    Classification,
    /// A value for each class, of which any number may be right.
    MultiLabel,
    /// A number, or several.
    Regression,
    /// An image: N×H×W, N×H×W×C or N×C×H×W with one, three or four channels.
    Image,
    /// A class for each pixel, as N×C×H×W values, or as N×H×W (or N×1×H×W) class numbers.
    Segmentation,
    /// A vector.
    Embedding,
    /// Boxes. Their decoding is not part of this yet; they are returned as the tensors that they are.
    Detection,
    /// Nothing of the above, or unknown: returned as the tensors that it is.
    None,
}

/// What turns an output's values into probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Over the classes of a row: for one right class.
    Softmax,
    /// For each value: for two classes, or for several that may be right together.
    Sigmoid,
    /// The values are probabilities already.
    None,
}

impl Task {
    /// As metadata and settings give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::MultiLabel => "multi_label",
            Self::Regression => "regression",
            Self::Image => "image",
            Self::Segmentation => "segmentation",
            Self::Embedding => "embedding",
            Self::Detection => "detection",
            Self::None => "none",
        }
    }
}

impl Platform {
    /// As metadata says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime_onnx",
            Self::Queue => "queue",
            Self::Ensemble => "ensemble",
        }
    }
}

impl ContentType {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Np, Self::Pd, Self::Str, Self::Base64, Self::Datetime, Self::Image];

    /// As `content_type` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Np => "np",
            Self::Pd => "pd",
            Self::Str => "str",
            Self::Base64 => "base64",
            Self::Datetime => "datetime",
            Self::Image => "image",
        }
    }
}

impl TensorParameters {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl ModelMetadata {
    /// The input of a model that needs only one; see [`only_required_input`].
    pub fn only_input(&self) -> Option<&TensorMetadata> {
        only_required_input(&self.inputs)
    }
}

/// The input of a model that needs only one: its single input, or the only one of several that is not optional.
pub fn only_required_input(inputs: &[TensorMetadata]) -> Option<&TensorMetadata> {
    if let [only] = inputs {
        return Some(only);
    }
    let mut required = inputs.iter().filter(|input| !input.parameters.optional);
    required.next().filter(|_| required.next().is_none())
}

/// Whether a request with these inputs gives one that is optional. Such a request is a unit: its rows are neither batched
/// with those of other requests nor cached one by one, since an optional input need not have a batch axis.
pub fn has_optional_input(given: &[crate::Tensor], inputs: &[TensorMetadata]) -> bool {
    let mut optional = inputs.iter().filter(|input| input.parameters.optional);
    optional.any(|input| given.iter().any(|tensor| tensor.name == input.name))
}

impl TensorMetadata {
    /// Without parameters.
    pub fn new(name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        Self { name: name.to_owned(), datatype, shape: shape.to_vec(), parameters: TensorParameters::default() }
    }

    /// Whether it can be asked with encoded pictures, one `BYTES` element each, in place of its own datatype.
    pub fn accepts_images(&self) -> bool {
        self.parameters.content_type == Some(ContentType::Image) && self.datatype != Datatype::Bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    fn input(name: &str, optional: bool) -> TensorMetadata {
        let mut input = TensorMetadata::new(name, Datatype::Fp32, &[-1, 1]);
        input.parameters.optional = optional;
        input
    }

    #[test]
    fn the_only_input_is_the_one_that_a_request_cannot_leave_out() {
        let only = |inputs: &[TensorMetadata]| only_required_input(inputs).map(|input| input.name.clone());
        assert_eq!(only(&[input("gain", true), input("x", false)]).as_deref(), Some("x"));
        assert_eq!(only(&[input("gain", true)]).as_deref(), Some("gain"));
        assert_eq!(only(&[input("a", false), input("b", false)]), None);
        assert_eq!(only(&[input("a", true), input("b", true)]), None);
        assert_eq!(only(&[]), None);
    }

    #[test]
    fn a_request_gives_an_optional_input_only_by_its_name() {
        let inputs = [input("x", false), input("gain", true)];
        let tensor = |name: &str| Tensor::from_f32(name, Datatype::Fp32, vec![1, 1], &[1.0]).unwrap();
        assert!(!has_optional_input(&[tensor("x")], &inputs));
        assert!(has_optional_input(&[tensor("x"), tensor("gain")], &inputs));
    }
}
