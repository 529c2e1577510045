//! Model metadata: signature, batching and cache capabilities, content types and tasks.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::datatype::Datatype;
use super::tensor::Tensor;

/// Metadata of one model version: signature, limits and capabilities.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Name in routes.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// In the order of the graph.
    pub inputs: Vec<TensorMetadata>,
    /// In the order of the graph.
    pub outputs: Vec<TensorMetadata>,
    /// Maximum number of rows in a batch; 0 where the graph fixes its batch axis or has none.
    pub max_batch_size: u32,
    /// Runtime that executes the model.
    #[serde(default)]
    pub platform: Platform,
    /// Whether rows of different requests run in one batch, and why. `None` until a session has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Why results are not cached; `None` where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_cached: Option<NotCached>,
}

/// Whether rows of different requests run in one batch, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    /// Whether batching is enabled now.
    pub enabled: bool,
    /// Whether the result of a row depends on that row alone.
    pub rows: RowDependence,
    /// Evidence for the decision: an operator, a difference that the probe found, or a setting.
    pub reason: String,
}

/// Whether the result of a row depends on that row alone, and how that was determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowDependence {
    /// The analysis followed the batch axis through every operator of the graph, and the probe agrees.
    IndependentByAnalysis,
    /// The analysis is inconclusive; the probe found no difference.
    IndependentByProbe,
    /// The settings declare it (`independent_rows: true`).
    IndependentBySettings,
    /// The result of a row depends on other rows of its batch, or the settings declare that it may.
    Dependent,
    /// Neither analysis nor probe is conclusive; treated as dependent.
    Unknown,
    /// An input or output has no dynamic first axis, so there are no rows.
    NoBatchAxis,
}

/// Why a model's results are not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotCached {
    /// The settings disable the cache (`"cache": false`).
    Settings,
    /// The graph draws random numbers, or equal inputs gave different results.
    Random,
}

impl ModelMetadata {
    /// `parameters` of the metadata: `version`, `max_batch_size`, `cache`, and `batching` where it is known.
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
    /// All values.
    pub const ALL: [Self; 6] = [
        Self::IndependentByAnalysis,
        Self::IndependentByProbe,
        Self::IndependentBySettings,
        Self::Dependent,
        Self::Unknown,
        Self::NoBatchAxis,
    ];

    /// Name in metrics, logs and metadata.
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

/// Runtime that executes a model, as metadata names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Platform {
    /// ONNX Runtime. The name is Triton's.
    #[default]
    #[serde(rename = "onnxruntime_onnx")]
    OnnxRuntime,
    /// External workers, in any language, that consume requests from a queue.
    #[serde(rename = "queue")]
    Queue,
    /// A pipeline of other models. The name is Triton's.
    #[serde(rename = "ensemble")]
    Ensemble,
}

/// Name, datatype and shape of an input or output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorMetadata {
    /// Name in the graph.
    pub name: String,
    /// Type of the elements.
    pub datatype: Datatype,
    /// −1 for a dynamic axis; empty for a scalar.
    pub shape: Vec<i64>,
    /// Settings beyond the graph.
    #[serde(default, skip_serializing_if = "TensorParameters::is_default")]
    pub parameters: TensorParameters,
}

/// `parameters` of an input or output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TensorParameters {
    /// Default content type, where the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// Task of an output. Derived from the graph where the settings name none; absent for inputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Activation that turns the values into probabilities; [`Activation::None`] where they are probabilities already.
    /// `None` where they are scores of an unknown scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Minimum value, after the activation, at which a binary or multi-label class counts as present. 0.5 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Display unit of a regression value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whether a request may omit the input. The graph then uses its own default.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// Class labels in the order of the values. For one value of two classes: both labels, or only the second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Whether an axis may have length zero. Rejected by default, because some kernels of ONNX Runtime crash on it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_empty: bool,
}

/// Content types of MLServer, and `image`, which is an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// Numbers, unchanged.
    Np,
    /// Columns of a table, one input per column.
    Pd,
    /// UTF-8 text.
    Str,
    /// Bytes encoded as base64.
    Base64,
    /// ISO 8601 dates and times.
    Datetime,
    /// Encoded images.
    Image,
}

