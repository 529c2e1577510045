use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use contract::{Device, ModelDescription};
use open_inference::ModelState;
use serde::Serialize;

use crate::state::AppState;

/// The body of `GET /health/live`.
#[derive(Serialize)]
pub struct Live {
    live: bool,
}

/// The body of `GET /health/ready`.
#[derive(Serialize)]
pub struct Health {
    ready: bool,
    live: bool,
    /// Why the service is not ready, in one line.
    reason: Option<String>,
    models: Vec<ModelHealth>,
}

#[derive(Serialize)]
struct ModelHealth {
    name: String,
    version: String,
    state: ModelState,
    device: Option<Device>,
    reason: Option<String>,
}

/// `GET /health/live`: 200 while the process responds.
pub async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// `GET /health/ready`: 200 when every model of the start has been warm, one model is available and no shutdown has
/// begun; 503 otherwise.
pub async fn ready(State(state): State<Arc<AppState>>) -> (StatusCode, Json<Health>) {
    let reason = state.readiness.reason().or_else(|| state.registry.not_ready_reason());
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let models = state.registry.list().into_iter().map(ModelHealth::from).collect();
    (status, Json(Health { ready: reason.is_none(), live: true, reason, models }))
}

impl From<ModelDescription> for ModelHealth {
    fn from(model: ModelDescription) -> Self {
        let ModelDescription { name, version, state, device, reason, .. } = model;
        Self { name, version, state, device, reason }
    }
}
