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

/// `GET /health/ready`: 200 when every model has been warm, one can be asked, and nobody wants to stop; else 503.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, Json<Health>) {
    let models = app.models.list();
    let not_ready = models.iter().find(|model| !model.is_ready()).map(complaint);
    let held = app.readiness.reason();
    let ready = held.is_none() && app.models.are_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let models = models.into_iter().map(ModelHealth::from).collect();
    (status, Json(Health { ready, live: true, reason: held.or(not_ready), models }))
}

fn complaint(model: &ModelDescription) -> String {
    format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("not ready"))
}

impl From<ModelDescription> for ModelHealth {
    fn from(model: ModelDescription) -> Self {
        let ModelDescription { name, version, state, device, reason, .. } = model;
        Self { name, version, state, device, reason }
    }
}
