//! The Open Inference Protocol (V2), written once: what is asked and answered, and how it travels.
//!
//! A service implements [`InferenceServer`]; the transports read requests, hold them against the model's signature, ask the
//! server, and write its answer. Sources: the protocol's specification (kserve/open-inference-protocol) and Triton's
//! extensions for binary tensors, classification, statistics and model configuration.
//!
//! Modules stand in the order in which a request meets them.

/// What the elements of a tensor are.
mod datatype;

/// Halves out of wider floats.
mod rounding;

/// A named tensor: its elements as raw little-endian bytes.
mod tensor;

/// What there is to know of a model before it is asked.
mod metadata;

/// Truths, numbers and texts beside a request's tensors.
mod parameters;

/// Requests and answers as they travel, over whichever transport.
mod wire;

/// Raw elements behind the JSON.
mod binary;

/// Requests and answers in JSON.
mod json;

/// A request → ready tensors, and what the caller wishes to see.
mod understand;

/// Base64 in the forms in which programs write it.
mod base64_text;

/// What elements mean: text, base64, moments, pictures.
mod content;

/// Moments: text ↔ seconds.
mod moments;

/// Columns of a table → inputs.
mod columns;

/// Which settings make an input take images.
mod image_settings;

/// Tensors against a model's signature.
mod check;

/// Which outputs a caller wants, and how.
mod wishes;

/// The one trait that a service implements.
mod server;

/// Counts and times, as Triton's load tool reads them.
mod statistics;

/// A model's signature, as Triton's load tool reads it.
mod config;

/// An answer → what the caller wished to see.
mod render;

/// Outputs as the best classes.
mod classes;

/// Outputs as PNG.
mod picture;

/// Class numbers of pixels as PNG.
mod class_map;

/// The one way to ask the server, for every transport.
mod answer;

/// What can be the name of a model.
mod names;

/// Over HTTP.
pub mod rest;

/// Over gRPC.
pub mod grpc;

/// The other end: requests written, answers read.
pub mod client;

/// Why there is no answer: an HTTP status, a gRPC code, and words for whoever asked.
mod error;

pub use check::validate_inputs;
pub use class_map::{class_colour, encode_class_map};
pub use config::model_config;
pub use datatype::{Datatype, UnknownDatatype};
pub use error::{Error, OVERLOADED_HEADER};
pub use image_settings::image_settings_hint;
pub use json::{JsonResponse, NotUtf8, parse_request, request_to_json, response_to_json, utf8_json};
pub use metadata::{
    Activation, Batching, ContentType, ModelMetadata, NotCached, Platform, RowDependence, Task, TensorMetadata,
    TensorParameters, has_optional_input, only_required_input,
};
pub use parameters::{Parameter, Parameters};
pub use picture::{EncodedImage, encode_images};
pub use render::{encode_response, outputs_to_json};
pub use server::{
    EXTENSIONS, InferRequest, Inference, InferenceServer, ModelIndex, ModelState, Provenance, SERVER_NAME,
    SERVER_VERSION, Timing, report_statistics,
};
pub use statistics::{
    BatchStatistics, CacheLookup, InferenceStatistics, ModelStatistics, StatisticDuration, Statistics,
};
pub use tensor::{Element, MAX_RANK, NotRepresentable, Tensor, TensorError, byte_length};
pub use understand::decode_request;
pub use wire::{RequestedOutput, WireData, WireInput, WireOutput, WireRequest, WireResponse};
pub use wishes::OutputOptions;
