//! Model server: serves the ONNX models of a folder over HTTP and gRPC.
//!
//! Modules stand in the order in which first a model and then a request meet them. A module uses only modules that stand
//! before it.

/// Command line and `--help`.
pub mod cli;

/// Image preprocessing: encoded images become input tensors, within limits.
pub mod preprocessing;

/// ONNX files: their format, their external data and static analysis of their graphs.
pub mod onnx;

/// Model repository: models, versions and settings in `MODELS_DIR`.
pub mod repository;

/// Memory budgets of this process, and memory limits of the session processes.
pub mod memory;

/// Session processes, the only place that calls ONNX Runtime.
pub mod session;

/// Scheduling of one model: queue, batches and sessions.
pub mod scheduler;

/// Environment variables with their defaults.
pub mod settings;

/// Error type of requests, with HTTP status and metric label.
pub mod error;

/// Prometheus metrics.
pub mod metrics;

/// One model version: signature, pipeline, sessions.
pub mod model;

/// Model registry: loads, replaces and unloads model versions while the service runs.
pub mod registry;

/// Bounded blocking pool for work that takes a core.
pub mod blocking_pool;

/// State that handlers share.
pub mod state;

/// Decoding of images that requests carry.
mod image_batch;

/// Inference on one model or one pipeline.
mod inference;

/// HTTP handlers and the service of the Open Inference Protocol.
mod routes;

/// Router over all routes, without a socket.
pub mod router;

/// Startup and shutdown.
pub mod serve;
