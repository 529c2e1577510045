use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use contract::{Device, ModelDescription};
use open_inference::ModelState;
use serde::Serialize;

use crate::app::App;

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
    /// Why not, in one line.
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

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Live> {
    Json(Live { live: true })
}

/// `GET /health/ready`: 200 when every model that was asked for at the start has been warm, one can be asked, and
/// nobody wants to stop; else 503.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let reason = app.readiness.reason().or_else(|| app.models.why_not_ready());
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let models = app.models.list().into_iter().map(ModelHealth::from).collect();
    (status, Json(Health { ready: reason.is_none(), live: true, reason, models }))
}

impl From<ModelDescription> for ModelHealth {
    fn from(model: ModelDescription) -> Self {
        let ModelDescription { name, version, state, device, reason, .. } = model;
        Self { name, version, state, device, reason }
    }
}
