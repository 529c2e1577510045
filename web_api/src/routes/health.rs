use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use contract::ModelDescription;
use http::StatusCode;
use open_inference::ModelState;
use serde::Serialize;
use serde_json::{Value, json};

use crate::state::AppState;

/// Liveness: the process runs.
pub async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// Readiness: whether the service can do its work, which parts are degraded, and why.
pub async fn ready(State(app): State<AppState>) -> impl IntoResponse {
    let snapshot = app.catalog.snapshot();
    let reason = app.readiness.reason().or_else(|| snapshot.reason());
    let ready = reason.is_none();
    let redis = match app.cache.redis() {
        None => "off",
        Some(redis) if redis.is_available() => "ready",
        Some(_) => "unavailable",
    };
    let uses_fallback = |model: &ModelDescription| model.device.as_ref().is_some_and(|d| d.fallback_reason.is_some());
    let mut degraded = Vec::new();
    if redis == "unavailable" {
        degraded.push("redis");
    }
    // Without Redis, durable jobs are unavailable, too. That is not reported twice.
    if redis != "unavailable" && app.queue_probe.is_unavailable() {
        degraded.push("jobs");
    }
    if snapshot.models.iter().any(uses_fallback) {
        degraded.push("gpu");
    }
    if snapshot.reachable && !snapshot.models.iter().all(ModelDescription::is_ready) {
        degraded.push("models");
    }
    let body = json!({
        "live": true,
        "ready": ready,
        "reason": reason,
        "app_type": app.app_type.as_str(),
        "degraded": degraded,
        "memory": { "kind": if redis == "off" { "near" } else { "near+redis" }, "redis": redis },
        "jobs": app.queue_probe.to_json(),
        "model_api": { "running": snapshot.reachable, "ready": snapshot.reason().is_none(), "reason": snapshot.reason() },
        "models": snapshot.models.iter().map(ModelHealth::from).collect::<Vec<_>>(),
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

#[derive(Serialize)]
struct ModelHealth<'a> {
    name: &'a str,
    version: &'a str,
    state: ModelState,
    device: Option<&'a contract::Device>,
    reason: Option<&'a str>,
}

impl<'a> From<&'a ModelDescription> for ModelHealth<'a> {
    fn from(model: &'a ModelDescription) -> Self {
        Self {
            name: &model.name,
            version: &model.version,
            state: model.state,
            device: model.device.as_ref(),
            reason: model.reason.as_deref(),
        }
    }
}
