use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use open_inference::{grpc, rest};
use service::instrument::instrument_with;

use crate::error::Error;
use crate::http::conditional_layer::ConditionalLayer;
use crate::http::{cors, security_headers};
use crate::jobs::executor::JobExecutor;
use crate::jobs::worker::JobWorker;
use crate::routes::{assets, cache, docs, health, jobs, legacy_array, page, predict, preview};
use crate::settings::JobSettings;
use crate::state::AppState;

/// Router of the public port. It needs no socket.
pub fn router(app: &AppState) -> Router {
    let respond_async = from_fn_with_state(app.clone(), jobs::respond_async::respond_async);
    let respond_async = ConditionalLayer { applies: jobs::respond_async::prefers_async, layer: respond_async };
    let routes = Router::new()
        .route("/", get(page::show))
        .route("/input/{model}", post(preview::preview))
        .route("/web_api", post(legacy_array::predict_array))
        .route("/web_api/{model}", post(legacy_array::predict_array))
        .route("/cache/{model}", delete(cache::invalidate))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .route("/openapi.json", get(docs::openapi))
        .route("/v2/docs", get(docs::redirect))
        .route("/v2/models/{model}/docs", get(docs::redirect_to_model))
        .route("/v2/models/{model}/versions/{version}/docs", get(docs::redirect_to_model))
        .route("/static/{file}", get(assets::file))
        .merge(job_routes(app))
        .method_not_allowed_fallback(async |method| Error::MethodNotAllowed(method))
        .fallback(async || Error::RouteNotFound)
        .with_state(app.clone())
        .merge(inference_routes(app).layer(respond_async))
        .merge(health_routes(app))
        // Merged after the fallbacks, because gRPC answers an unknown method with its own status.
        .merge(grpc::router(app.clone(), app.bodies.clone()));
    let routes = cors::allow(routes, app.guard.origins());
    instrument_with(routes, app.http.clone(), app.guard.clone(), security_headers::add_headers)
}

fn job_routes(app: &AppState) -> Router<AppState> {
    Router::new()
        .route("/jobs", post(jobs::submit::submit).get(jobs::job::list))
        .route("/jobs/{id}", get(jobs::job::show).delete(jobs::job::cancel))
        .route("/jobs/{id}/retry", post(jobs::job::retry))
        .route("/jobs/{id}/events", get(jobs::events::stream))
        .route("/jobs/{id}/results", get(jobs::results::download))
        .layer(Extension(job_executor(app)))
}

/// Synchronous inference: `/predict` and the REST routes of the Open Inference Protocol.
fn inference_routes(app: &AppState) -> Router {
    Router::new()
        .route("/predict", post(predict::predict))
        .route("/predict/{model}", post(predict::predict))
        .method_not_allowed_fallback(async |method| Error::MethodNotAllowed(method))
        .with_state(app.clone())
        .merge(rest::router(app.clone(), app.bodies.clone()))
}

/// Executor of job inputs. It sends them through the same inference routes.
fn job_executor(app: &AppState) -> JobExecutor {
    JobExecutor::new(inference_routes(app))
}

/// Builds the job worker. It consumes nothing before its `run` is polled.
pub fn job_worker(app: &AppState, settings: &JobSettings) -> JobWorker {
    JobWorker::new(
        app.jobs.clone(),
        app.catalog.clone(),
        job_executor(app),
        app.metrics.clone(),
        app.predictor.throttle().clone(),
        *settings,
    )
    .with_webhooks(app.webhooks.clone())
}

/// Router of a process that only works on jobs: health routes, and 404 for everything else.
pub fn health_router(app: &AppState) -> Router {
    let routes = health_routes(app).fallback(async || Error::RouteNotFound);
    instrument_with(routes, app.http.clone(), app.guard.clone(), security_headers::add_headers)
}

/// Liveness and readiness. The metrics listener serves them, too, so that probes do not compete for connections of the public port.
pub fn health_routes(app: &AppState) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .method_not_allowed_fallback(async |method| Error::MethodNotAllowed(method))
        .with_state(app.clone())
}
