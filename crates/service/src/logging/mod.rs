//! Logging: subscriber, access-log writer, text format and log file.

pub(crate) mod access_log;
pub mod log_file;
pub mod telemetry;
mod text_format;
