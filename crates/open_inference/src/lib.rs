//! The Open Inference Protocol (V2): types, codecs, and transports over REST and gRPC.
//!
//! A service implements [`InferenceServer`]. The transports parse a request, validate it against the model's signature, call
//! the server and encode its response. Sources: the protocol's specification (kserve/open-inference-protocol) and Triton's
//! extensions for binary tensor data, classification, statistics and model configuration.
//!
//! A module imports only modules that are listed above it.

/// Truncation of client input in error messages.
mod truncate;

/// The error of all operations: HTTP status, gRPC code, message.
mod error;

/// Tensors, model metadata, requests, responses.
mod types;

/// Bounded blocking pool for large tensors.
mod blocking_pool;

/// JSON, binary, base64, dates, tables, classes, images.
mod codec;

/// Decoding and validation of requests.
mod request;

/// Encoding of responses.
mod response;

/// Counts and durations, as Triton's statistics extension defines them.
mod statistics;

/// Model configuration, as Triton's extension defines it.
mod triton_config;

/// The trait that a service implements.
mod server;

/// Execution of a request with its timeout.
mod execute;

/// The client side: encoding of requests, decoding of responses.
pub mod client;

/// Transport over HTTP.
pub mod rest;

/// Transport over gRPC.
pub mod grpc;

pub use codec::class_map::{class_colour, encode_class_map};
pub use codec::json::{JsonResponse, NotUtf8, parse_request, request_to_json, response_to_json, utf8_json};
pub use codec::png::{EncodedImage, encode_images};
pub use error::{Error, OVERLOADED_HEADER};
pub use request::{OutputOptions, decode_request, image_settings_hint, validate_inputs};
pub use response::{encode_response, outputs_to_json};
pub use server::{EXTENSIONS, InferenceServer, SERVER_NAME, SERVER_VERSION, report_statistics};
pub use statistics::{
    BatchStatistics, CacheLookup, InferenceStatistics, ModelStatistics, StatisticDuration, Statistics,
};
pub use triton_config::model_config;
pub use types::{
    Activation, Batching, ContentType, Datatype, Element, InferRequest, Inference, MAX_RANK, ModelIndex, ModelMetadata,
    ModelState, NotCached, NotRepresentable, Parameter, Parameters, Platform, Provenance, RequestedOutput,
    RowDependence, Task, Tensor, TensorError, TensorMetadata, TensorParameters, Timing, UnknownDatatype, WireData,
    WireInput, WireOutput, WireRequest, WireResponse, byte_length, has_optional_input, only_required_input,
};
