use super::caller::QuotaExceeded;
use super::id::JobId;

/// Why an operation on the job queue failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Redis does not respond in time.
    #[error("the job queue does not respond")]
    Unavailable,
    /// The memory of the queue is full.
    #[error("the queue has no memory for more jobs")]
    OutOfMemory,
    /// The caller would exceed its quota.
    #[error("{0}")]
    QuotaExceeded(QuotaExceeded),
    /// A job in Redis is corrupt.
    #[error("the field {field:?} of the job {job} is invalid")]
    CorruptJob {
        /// The job.
        job: JobId,
        /// The name of its invalid field.
        field: String,
    },
    /// Too many inputs wait for the model. The value is how many there are.
    #[error("{0} inputs already wait for this model")]
    QueueFull(u64),
    /// The idempotency key was used for another submission.
    #[error("the idempotency key was used for another job")]
    Conflict,
    /// The input is longer than the longest value that Redis accepts.
    #[error("an input of {bytes} bytes exceeds the limit of {limit} bytes of a value in Redis")]
    InputTooLarge {
        /// Length of the input.
        bytes: usize,
        /// Longest value that Redis accepts.
        limit: usize,
    },
}
