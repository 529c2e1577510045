//! Life cycle of a service: readiness, shutdown, health checks and the metrics endpoint.

pub mod health;
pub mod metrics;
pub mod readiness;
pub mod shutdown;
