//! Cooperative yielding in compressed response bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http::header;
use hyper::body::{Frame, SizeHint};
use service::memory_budget::Reservation;

/// Yields to other tasks after each frame of a compressed response. Compression never waits, so a large response would
/// otherwise block its thread. The memory of the encoder stays reserved until the response is sent.
pub(super) fn yield_between_frames(response: Response, memory: Reservation) -> Response {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        response.map(|body| Body::new(YieldingBody { body, yield_next: false, _memory: memory }))
    } else {
        response
    }
}

struct YieldingBody {
    body: Body,
    yield_next: bool,
    _memory: Reservation,
}

impl HttpBody for YieldingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.yield_next) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yield_next = true;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
