use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::asked::Asked;
use super::{Rest, reply, server};
use crate::{Error, InferenceServer, model_config, report_statistics};

/// `GET /v2/models`, as KServe has it.
pub(super) async fn list<S: InferenceServer>(State(rest): State<Rest<S>>) -> Response {
    let names: BTreeSet<String> = rest.server.models().iter().map(|model| model.name.clone()).collect();
    reply::json(&json!({"models": names}))
}

/// `GET /v2/models/{model}`
pub(super) async fn metadata<S: InferenceServer>(State(rest): State<Rest<S>>, asked: Asked) -> Result<Response, Error> {
    let model = rest.server.model(&asked.model, asked.version.as_deref())?;
    Ok(reply::json(&json!({
        "name": model.name,
        "versions": rest.server.versions(&model.name),
        "platform": model.platform.name(),
        "inputs": model.inputs,
        "outputs": model.outputs,
        "parameters": model.parameters(),
    })))
}

/// `GET …/ready`
pub(super) async fn ready<S: InferenceServer>(State(rest): State<Rest<S>>, asked: Asked) -> Result<Response, Error> {
    let ready = rest.server.is_model_ready(&asked.model, asked.version.as_deref())?;
    Ok((server::status(ready), reply::json(&json!({"name": asked.model, "ready": ready}))).into_response())
}

/// `GET …/config`
pub(super) async fn config<S: InferenceServer>(State(rest): State<Rest<S>>, asked: Asked) -> Result<Response, Error> {
    let model = rest.server.model(&asked.model, asked.version.as_deref())?;
    Ok(reply::json(&model_config(&model, rest.server.caches_results(&model))))
}

/// `GET …/stats`
pub(super) async fn statistics<S: InferenceServer>(
    State(rest): State<Rest<S>>,
    asked: Asked,
) -> Result<Response, Error> {
    let report = report_statistics(&rest.server, Some(&asked.model), asked.version.as_deref())?;
    Ok(reply::json(&json!({"model_stats": report})))
}

/// `GET /v2/models/stats`
pub(super) async fn all_statistics<S: InferenceServer>(State(rest): State<Rest<S>>) -> Result<Response, Error> {
    Ok(reply::json(&json!({"model_stats": report_statistics(&rest.server, None, None)?})))
}
