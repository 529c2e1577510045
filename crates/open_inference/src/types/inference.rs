//! Inference request and result, as a server implementation sees them.

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::tensor::Tensor;

/// An inference request with decoded and validated tensors.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// Name of the model.
    pub model: String,
    /// `None` selects the default version.
    pub version: Option<String>,
    /// One tensor per input of the model, in any order; optional inputs may be absent. For an input that [accepts
    /// images](crate::TensorMetadata::accepts_images), each `BYTES` element is an encoded image.
    pub inputs: Vec<Tensor>,
    /// Headers of the request, or gRPC metadata. A server may read directives such as `Cache-Control` from them.
    pub headers: HeaderMap,
}

/// The result of an inference: all outputs of the model.
#[derive(Clone, Debug)]
pub struct Inference {
    /// Name of the model that computed the outputs.
    pub model: String,
    /// Version that computed the outputs.
    pub version: String,
    /// In the order of the graph.
    pub outputs: Vec<Tensor>,
    /// Origin and timing.
    pub provenance: Provenance,
    /// To be sent as response headers or gRPC metadata.
    pub headers: HeaderMap,
}

/// Origin and timing of an inference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// `sha256:<hex>` over the graph, the external data and the settings of the model.
    pub model_digest: String,
    /// `"cpu"` or `"cuda"`: the device that ran the model.
    pub device: String,
    /// Duration of each stage.
    pub timing_ms: Timing,
}

/// Durations of an inference in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Decoding of images or text into tensors.
    pub decode: f64,
    /// Waiting for a session.
    pub queue: f64,
    /// Execution in the session, including communication with its process.
    pub infer: f64,
}
