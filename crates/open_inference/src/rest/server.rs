//! Routes of server metadata and health.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use super::response;
use super::state::RestState;
use crate::server::{EXTENSIONS, InferenceServer, SERVER_NAME, SERVER_VERSION};

/// `GET /v2`
pub(super) async fn metadata() -> Response {
    response::json(&json!({"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS}))
}

/// `GET /v2/health/live`: a server that responds is live.
pub(super) async fn live() -> Response {
    response::json(&json!({"live": true}))
}

/// `GET /v2/health/ready`
pub(super) async fn ready<S: InferenceServer>(State(state): State<RestState<S>>) -> Response {
    let ready = state.server.is_ready();
    (health_status(ready), response::json(&json!({"ready": ready, "live": true}))).into_response()
}

/// Status of a health response.
pub(super) fn health_status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
