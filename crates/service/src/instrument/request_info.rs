use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tracing::{debug, info};

use super::request_id::new_request_id;
use crate::logging::access_log::ACCESS_LOG_TARGET;
use crate::response::grpc_status;

/// `Cache-Status` of RFC 9211, which is in the log line as well.
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// A request's name in the log. A client's own is kept, and it is in every answer.
pub(super) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id of a client's that is kept: it is in every line about the request.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Bytes of a method and of a path that a log line repeats.
const MAX_LOGGED_METHOD_BYTES: usize = 32;
const MAX_LOGGED_PATH_BYTES: usize = 256;

/// Beginnings of the paths of health checks, by whichever protocol.
const HEALTH_CHECK_PREFIXES: [&str; 3] = ["/health/", "/v2/health/", "/grpc.health.v1.Health/"];

/// The path of `model_api` that `web_api` polls once a second.
const POLLED_PATH: &str = "/models";

/// What is still to be known of a request when it has been answered.
pub(super) struct RequestInfo {
    pub method: Method,
    path: Option<PathAndQuery>,
    pub id: HeaderValue,
    /// Whether it is a call of gRPC.
    pub is_grpc: bool,
}

impl RequestInfo {
    pub fn new(request: &Request) -> Self {
        let fresh = || {
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
                .unwrap_or_else(fresh),
            is_grpc: grpc_status::is_grpc(request.headers()),
        }
    }

    pub fn path(&self) -> &str {
        self.path.as_ref().map_or("/", PathAndQuery::path)
    }
}

/// Whether a client's id is kept: it must be short, and visible ASCII without spaces.
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
    // Health checks and polls between the services arrive every second; at `info` they would be most of the log.
    let is_poll = path == POLLED_PATH && status == StatusCode::OK;
    let status = status.as_u16();
    if is_poll || HEALTH_CHECK_PREFIXES.iter().any(|checks| path.starts_with(checks)) {
        debug!(target: ACCESS_LOG_TARGET, %method, path, status, ms, "answered");
    } else {
        let cache = response.headers().get(CACHE_STATUS).and_then(|value| value.to_str().ok());
        info!(target: ACCESS_LOG_TARGET, %method, path, status, ms, cache, "answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_repeats_a_bounded_piece_of_a_path() {
        assert_eq!(truncate("/predict", MAX_LOGGED_PATH_BYTES), "/predict");
        assert_eq!(truncate(&format!("/{}", "\u{e9}".repeat(1000)), MAX_LOGGED_PATH_BYTES).len(), 255);
    }
}
