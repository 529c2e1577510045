use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use super::{Rest, reply};
use crate::{EXTENSIONS, InferenceServer, SERVER_NAME, SERVER_VERSION};

/// `GET /v2`
pub(super) async fn metadata() -> Response {
    reply::json(&json!({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS}))
}

/// `GET /v2/health/live`: whoever answers lives.
pub(super) async fn live() -> Response {
    reply::json(&json!({"live": true}))
}

/// `GET /v2/health/ready`
pub(super) async fn ready<S: InferenceServer>(State(rest): State<Rest<S>>) -> Response {
    let ready = rest.server.is_ready();
    (status(ready), reply::json(&json!({"ready": ready, "live": true}))).into_response()
}

/// The status of a health check.
pub(super) fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
