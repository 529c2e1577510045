//! Clients of the model servers.
//!
//! [`catalog::Catalog`] holds the list of models. Requests pass [`batcher::RequestBatcher`], which limits and batches them, and
//! [`model_client::ModelClient`], which sends them to a replica of `model_api`. [`external_workers::ExternalWorkers`] sends requests
//! to models that are served from the job queue.

mod batch;
mod batch_sender;
mod catalog_snapshot;
mod congestion_window;
mod replicas;
mod response;
mod targets;

/// Limits the requests in flight to each model, and sends them in batches.
pub mod batcher;

/// Models that `model_api` and external workers serve.
pub mod catalog;

/// Models that external workers serve from the job queue.
pub mod external_workers;

/// HTTP client of `model_api`.
pub mod model_client;
