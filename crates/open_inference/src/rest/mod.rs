//! REST transport of the protocol: routes, bodies, content negotiation and compression.

mod compression;
mod gzip;
mod infer;
mod models;
mod path;
mod repository;
mod request;
mod response;
mod server;
mod state;
mod yielding_body;

use axum::Router;
use axum::extract::Request;
use axum::routing::{any, get, post};
use http::StatusCode;
use service::body_limits::BodyReader;

use self::compression::ConditionalCompressionLayer;
use self::state::RestState;
use crate::error::Error;
use crate::server::InferenceServer;
use crate::truncate::quoted;

/// Builds all routes of the protocol below `/v2`. Unknown paths below it get the protocol's error format.
///
/// Request bodies may be compressed, and are limited by their decompressed size. Inference responses are compressed
/// where the client accepts it.
pub fn router<S: InferenceServer>(server: S, bodies: BodyReader) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server::metadata))
        .route("/v2/health/live", get(server::live))
        .route("/v2/health/ready", get(server::ready::<S>))
        .route("/v2/models", get(models::list::<S>))
        .route("/v2/models/stats", get(models::all_statistics::<S>))
        .route("/v2/repository/index", post(repository::index::<S>))
        .route("/v2/repository/models/{model}/load", post(repository::load::<S>))
        .route("/v2/repository/models/{model}/unload", post(repository::unload::<S>));
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(model, get(models::metadata::<S>))
            .route(&format!("{model}/ready"), get(models::ready::<S>))
            .route(&format!("{model}/config"), get(models::config::<S>))
            .route(&format!("{model}/stats"), get(models::statistics::<S>))
            .route(&format!("{model}/infer"), post(infer::infer::<S>))
            .route(&format!("{model}/infer_stream"), post(infer::infer_stream::<S>));
    }
    router
        .route("/v2/", get(server::metadata))
        .method_not_allowed_fallback(method_not_allowed)
        .route("/v2/{*rest}", any(not_found))
        .layer(ConditionalCompressionLayer(bodies.clone()))
        .with_state(RestState { server, bodies })
}

async fn method_not_allowed(request: Request) -> Error {
    let method = quoted(request.method().as_str());
    Error::new(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} is not allowed for this route"))
}

async fn not_found(request: Request) -> Error {
    let path = quoted(request.uri().path());
    Error::new(StatusCode::NOT_FOUND, format!("there is no route {path}"))
}
