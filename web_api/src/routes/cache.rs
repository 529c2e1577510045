use axum::Json;
use axum::extract::State;
use contract::valid_model_name;
use serde::Serialize;
use tracing::warn;

use crate::error::Error;
use crate::http::extract::model_name::ModelName;
use crate::state::AppState;

/// Response body of `DELETE /cache/{model}`.
#[derive(Debug, Serialize)]
pub struct Invalidated {
    model: String,
    /// Number of results that were removed.
    #[serde(rename = "forgotten")]
    removed: u64,
}

/// Invalidates the cached results of a model: in this process, in Redis, and through Redis in all other processes.
pub async fn invalidate(State(app): State<AppState>, ModelName(model): ModelName) -> Result<Json<Invalidated>, Error> {
    let model = model.unwrap_or_default();
    // Results of a model that is no longer served may still be cached.
    if !valid_model_name(&model) {
        app.catalog.find(Some(&model))?;
    }
    let removed = app.cache.invalidate_model(&model).await.map_err(|error| {
        warn!(%error, model, "cache invalidation failed");
        Error::CacheUnavailable
    })?;
    // Otherwise a job that is deduplicated against an earlier one would return old results.
    app.jobs.clear_dedup(&model).await?;
    if removed == 0 {
        app.catalog.find(Some(&model))?;
    }
    Ok(Json(Invalidated { model, removed }))
}
