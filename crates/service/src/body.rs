use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::settings::ServerSettings;

/// Memory is handed out in pieces of this size, so that a slow upload holds no more than it has sent.
const PIECE: usize = 64 << 10;

/// After a refusal the rest of the body is read and thrown away for so long: a client that is still sending would
/// otherwise see its connection reset instead of the answer.
const LINGER: Duration = Duration::from_secs(2);

/// The bounds within which bodies are read. One for the whole process: clones share the memory.
#[derive(Clone, Debug)]
pub struct BodyReader {
    max_bytes: usize,
    patience: Duration,
    memory: Arc<Semaphore>,
}

/// A body, and its share of the memory of all bodies until it is dropped.
#[derive(Debug)]
pub struct ReadBody {
    /// What the client sent.
    pub bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than one body may be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// Slower than a body may come.
    #[error("the body did not come within {0:?}")]
    TooSlow(Duration),
    /// The memory for bodies is in use by others.
    #[error("too many uploads at the same time")]
    NoMemory,
    /// The client stopped in the middle.
    #[error("the body ended early")]
    Broken,
}

impl BodyError {
    /// The status for it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::NoMemory => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken => StatusCode::BAD_REQUEST,
        }
    }
}

impl BodyReader {
    /// Bounds as the settings say.
    pub fn new(settings: &ServerSettings) -> Self {
        let pieces = (settings.body_memory_bytes / PIECE).max(1);
        Self {
            max_bytes: settings.max_body_bytes,
            patience: settings.body_timeout,
            memory: Arc::new(Semaphore::new(pieces)),
        }
    }

    /// Reads the whole body. A declared length over the limit is refused before the first byte is read.
    pub async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<ReadBody, BodyError> {
        // With `Expect: 100-continue` an unread body makes the client not send it at all.
        if declared_length(headers).is_some_and(|length| length > self.max_bytes as u64) {
            if !headers.contains_key(header::EXPECT) {
                drain(&mut body).await;
            }
            return Err(BodyError::TooLarge(self.max_bytes));
        }
        let read = self.read_within(&mut body).await;
        if matches!(read, Err(BodyError::TooLarge(_) | BodyError::NoMemory)) {
            drain(&mut body).await;
        }
        read
    }

    async fn read_within(&self, body: &mut Body) -> Result<ReadBody, BodyError> {
        let deadline = Instant::now() + self.patience;
        let mut bytes = BytesMut::new();
        let mut memory: Option<OwnedSemaphorePermit> = None;
        let mut room = 0;
        while let Some(frame) =
            timeout_at(deadline, body.frame()).await.map_err(|_| BodyError::TooSlow(self.patience))?
        {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            if bytes.len() + data.len() > self.max_bytes {
                return Err(BodyError::TooLarge(self.max_bytes));
            }
            let missing = (bytes.len() + data.len()).saturating_sub(room).div_ceil(PIECE);
            if missing > 0 {
                let pieces =
                    Arc::clone(&self.memory).try_acquire_many_owned(missing as u32).map_err(|_| BodyError::NoMemory)?;
                room += missing * PIECE;
                match &mut memory {
                    Some(memory) => memory.merge(pieces),
                    None => memory = Some(pieces),
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(ReadBody { bytes: bytes.freeze(), _memory: memory })
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn drain(body: &mut Body) {
    let deadline = Instant::now() + LINGER;
    while let Ok(Some(Ok(_))) = timeout_at(deadline, body.frame()).await {}
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn reader(max_bytes: usize, pieces: usize) -> BodyReader {
        BodyReader { max_bytes, patience: Duration::from_secs(5), memory: Arc::new(Semaphore::new(pieces)) }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_with_and_without_a_declared_length() {
        let reader = reader(10, 100);
        let mut headers = HeaderMap::new();
        assert_eq!(reader.read(&headers, Body::from("0123456789")).await.unwrap().bytes, "0123456789");
        assert_eq!(reader.read(&headers, Body::from("0123456789a")).await.unwrap_err(), BodyError::TooLarge(10));
        headers.insert(header::CONTENT_LENGTH, 11.into());
        assert_eq!(reader.read(&headers, Body::empty()).await.unwrap_err(), BodyError::TooLarge(10));
    }

    #[tokio::test]
    async fn all_bodies_together_share_a_bounded_memory_that_comes_back() {
        let reader = reader(10 * PIECE, 2);
        let headers = HeaderMap::new();
        let held = reader.read(&headers, Body::from(vec![0; 2 * PIECE])).await.unwrap();
        assert_eq!(reader.read(&headers, Body::from("x")).await.unwrap_err(), BodyError::NoMemory);
        drop(held);
        assert!(reader.read(&headers, Body::from("x")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let error = reader(10, 1).read(&HeaderMap::new(), never).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(Duration::from_secs(5)));
    }
}
