use super::local::LocalUpload;
use super::redis::RedisUpload;
use super::{Input, JobError};

/// Upload in pieces: inputs of a job that is not submitted yet go to the queue one by one, so that a reader of an archive never holds
/// all of them.
///
/// An upload that is not submitted is given to [`super::Jobs::discard`]; otherwise its inputs stay in Redis for ten minutes.
pub enum Upload {
    /// To Redis.
    Redis(Box<RedisUpload>),
    /// To the queue in this process.
    Local(LocalUpload),
}

impl Upload {
    /// Adds an input behind those that were added before.
    pub async fn push(&mut self, input: Input) -> Result<(), JobError> {
        match self {
            Self::Redis(upload) => upload.push(input).await,
            Self::Local(upload) => upload.push(input),
        }
    }
}
