//! The Open Inference Protocol (V2), written once: what is asked and answered, and how it travels.
//!
//! A service implements [`InferenceServer`]; the transports read requests, hold them against the model's signature, ask the
//! server, and write its answer. Sources: the protocol's specification (kserve/open-inference-protocol) and Triton's
//! extensions for binary tensors, classification, statistics and model configuration.
//!
//! Modules stand in the order in which a request meets them.

/// What the elements of a tensor are.
mod datatype;

/// A named tensor: its elements as raw little-endian bytes.
mod tensor;

/// What there is to know of a model before it is asked.
mod metadata;

/// The one trait that a service implements.
mod server;

/// Why there is no answer: an HTTP status, a gRPC code, and words for whoever asked.
mod error;

pub use datatype::{Datatype, UnknownDatatype};
pub use error::Error;
pub use metadata::{ContentType, ModelMetadata, Task, TensorMetadata, TensorParameters};
pub use server::{InferRequest, Inference, InferenceServer, ModelIndex, ModelState, Provenance, Timing};
pub use tensor::{Element, MAX_RANK, NotRepresentable, Tensor, TensorError, byte_length};
