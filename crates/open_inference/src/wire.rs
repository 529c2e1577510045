use bytes::Bytes;

use crate::{Parameters, Tensor};

/// A request as it came, over whichever transport: read, but not yet held against a model.
#[derive(Clone, Debug, Default)]
pub struct WireRequest {
    /// The caller's name for it.
    pub id: Option<String>,
    /// Of the request as a whole.
    pub parameters: Parameters,
    /// What the model is asked with.
    pub inputs: Vec<WireInput>,
    /// What the caller wants to see; everything, where nothing is named.
    pub outputs: Vec<RequestedOutput>,
}

/// An input as it came.
#[derive(Clone, Debug)]
pub struct WireInput {
    /// The model's name for it; or a column's.
    pub name: String,
    /// Perhaps no datatype at all.
    pub datatype: String,
    /// Perhaps negative.
    pub shape: Vec<i64>,
    /// Of this input.
    pub parameters: Parameters,
    /// Its elements.
    pub data: WireData,
}

/// The elements of an input.
#[derive(Clone, Debug)]
pub enum WireData {
    /// Little-endian; `BYTES` each with its length (u32) before it. Typed contents of gRPC are made this.
    Raw(Bytes),
    /// The text of a JSON value: a list, flat or nested, or one element.
    Json(Bytes),
}

/// An output that is asked for.
#[derive(Clone, Debug, Default)]
pub struct RequestedOutput {
    /// The model's name for it.
    pub name: String,
    /// How it is to be written.
    pub parameters: Parameters,
}

/// An answer that any transport can write.
#[derive(Clone, Debug, PartialEq)]
pub struct WireResponse {
    /// The model that answered.
    pub model_name: String,
    /// The version that answered.
    pub model_version: String,
    /// The caller's name for the request, or one that was made up.
    pub id: String,
    /// Who answered, and what it took.
    pub parameters: Parameters,
    /// Those that were asked for, in that order.
    pub outputs: Vec<WireOutput>,
}

/// An output on its way to the caller.
#[derive(Clone, Debug, PartialEq)]
pub struct WireOutput {
    /// Perhaps another datatype than the model's: class labels, dates and pictures are `BYTES`.
    pub tensor: Tensor,
    /// Of this output: `content_type`, where there is one.
    pub parameters: Parameters,
    /// In REST: behind the JSON, and not in it.
    pub binary: bool,
}
