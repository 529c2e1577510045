//! HTTP responses: errors, JSON, binary data, images, events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use service::conditional::etag_matches;

use crate::codec::binary;
use crate::codec::json::JsonResponse;
use crate::error::{Error, OVERLOADED_HEADER};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ErrorBody<'a> {
            error: &'a str,
        }
        let mut response = (self.status, json(&ErrorBody { error: &self.message })).into_response();
        if self.is_retryable() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        if self.is_overload {
            response.headers_mut().insert(OVERLOADED_HEADER, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A JSON response.
pub(super) fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("responses are always serializable");
    ([content_type("application/json")], body).into_response()
}

/// A JSON response with its binary data, which is not copied.
pub(super) fn tensors(response: JsonResponse) -> Response {
    let JsonResponse { json, tail } = response;
    let Some(tail) = tail else { return ([content_type("application/json")], json).into_response() };
    let length = (HeaderName::from_static(binary::HEADER_LENGTH), HeaderValue::from(json.len()));
    let chunks: VecDeque<Bytes> = std::iter::once(json).chain(tail).filter(|chunk| !chunk.is_empty()).collect();
    ([content_type("application/octet-stream"), length], Body::new(ChunkedBody(chunks))).into_response()
}

/// An image response.
pub(super) fn png_image(png: Bytes) -> Response {
    ([content_type("image/png")], png).into_response()
}

/// The single event of a stream.
pub(super) fn server_sent_event(json: &[u8]) -> Response {
    let event = [b"data: ", json, b"\n\n"].concat();
    ([content_type("text/event-stream")], event).into_response()
}

/// Whether the client has the current response, by its `If-None-Match`.
pub(super) fn is_not_modified(request: &HeaderMap, response: &HeaderMap) -> bool {
    let etag = response.get(header::ETAG).and_then(|etag| etag.to_str().ok());
    etag.is_some_and(|etag| etag_matches(request, etag))
}

fn content_type(media_type: &'static str) -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(media_type))
}

/// A body of several chunks with a known length.
struct ChunkedBody(VecDeque<Bytes>);

impl HttpBody for ChunkedBody {
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
