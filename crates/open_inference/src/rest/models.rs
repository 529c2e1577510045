//! Routes of model metadata, readiness, configuration and statistics.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::path::ModelPath;
use super::state::RestState;
use super::{response, server};
use crate::error::Error;
use crate::server::{InferenceServer, report_statistics};
use crate::triton_config::model_config;

/// `GET /v2/models`, KServe's extension
pub(super) async fn list<S: InferenceServer>(State(state): State<RestState<S>>) -> Response {
    let names: BTreeSet<String> = state.server.models().iter().map(|model| model.name.clone()).collect();
    response::json(&json!({"models": names}))
}

/// `GET /v2/models/{model}`
pub(super) async fn metadata<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
) -> Result<Response, Error> {
    let model = state.server.model(&path.model, path.version.as_deref())?;
    Ok(response::json(&json!({
        "name": model.name,
        "versions": state.server.versions(&model.name),
        "platform": model.platform.name(),
        "inputs": model.inputs,
        "outputs": model.outputs,
        "parameters": model.parameters(),
    })))
}

/// `GET …/ready`
pub(super) async fn ready<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
) -> Result<Response, Error> {
    let ready = state.server.is_model_ready(&path.model, path.version.as_deref())?;
    Ok((server::health_status(ready), response::json(&json!({"name": path.model, "ready": ready}))).into_response())
}

/// `GET …/config`
pub(super) async fn config<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
) -> Result<Response, Error> {
    let model = state.server.model(&path.model, path.version.as_deref())?;
    Ok(response::json(&model_config(&model, state.server.caches_results(&model))))
}

/// `GET …/stats`
pub(super) async fn statistics<S: InferenceServer>(
    State(state): State<RestState<S>>,
    path: ModelPath,
) -> Result<Response, Error> {
    let report = report_statistics(&state.server, Some(&path.model), path.version.as_deref())?;
    Ok(response::json(&json!({"model_stats": report})))
}

/// `GET /v2/models/stats`
pub(super) async fn all_statistics<S: InferenceServer>(State(state): State<RestState<S>>) -> Result<Response, Error> {
    Ok(response::json(&json!({"model_stats": report_statistics(&state.server, None, None)?})))
}
