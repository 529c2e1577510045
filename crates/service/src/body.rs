use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::settings::ServerSettings;

/// Memory is handed out in pieces of this size, so that a slow upload holds no more than it has sent.
const PIECE: usize = 64 << 10;

/// So much of each body costs nothing: a few clients that stall in large uploads keep the small ones from nobody. The
/// connection cap bounds the sum.
const FREE: usize = 128 << 10;

/// After a refusal the rest of the body is read and thrown away for so long.
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
    _share: Share,
}

/// A part of the memory of all bodies, given back when dropped.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// Bytes that it is good for.
    room: usize,
}

impl Share {
    /// Makes it good for `bytes` bytes altogether, or fails when others have the memory.
    pub fn grow(&mut self, bytes: usize) -> Result<(), BodyError> {
        let missing = bytes.saturating_sub(self.room).div_ceil(PIECE);
        if missing > 0 {
            let pieces = u32::try_from(missing).map_err(|_| BodyError::NoMemory)?;
            let pieces = Arc::clone(&self.memory).try_acquire_many_owned(pieces).map_err(|_| BodyError::NoMemory)?;
            self.room += missing * PIECE;
            match &mut self.held {
                Some(held) => held.merge(pieces),
                None => self.held = Some(pieces),
            }
        }
        Ok(())
    }
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

    /// The most bytes that one body may have.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// How long a body may take to come.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A part of the memory, still without more than what costs nothing; for whoever reads, or unpacks, in another way.
    pub fn share(&self) -> Share {
        Share { memory: Arc::clone(&self.memory), held: None, room: FREE }
    }

    /// Reads the whole body. A declared length over the limit is refused before the first byte is read.
    pub async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<ReadBody, BodyError> {
        if declared_length(headers).is_some_and(|length| length > self.max_bytes as u64) {
            return Err(BodyError::TooLarge(self.max_bytes));
        }
        let read = async {
            let mut first = Bytes::new();
            let mut bytes = BytesMut::new();
            let mut share = self.share();
            while let Some(frame) = body.frame().await {
                // What unpacks is always there: without this, a bomb would have the thread to itself.
                tokio::task::coop::consume_budget().await;
                let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
                let length = first.len() + bytes.len() + data.len();
                if length > self.max_bytes {
                    return Err(BodyError::TooLarge(self.max_bytes));
                }
                share.grow(length)?;
                if first.is_empty() && bytes.is_empty() {
                    // Most bodies come in one piece, which is not copied.
                    first = data;
                } else {
                    bytes.extend_from_slice(&std::mem::take(&mut first));
                    bytes.extend_from_slice(&data);
                }
            }
            let bytes = if bytes.is_empty() { first } else { bytes.freeze() };
            Ok(ReadBody { bytes, _share: share })
        };
        timeout(self.patience, read).await.map_err(|_| BodyError::TooSlow(self.patience))?
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A request's body, lent to whoever answers: what an error leaves unread of it can be read afterwards.
pub(crate) struct Lent(oneshot::Receiver<Body>);

/// `None` where there is nothing to read.
pub(crate) fn lend(request: Request) -> (Request, Option<Lent>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let (back, given_back) = oneshot::channel();
    let waits = request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Body::new(LentBody { body, waits, back: Some(back) }));
    (request, Some(Lent(given_back)))
}

impl Lent {
    /// Reads what is left of it when the answer is an error, for a while: a client that is still sending would otherwise
    /// see its connection reset instead of the answer.
    pub async fn read_the_rest(mut self, status: StatusCode) {
        // After a 408 there is nothing to read: that client does not send.
        if (status.is_client_error() || status.is_server_error())
            && status != StatusCode::REQUEST_TIMEOUT
            && let Ok(mut body) = self.0.try_recv()
        {
            let rest = async {
                while let Some(Ok(_)) = body.frame().await {
                    tokio::task::coop::consume_budget().await;
                }
            };
            let _ = timeout(LINGER, rest).await;
        }
    }
}

/// A request's body that comes back when its reader drops it.
struct LentBody {
    body: Body,
    /// `Expect: 100-continue`: the client sends nothing before the first look at its body, and may never.
    waits: bool,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for LentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.waits = false;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for LentBody {
    fn drop(&mut self) {
        // What has been read to its end need not come back.
        if !self.waits
            && !self.body.is_end_stream()
            && let Some(back) = self.back.take()
        {
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt;

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
    async fn others_get_a_turn_while_a_body_is_read_that_is_there_already() {
        let pieces = futures_util::stream::iter((0..1000).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"x"))));
        let other = tokio::spawn(async {});
        reader(1000, 1).read(&HeaderMap::new(), Body::from_stream(pieces)).await.unwrap();
        assert!(other.is_finished());
    }

    #[tokio::test]
    async fn all_bodies_together_share_a_bounded_memory_that_comes_back() {
        let reader = reader(FREE + 10 * PIECE, 2);
        let headers = HeaderMap::new();
        let (small, large) = (|| Body::from(vec![0; FREE]), || Body::from(vec![0; FREE + 2 * PIECE]));
        let held = reader.read(&headers, large()).await.unwrap();
        assert_eq!(reader.read(&headers, large()).await.unwrap_err(), BodyError::NoMemory);
        assert!(reader.read(&headers, small()).await.is_ok(), "a small one finds room always");
        drop(held);
        assert!(reader.read(&headers, large()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let error = reader(10, 1).read(&HeaderMap::new(), never).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(Duration::from_secs(5)));
    }

    #[tokio::test]
    async fn pieces_of_nothing_are_no_body_that_comes() {
        let empty = Body::from_stream(futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::new())));
        let patience = Duration::from_millis(50);
        let error = BodyReader { patience, ..reader(10, 1) }.read(&HeaderMap::new(), empty).await.unwrap_err();
        assert_eq!(error, BodyError::TooSlow(patience));
    }

    #[tokio::test]
    async fn what_a_refusal_leaves_unread_is_read_unless_the_client_waits() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use axum::Router;
        use axum::routing::post;
        use tower::ServiceExt;

        let app =
            Router::new().route("/refused", post(|| async { StatusCode::FORBIDDEN })).route("/fine", post(|| async {}));
        for (path, expect, read) in [("/refused", None, 3), ("/refused", Some("100-continue"), 0), ("/fine", None, 0)] {
            let pieces = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&pieces);
            let body = futures_util::stream::iter(0..3).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Bytes::from_static(b"x"))
            });
            let mut request = Request::post(path).body(Body::from_stream(body)).unwrap();
            request.headers_mut().extend(expect.map(|value| (header::EXPECT, value.parse().unwrap())));
            let (request, lent) = lend(request);
            let status = app.clone().oneshot(request).await.unwrap().status();
            lent.unwrap().read_the_rest(status).await;
            assert_eq!(pieces.load(Ordering::Relaxed), read, "{path} {expect:?}");
        }
    }
}
