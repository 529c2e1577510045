//! Life cycle of a service: readiness, shutdown, health check and metrics endpoint.

pub mod health;
pub mod metrics;
pub mod readiness;
pub mod shutdown;
