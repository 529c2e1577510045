use std::time::Duration;

use http::StatusCode;

/// Window over which the deadline of a body is measured, and the time that it has before its first measurement.
pub(super) const DATA_RATE_WINDOW: Duration = Duration::from_secs(5);

/// Bytes per second that a body must have on average over each [`DATA_RATE_WINDOW`] while it holds more than [`EXEMPT_BYTES`]: a
/// client that stalls in a large upload keeps memory from others. Mobile networks of 2003 (EDGE) have twice as much.
pub(super) const MIN_DATA_RATE: usize = 16 << 10;

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than one body may be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The request needs more memory than one client can ever hold.
    #[error(
        "reading the request takes more than {max} bytes of memory, which is what one client may hold; send less at a time, or raise BODY_MEMORY_BYTES"
    )]
    TooMuchMemory {
        /// The most bytes that one client can hold.
        max: usize,
    },
    /// Slower than a body may come.
    #[error("the body did not come within {0:?}")]
    TooSlow(Duration),
    /// It holds memory, and stalls.
    #[error(
        "the body came slower than {MIN_DATA_RATE} bytes per second for {DATA_RATE_WINDOW:?}; send it without pauses"
    )]
    Stalled,
    /// The memory for bodies is in use by others.
    #[error("too many uploads at the same time")]
    NoMemory,
    /// The client stopped in the middle.
    #[error("the body ended early")]
    Incomplete,
}

impl BodyError {
    /// The status for it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) | Self::TooMuchMemory { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) | Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::Incomplete => StatusCode::BAD_REQUEST,
        }
    }
}