/// Task of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One value per class, exactly one of which applies; or one value, the probability of the second of two classes.
    Classification,
    /// One value per class, any number of which may apply.
    MultiLabel,
    /// One or more numbers.
    Regression,
    /// An image: N×H×W, N×H×W×C or N×C×H×W with one, three or four channels.
    Image,
    /// A class per pixel, as N×C×H×W values, or as N×H×W or N×1×H×W class numbers.
    Segmentation,
    /// A vector.
    Embedding,
    /// Bounding boxes. They are not decoded, but returned as plain tensors.
    Detection,
    /// None of these, or unknown: returned as plain tensors.
    None,
}

/// Activation that turns an output's values into probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Over the classes of a row, of which exactly one applies.
    Softmax,
    /// Per value: for two classes, or for classes of which several may apply.
    Sigmoid,
    /// The values are probabilities already.
    None,
}

impl Task {
    /// Name in metadata and settings.
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
    /// Name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime_onnx",
            Self::Queue => "queue",
            Self::Ensemble => "ensemble",
        }
    }
}

impl ContentType {
    /// All content types.
    pub const ALL: [Self; 6] = [Self::Np, Self::Pd, Self::Str, Self::Base64, Self::Datetime, Self::Image];

    /// Value of the parameter `content_type`.
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
    /// The only input that a request must provide; see [`only_required_input`].
    pub fn only_input(&self) -> Option<&TensorMetadata> {
        only_required_input(&self.inputs)
    }
}

/// The only input that a request must provide: the single input, or the only one that is not optional.
pub fn only_required_input(inputs: &[TensorMetadata]) -> Option<&TensorMetadata> {
    if let [only] = inputs {
        return Some(only);
    }
    let mut required = inputs.iter().filter(|input| !input.parameters.optional);
    required.next().filter(|_| required.next().is_none())
}

/// Whether `given` provides an optional input. Such a request is not split into rows, neither for batching nor for the
/// cache, because an optional input may have no batch axis.
pub fn has_optional_input(given: &[Tensor], inputs: &[TensorMetadata]) -> bool {
    let mut optional = inputs.iter().filter(|input| input.parameters.optional);
    optional.any(|input| given.iter().any(|tensor| tensor.name == input.name))
}

impl TensorMetadata {
    /// Metadata without parameters.
    pub fn new(name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        Self { name: name.to_owned(), datatype, shape: shape.to_vec(), parameters: TensorParameters::default() }
    }

    /// Whether it accepts encoded images, one per `BYTES` element, instead of its own datatype.
    pub fn accepts_images(&self) -> bool {
        self.parameters.content_type == Some(ContentType::Image) && self.datatype != Datatype::Bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, optional: bool) -> TensorMetadata {
        let mut input = TensorMetadata::new(name, Datatype::Fp32, &[-1, 1]);
        input.parameters.optional = optional;
        input
    }

    #[test]
    fn the_only_required_input_is_found() {
        let only = |inputs: &[TensorMetadata]| only_required_input(inputs).map(|input| input.name.clone());
        assert_eq!(only(&[input("gain", true), input("x", false)]).as_deref(), Some("x"));
        assert_eq!(only(&[input("gain", true)]).as_deref(), Some("gain"));
        assert_eq!(only(&[input("a", false), input("b", false)]), None);
        assert_eq!(only(&[input("a", true), input("b", true)]), None);
        assert_eq!(only(&[]), None);
    }

    #[test]
    fn an_optional_input_is_recognised_by_name() {
        let inputs = [input("x", false), input("gain", true)];
        let tensor = |name: &str| Tensor::from_f32(name, Datatype::Fp32, vec![1, 1], &[1.0]).unwrap();
        assert!(!has_optional_input(&[tensor("x")], &inputs));
        assert!(has_optional_input(&[tensor("x"), tensor("gain")], &inputs));
    }
}
