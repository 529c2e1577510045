//! Logging: subscriber, access log, text format and log files.

pub(crate) mod access_log;
pub mod log_file;
pub mod telemetry;
mod text_format;
