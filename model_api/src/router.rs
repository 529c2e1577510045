use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use open_inference::{grpc, rest};
use service::instrument::{HttpMetrics, instrument};

use crate::routes::open_inference::OpenInferenceService;
use crate::routes::{fallback, health, models, predict, preview, root};
use crate::state::AppState;

/// Health routes for the metrics listener. It is never published, so its connections stay free for health checks.
pub fn health_router(state: &Arc<AppState>) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .with_state(Arc::clone(state))
}

/// All routes, without a socket.
pub fn router(state: &Arc<AppState>, http: HttpMetrics) -> Router {
    let state = Arc::clone(state);
    let guard = state.guard.clone();
    let service = OpenInferenceService(Arc::clone(&state));
    let bodies = || state.body_reader.clone();
    let protocol = rest::router(service.clone(), bodies()).merge(grpc::router(service, bodies()));
    let routes = Router::new()
        .route("/", get(root::greet))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/models", get(models::list))
        .route("/predict_array", post(predict::predict_array))
        .route("/predict_array/{model}", post(predict::predict_array))
        .route("/input/{model}", post(preview::preview))
        .fallback(fallback::no_such_route)
        .method_not_allowed_fallback(fallback::no_such_method)
        .with_state(state)
        .merge(protocol);
    instrument(routes, http, guard)
}
