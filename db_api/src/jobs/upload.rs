use super::error::JobError;
use super::in_memory::InMemoryUpload;
use super::redis::RedisUpload;
use super::types::Input;

/// Chunked upload of the inputs of a job that is not submitted yet. They go to the queue one by one, so that a reader of an archive
/// never holds all of them.
///
/// Pass an upload that is not submitted to [`super::Jobs::discard`]; otherwise its inputs stay in Redis for ten minutes.
pub enum Upload {
    /// Upload to Redis.
    Redis(Box<RedisUpload>),
    /// Upload to the in-memory queue.
    InMemory(InMemoryUpload),
}

impl Upload {
    /// Appends an input.
    pub async fn push(&mut self, input: Input) -> Result<(), JobError> {
        match self {
            Self::Redis(upload) => upload.push(input).await,
            Self::InMemory(upload) => upload.push(input),
        }
    }
}
