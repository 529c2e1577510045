use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use tracing::warn;

use crate::app::App;
use crate::error::Error;

/// How many answers were forgotten.
#[derive(Debug, Serialize)]
pub struct Forgotten {
    model: String,
    forgotten: u64,
}

/// Forgets a model's answers, near and in Redis, on every replica.
pub async fn forget(State(app): State<App>, Path(model): Path<String>) -> Result<Json<Forgotten>, Error> {
    let model = app.catalog.find(Some(&model))?.name;
    let forgotten = app.memory.forget(&model).await.map_err(|error| {
        warn!(%error, model, "cannot forget");
        Error::MemoryUnavailable
    })?;
    Ok(Json(Forgotten { model, forgotten }))
}
