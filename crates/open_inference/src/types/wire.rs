//! Parsed requests and encoded responses, independent of the transport.

use bytes::Bytes;

use super::parameters::Parameters;
use super::tensor::Tensor;

/// A parsed request, independent of the transport and not yet validated against a model.
#[derive(Clone, Debug, Default)]
pub struct WireRequest {
    /// Request ID that the client chose.
    pub id: Option<String>,
    /// Parameters of the whole request.
    pub parameters: Parameters,
    /// Input tensors.
    pub inputs: Vec<WireInput>,
    /// Requested outputs; empty requests all of them.
    pub outputs: Vec<RequestedOutput>,
}

/// A parsed input.
#[derive(Clone, Debug)]
pub struct WireInput {
    /// Name of an input of the model, or of a column of a table.
    pub name: String,
    /// Not validated: any string.
    pub datatype: String,
    /// Not validated: lengths may be negative.
    pub shape: Vec<i64>,
    /// Parameters of the tensor.
    pub parameters: Parameters,
    /// Elements.
    pub data: WireData,
}

/// Elements of an input.
#[derive(Clone, Debug)]
pub enum WireData {
    /// Little-endian; each `BYTES` element follows its length (u32). Typed contents of gRPC are converted to this form.
    Raw(Bytes),
    /// Text of a JSON value: a flat or nested list, or a single element.
    Json(Bytes),
}

/// A requested output.
#[derive(Clone, Debug, Default)]
pub struct RequestedOutput {
    /// Name of an output of the model.
    pub name: String,
    /// Encoding of the output.
    pub parameters: Parameters,
}

/// An encoded response, independent of the transport.
#[derive(Clone, Debug, PartialEq)]
pub struct WireResponse {
    /// Name of the model that computed the outputs.
    pub model_name: String,
    /// Version that computed the outputs.
    pub model_version: String,
    /// Request ID that the client chose, or a generated one.
    pub id: String,
    /// Digest, device and timing.
    pub parameters: Parameters,
    /// In the requested order.
    pub outputs: Vec<WireOutput>,
}

/// An encoded output.
#[derive(Clone, Debug, PartialEq)]
pub struct WireOutput {
    /// The datatype may differ from the model's: class labels, dates and images are `BYTES`.
    pub tensor: Tensor,
    /// `content_type`, where the output has one.
    pub parameters: Parameters,
    /// REST only: the elements follow the JSON as binary data.
    pub binary: bool,
}
