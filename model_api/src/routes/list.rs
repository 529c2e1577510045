use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::ModelList;

use crate::app::App;

/// `GET /models`: every model that was asked for, served or not.
pub async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    Json(ModelList { models: app.models.list(), ready: app.models.are_ready(), unselected: app.models.unselected() })
}
