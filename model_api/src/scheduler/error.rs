//! Errors of a run.

use std::time::Duration;

use crate::memory::{LimitExceeded, MAX_RESULT_BYTES};

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The queue is full, or load is shed.
    #[error("Too many requests are waiting for this model; try again shortly.")]
    QueueFull {
        /// When the queue probably has capacity again, in whole seconds.
        retry_after: Duration,
    },
    /// No session starts. Holds the reason, as a clause.
    #[error("The model is not available: {}.", .0.trim_end_matches('.'))]
    Unavailable(String),
    /// The model rejected the inputs. Holds the message of ONNX Runtime.
    #[error("{0}")]
    Rejected(String),
    /// The request crashed two sessions, now or recently.
    #[error("The model crashed on this request.")]
    Crashed,
    /// The request exceeded a memory limit twice.
    #[error("Out of memory: {0}; send fewer or smaller rows in each request, or raise the limit.")]
    OutOfMemory(LimitExceeded),
    /// More rows, or larger results, than one request may have. Holds the message.
    #[error("{0}")]
    TooLarge(String),
    /// Some rows of a chunked request failed, so the whole request failed.
    #[error("Rows {first} to {last}: {error}")]
    Rows {
        /// The first failed row, from 0.
        first: usize,
        /// The last failed row.
        last: usize,
        /// The error of these rows.
        error: Box<RunError>,
    },
    /// The run exceeded its time budget and was cancelled.
    #[error("The model did not respond within {0:?}.")]
    TimedOut(Duration),
    /// The pool has been stopped.
    #[error("The model is being stopped.")]
    Stopped,
}

impl RunError {
    /// The results of the request have this many bytes, or more.
    pub(super) fn result_too_large(bytes: usize) -> Self {
        Self::TooLarge(format!(
            "The outputs of this request have {bytes} bytes, and the limit is {MAX_RESULT_BYTES} bytes; send fewer rows or request \
             fewer outputs."
        ))
    }

    /// Adds the rows of a chunk to errors about its inputs. Errors about load and time concern the whole request.
    pub(super) fn of_rows(self, first: usize, rows: usize) -> Self {
        match self {
            Self::Rejected(_) | Self::Crashed | Self::OutOfMemory(_) => {
                Self::Rows { first, last: first + rows - 1, error: Box::new(self) }
            }
            other => other,
        }
    }

    /// The error without its rows.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Rows { error, .. } => error.cause(),
            other => other,
        }
    }
}
