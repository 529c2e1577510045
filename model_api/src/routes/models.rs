use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use contract::ModelList;

use crate::state::AppState;

/// `GET /models`: every model that is served or is to be served.
pub async fn list(State(state): State<Arc<AppState>>) -> Json<ModelList> {
    let registry = &state.registry;
    Json(ModelList { models: registry.list(), ready: registry.is_ready(), unselected: registry.unselected() })
}
