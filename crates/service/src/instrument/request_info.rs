//! Data of a request that the access log, the metrics and the response need after the request was consumed.

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tracing::{debug, info};

use super::request_id::new_request_id;
use crate::logging::access_log::ACCESS_LOG_TARGET;
use crate::response::grpc_status;

/// `Cache-Status` (RFC 9211), which the access log contains as well.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Request ID. The ID that a client sends is kept, and every response carries it.
pub(super) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Length limit of a client's request ID, since every log line about the request contains it.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Length limits of the method and the path in a log line.
const MAX_LOGGED_METHOD_BYTES: usize = 32;
const MAX_LOGGED_PATH_BYTES: usize = 256;

/// Path prefixes of health checks, REST and gRPC.
const HEALTH_CHECK_PREFIXES: [&str; 3] = ["/health/", "/v2/health/", "/grpc.health.v1.Health/"];

/// Path of `model_api` that `web_api` polls once per second.
const POLLED_PATH: &str = "/models";

/// Data of a request, kept until its response is complete.
pub(super) struct RequestInfo {
    pub method: Method,
    path: Option<PathAndQuery>,
    pub id: HeaderValue,
    /// Whether it is a gRPC request.
    pub is_grpc: bool,
}

impl RequestInfo {
    pub fn new(request: &Request) -> Self {
        let generate = || {
            let mut text = [0; 36];
            HeaderValue::from_str(new_request_id().hyphenated().encode_lower(&mut text)).expect("digits and dashes")
        };
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            id: request
                .headers()
                .get(REQUEST_ID_HEADER)
                .filter(|id| is_valid_request_id(id))
                .cloned()
                .unwrap_or_else(generate),
            is_grpc: grpc_status::is_grpc(request.headers()),
        }
    }

    pub fn path(&self) -> &str {
        self.path.as_ref().map_or("/", PathAndQuery::path)
    }
}

/// Whether a client's request ID is kept: visible ASCII without spaces, up to [`MAX_REQUEST_ID_BYTES`].
pub(super) fn is_valid_request_id(id: &HeaderValue) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn truncate(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

pub(super) fn log(info: &RequestInfo, response: &Response, status: StatusCode, elapsed: Duration) {
    let (method, path) =
        (truncate(info.method.as_str(), MAX_LOGGED_METHOD_BYTES), truncate(info.path(), MAX_LOGGED_PATH_BYTES));
    let ms = elapsed.as_micros() as f64 / 1e3;
    // Health checks and polls arrive every second and would make up most of the log at `info`.
    let is_poll = path == POLLED_PATH && status == StatusCode::OK;
    let status = status.as_u16();
    if is_poll || HEALTH_CHECK_PREFIXES.iter().any(|prefix| path.starts_with(prefix)) {
        debug!(target: ACCESS_LOG_TARGET, %method, path, status, ms, "request completed");
    } else {
        let cache = response.headers().get(CACHE_STATUS).and_then(|value| value.to_str().ok());
        info!(target: ACCESS_LOG_TARGET, %method, path, status, ms, cache, "request completed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_path_is_truncated() {
        assert_eq!(truncate("/predict", MAX_LOGGED_PATH_BYTES), "/predict");
        assert_eq!(truncate(&format!("/{}", "\u{e9}".repeat(1000)), MAX_LOGGED_PATH_BYTES).len(), 255);
    }
}
