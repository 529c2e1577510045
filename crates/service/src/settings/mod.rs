//! Settings of a service: environment variables and the command line, validated before a port is bound.

pub mod command_line;
mod env;
mod error;
mod server_settings;

pub use env::{at_least, between, millis, optional, parse, redact_url};
pub use error::SettingError;
pub use server_settings::ServerSettings;
