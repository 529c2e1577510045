//! Errors of a session.

use serde::{Deserialize, Serialize};

use crate::memory::LimitExceeded;

/// Why a session did not start. No reason contains a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StartError {
    /// The model cannot be opened, or its first run fails.
    #[error("{0}")]
    Model(String),
    /// `DEVICE=cuda`, but CUDA does not work.
    #[error("DEVICE=cuda, but {0}")]
    #[serde(rename = "NoDevice")]
    DeviceUnavailable(String),
    /// The process ended before it reported a reason, or it crashes repeatedly.
    #[error("{0}")]
    #[serde(rename = "Died")]
    Crashed(String),
}

/// Why a run has no outputs.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The model rejected the inputs. The session remains usable.
    Rejected(String),
    /// The run was cancelled. The session remains usable.
    Cancelled,
    /// The session is no longer usable.
    Crashed(String),
    /// The session exceeded a memory limit and was killed.
    OutOfMemory(LimitExceeded),
    /// The outputs have this many bytes, more than [`MAX_RESULT_BYTES`](crate::memory::MAX_RESULT_BYTES). The session remains
    /// usable.
    OutputsTooLarge(usize),
}
