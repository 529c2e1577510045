//! Error of a setting.

use std::fmt::Display;
use std::process::ExitCode;

/// A variable with an invalid value. The process exits with [`SettingError::EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct SettingError {
    /// Name of the variable.
    pub name: String,
    /// What is wrong with the value, and which values are valid.
    pub reason: String,
}

impl SettingError {
    /// `EX_USAGE` of sysexits.h: a restart without a change fails again.
    pub const EXIT_CODE: u8 = 64;

    /// Error about the variable `name`.
    pub fn new(name: &str, reason: impl Display) -> Self {
        Self { name: name.to_owned(), reason: reason.to_string() }
    }

    /// Prints the error to stderr and returns the exit code. Logging is not set up yet, since its own settings may be
    /// invalid.
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(Self::EXIT_CODE)
    }
}
