//! Implementations of the gRPC services: inference, model repository and health.

mod health;
mod infer;
mod inference;
mod repository;
mod stream;

pub(super) use health::HealthService;
pub(super) use inference::InferenceService;
pub(super) use repository::RepositoryService;
