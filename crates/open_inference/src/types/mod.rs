//! Types of the protocol: tensors, model metadata, requests and responses, independent of transport and encoding.

mod datatype;
mod inference;
mod metadata;
mod model_index;
pub(crate) mod parameters;
pub(crate) mod rounding;
pub(crate) mod tensor;
mod wire;

pub use datatype::{Datatype, UnknownDatatype};
pub use inference::{InferRequest, Inference, Provenance, Timing};
pub use metadata::{
    Activation, Batching, ContentType, ModelMetadata, NotCached, Platform, RowDependence, Task, TensorMetadata,
    TensorParameters, has_optional_input, only_required_input,
};
pub use model_index::{ModelIndex, ModelState};
pub use parameters::{Parameter, Parameters};
pub use tensor::{Element, MAX_RANK, NotRepresentable, Tensor, TensorError, byte_length};
pub use wire::{RequestedOutput, WireData, WireInput, WireOutput, WireRequest, WireResponse};
