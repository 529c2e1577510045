use axum::Json;
use axum::extract::State;
use contract::valid_model_name;
use serde::Serialize;
use tracing::warn;

use crate::app::App;
use crate::error::Error;
use crate::model_name::ModelName;

/// How many answers were forgotten.
#[derive(Debug, Serialize)]
pub struct Forgotten {
    model: String,
    forgotten: u64,
}

/// Forgets a model's answers, near and in Redis, on every replica.
pub async fn forget(State(app): State<App>, ModelName(model): ModelName) -> Result<Json<Forgotten>, Error> {
    let model = model.unwrap_or_default();
    // A model that is served no more may still be remembered.
    if !valid_model_name(&model) {
        app.catalog.find(Some(&model))?;
    }
    let forgotten = app.memory.invalidate_model(&model).await.map_err(|error| {
        warn!(%error, model, "cannot forget");
        Error::MemoryUnavailable
    })?;
    // Or a job of the same content would bring answers back.
    app.jobs.clear_dedup(&model).await?;
    if forgotten == 0 {
        app.catalog.find(Some(&model))?;
    }
    Ok(Json(Forgotten { model, forgotten }))
}
