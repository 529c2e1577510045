//! Inference requests: cache key, cache lookup, and execution.
//!
//! [`request::PredictionRequest`] is a request with its cache key. [`predictor::Predictor`] serves it from the cache, or runs the
//! model through the backend. Batches of independent rows are cached by row, and pipelines are run step by step.

mod backend;
mod pipeline;
mod row_batch;
mod row_cache;

/// Cache-aside execution of requests.
pub mod predictor;

/// Purge of cached results that turned out to be wrong.
pub(crate) mod purge;

/// Requests and their cache keys.
pub mod request;

/// Results and their cache status.
pub mod response;
