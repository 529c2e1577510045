use std::fmt::Display;
use std::process::ExitCode;

/// A variable whose value cannot be used. Ends the process with [`SettingError::EXIT_CODE`].
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct SettingError {
    /// The variable.
    pub name: String,
    /// What is wrong with its value, and what would be right.
    pub reason: String,
}

impl SettingError {
    /// `EX_USAGE` of sysexits.h: trying again without a change is useless.
    pub const EXIT_CODE: u8 = 64;

    /// An error about the variable `name`.
    pub fn new(name: &str, reason: impl Display) -> Self {
        Self { name: name.to_owned(), reason: reason.to_string() }
    }

    /// Says it on one line and gives the exit code. There is no log yet: its settings may be the bad ones.
    pub fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(Self::EXIT_CODE)
    }
}
