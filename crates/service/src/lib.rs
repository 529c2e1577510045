//! Server library: what `web_api` and `model_api` share as network services.
//!
//! Modules stand in the order in which a process, and then a request, reaches them.

pub mod settings;

mod logging;

mod lifecycle;

pub mod peer;

pub mod http_server;

pub mod instrument;

mod security;

mod limits;

mod response;

pub use http_server::{open_files, runtime};
pub use instrument::request_id;
pub use lifecycle::{health, metrics, readiness, shutdown};
pub use limits::response_body;
pub use logging::{log_file, telemetry};
pub use response::{conditional, grpc_status, problem};
pub use security::{request_guard, shared_secret};
pub use settings::command_line;

/// Reads request bodies within limits on size, time, data rate and memory.
pub mod body_limits {
    pub use crate::limits::body_error::BodyError;
    pub use crate::limits::body_reader::{BodyReader, ReadBody};
    pub use crate::limits::body_timeout::BodyTimeout;
}

/// Budget of the memory that a process holds for its clients.
pub mod memory_budget {
    pub use crate::limits::memory_budget::{EXEMPT_BYTES, MemoryBudget, Reservation};
    pub use crate::limits::reserved_buffer::ReservedBuffer;
}
