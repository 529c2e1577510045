use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// An error as `application/problem+json` (RFC 9457). `detail` is for the caller: what was wrong with *this* request,
/// never a path, a stack or another service's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The reason phrase of `status`.
    pub title: String,
    /// The HTTP status, repeated for those who only see the body.
    pub status: u16,
    /// What was wrong with this request.
    pub detail: String,
}

impl Problem {
    /// The media type of the body.
    pub const MEDIA_TYPE: &str = "application/problem+json";
}

/// How long a client is asked to stay away after a 503 of which nothing better is known.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// `status` with a [`Problem`] as its body; a 503 carries `Retry-After`.
pub fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with_retry_after(status, detail, RETRY_AFTER_SECONDS)
}

/// The same, for who knows better how long a client should stay away.
pub fn problem_with_retry_after(status: StatusCode, detail: &str, retry_after_s: u32) -> Response {
    let problem = Problem {
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
    };
    let body = serde_json::to_vec(&problem).expect("two strings and a number always become JSON");
    let mut response = (status, [content_type()], Body::from(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

fn content_type() -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE))
}
