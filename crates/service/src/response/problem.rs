//! Error responses as problem documents (RFC 9457).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// Body of an error response, `application/problem+json`. `detail` is for the client: what is wrong with this request,
/// never a path, a stack trace or the address of another service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Reason phrase of `status`.
    pub title: String,
    /// HTTP status, repeated for readers of the body alone.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
}

impl Problem {
    /// Media type of the body.
    pub const MEDIA_TYPE: &str = "application/problem+json";
}

/// Default `Retry-After` of a 503 response, in seconds.
pub const RETRY_AFTER_SECONDS: u32 = 1;

/// Response with `status` and a [`Problem`] as its body. A 503 carries `Retry-After`.
pub fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with_retry_after(status, detail, RETRY_AFTER_SECONDS)
}

/// Same as [`problem`], with another `Retry-After`.
pub fn problem_with_retry_after(status: StatusCode, detail: &str, retry_after_s: u32) -> Response {
    let problem = Problem {
        title: status.canonical_reason().unwrap_or("Error").to_owned(),
        status: status.as_u16(),
        detail: detail.to_owned(),
    };
    let body = serde_json::to_vec(&problem).expect("two strings and a number are always serializable");
    let mut response = (status, [content_type()], Body::from(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
    }
    response
}

fn content_type() -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE))
}
