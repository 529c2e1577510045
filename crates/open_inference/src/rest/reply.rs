use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use service::body_limits::BodyError;
use service::conditional::etag_matches;
use service::memory_budget::Reservation;

use crate::json::JsonResponse;
use crate::{Error, OVERLOADED, binary};

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
        }
        let mut response = (self.status, json(&Body { error: &self.message })).into_response();
        if self.is_temporary() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        if self.is_overload {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A JSON body.
pub(super) fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("what we answer always becomes JSON");
    ([content_type("application/json")], body).into_response()
}

/// An answer's JSON with what stands behind it, which is not copied.
pub(super) fn inference(response: JsonResponse) -> Response {
    let JsonResponse { json, tail } = response;
    let Some(tail) = tail else { return ([content_type("application/json")], json).into_response() };
    let length = (HeaderName::from_static(binary::HEADER_LENGTH), HeaderValue::from(json.len()));
    let chunks: VecDeque<Bytes> = std::iter::once(json).chain(tail).filter(|chunk| !chunk.is_empty()).collect();
    ([content_type("application/octet-stream"), length], Body::new(Chunks(chunks))).into_response()
}

/// One picture.
pub(super) fn picture(png: Bytes) -> Response {
    ([content_type("image/png")], png).into_response()
}

/// The one event of a stream.
pub(super) fn event(json: &[u8]) -> Response {
    let event = [b"data: ", json, b"\n\n"].concat();
    ([content_type("text/event-stream")], event).into_response()
}

/// Whether the caller has the answer already.
pub(super) fn is_known(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let etag = answer.get(header::ETAG).and_then(|etag| etag.to_str().ok());
    etag.is_some_and(|etag| etag_matches(request, etag))
}

fn content_type(media_type: &'static str) -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(media_type))
}

/// A body of several pieces whose length is known.
struct Chunks(VecDeque<Bytes>);

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|chunk| chunk.len() as u64).sum())
    }
}

/// Gives others a turn after each frame of a compressed answer: who compresses waits for nothing, and a large answer would
/// have the thread to itself. The encoder's `memory` is held until the response has gone.
pub(super) fn in_turns(response: Response, memory: Reservation) -> Response {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        response.map(|body| Body::new(InTurns { body, pause: false, _memory: memory }))
    } else {
        response
    }
}

struct InTurns {
    body: Body,
    pause: bool,
    _memory: Reservation,
}

impl HttpBody for InTurns {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.pause) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.pause = true;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
