//! Errors of reading a request body, with their HTTP statuses.

use std::time::Duration;

use http::StatusCode;

/// Window over which the data rate of a body is measured, and its initial grace period.
pub(super) const DATA_RATE_WINDOW: Duration = Duration::from_secs(5);

/// Minimum average data rate in bytes per second over each [`DATA_RATE_WINDOW`], while a body reserves more than
/// [`EXEMPT_BYTES`](super::memory_budget::EXEMPT_BYTES). A stalled large upload would keep memory from other clients.
/// Mobile networks of 2003 (EDGE) are twice as fast.
pub(super) const MIN_DATA_RATE: usize = 16 << 10;

/// Why a request body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body exceeds the size limit.
    #[error("The body is larger than {0} bytes; send less in one request.")]
    TooLarge(usize),
    /// The request needs more memory than one client can ever reserve.
    #[error(
        "Reading the request takes more than {max} bytes of memory, the limit for one client; send less in one request, or raise BODY_MEMORY_BYTES."
    )]
    TooMuchMemory {
        /// Memory limit of one client in bytes.
        max: usize,
    },
    /// The body exceeded its timeout.
    #[error("The body did not arrive within {0:?}; send it faster, or raise BODY_TIMEOUT_MS.")]
    TooSlow(Duration),
    /// The body reserves memory and stays below the minimum data rate.
    #[error(
        "The body arrived at less than {MIN_DATA_RATE} bytes per second for {DATA_RATE_WINDOW:?}; send it without pauses."
    )]
    Stalled,
    /// Other requests hold the memory.
    #[error("Too many uploads at the same time; retry later.")]
    NoMemory,
    /// The connection ended before the body was complete.
    #[error("The body ended before it was complete.")]
    Incomplete,
}

impl BodyError {
    /// HTTP status of the error.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) | Self::TooMuchMemory { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) | Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::Incomplete => StatusCode::BAD_REQUEST,
        }
    }
}
