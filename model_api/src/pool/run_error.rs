use std::time::Duration;

use crate::memory::Exceeded;
use crate::session::MAX_RESULT_BYTES;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// As many requests wait as may.
    #[error("too many requests are waiting for this model")]
    Full {
        /// When there is room again, in whole seconds.
        retry_after: Duration,
    },
    /// No session can be started.
    #[error("{0}")]
    Unavailable(String),
    /// The model refused these inputs.
    #[error("{0}")]
    Refused(String),
    /// Two sessions in a row died on it, now or a short time ago.
    #[error("the model crashed on this request")]
    Crashed,
    /// Its session used more memory than it may, twice.
    #[error("{0}; send fewer or smaller rows in each request, or raise the limit")]
    OutOfMemory(Exceeded),
    /// More rows, or larger results, than one request may have.
    #[error("{0}")]
    TooLarge(String),
    /// Some rows of a request that was cut have no result, so the request has none.
    #[error("rows {first} to {last}: {error}")]
    Rows {
        /// The first of them, from 0.
        first: usize,
        /// The last of them.
        last: usize,
        /// Why not.
        error: Box<RunError>,
    },
    /// The run took too long and was ended.
    #[error("the model did not answer within {0:?}")]
    TimedOut(Duration),
    /// The pool has been stopped.
    #[error("the model is being stopped")]
    Stopped,
}

impl RunError {
    /// The results of a request have this many bytes, or at least as many.
    pub(super) fn result_too_large(bytes: usize) -> Self {
        Self::TooLarge(format!(
            "the outputs of this request have {bytes} bytes; the limit is {MAX_RESULT_BYTES} bytes; send fewer rows or name fewer \
             outputs"
        ))
    }

    /// The same, where it is about the rows of a piece; load and time concern the whole request.
    pub(super) fn of_rows(self, first: usize, rows: usize) -> Self {
        match self {
            Self::Refused(_) | Self::Crashed | Self::OutOfMemory(_) => {
                Self::Rows { first, last: first + rows - 1, error: Box::new(self) }
            }
            other => other,
        }
    }

    /// What happened, without the rows.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Rows { error, .. } => error.cause(),
            other => other,
        }
    }
}
