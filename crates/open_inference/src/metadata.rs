use serde::{Deserialize, Serialize};

use crate::Datatype;

/// What there is to know of one model version before it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TensorParameters {
    /// How its elements are to be read, or written, where the request says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<ContentType>,
    /// What an output is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Names of the classes, in the order of the output's last axis.
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
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// A value for each class on the last axis.
    Classification,
    /// A picture: N×H×W, N×H×W×C or N×C×H×W with one, three or four channels.
    Image,
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

impl TensorMetadata {
    /// Without parameters.
    pub fn new(name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        Self { name: name.to_owned(), datatype, shape: shape.to_vec(), parameters: TensorParameters::default() }
    }

    /// Whether it can be asked with encoded pictures, one `BYTES` element each, in place of its own datatype.
    pub fn takes_images(&self) -> bool {
        self.parameters.content_type == Some(ContentType::Image) && self.datatype != Datatype::Bytes
    }
}
