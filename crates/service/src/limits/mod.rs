//! Limits on request bodies, and on the memory that requests and responses hold.

pub(crate) mod body_drain;
pub(crate) mod body_error;
pub(crate) mod body_reader;
pub(crate) mod body_timeout;
pub(crate) mod memory_budget;
pub(crate) mod reserved_buffer;
pub mod response_body;
