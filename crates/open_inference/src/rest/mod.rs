/// Bodies packed with gzip.
mod gzip;

/// Bodies and answers that travel compressed.
mod packing;

/// Whose model a route's path names.
mod asked;

/// Errors, JSON and its binary tail as HTTP answers.
mod reply;

/// The server itself: live, ready, name.
mod server;

/// Models: what they are, how they do.
mod models;

/// `infer` and `infer_stream`.
mod infer;

/// What a request's body is: JSON with or without a tail, one tensor, or one picture.
mod request;

/// The repository: index, load, unload.
mod repository;

use axum::Router;
use axum::extract::Request;
use axum::routing::{any, get, post};
use service::body_limits::BodyReader;

use self::packing::PackingLayer;
use crate::check::shown;
use crate::{Error, InferenceServer};

/// What a route has at hand.
#[derive(Clone)]
struct Rest<S> {
    server: S,
    bodies: BodyReader,
}

/// All routes of the protocol over HTTP, from `/v2` on; what is not there gets the protocol's error.
///
/// Bodies may come compressed; they are bounded as they unpack. Answers are compressed for whoever accepts it.
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
        .method_not_allowed_fallback(wrong_method)
        .route("/v2/{*rest}", any(nothing_there))
        .layer(PackingLayer(bodies.clone()))
        .with_state(Rest { server, bodies })
}

async fn wrong_method(request: Request) -> Error {
    let method = shown(request.method().as_str());
    Error::new(http::StatusCode::METHOD_NOT_ALLOWED, format!("this route does not know the method {method}"))
}

async fn nothing_there(request: Request) -> Error {
    let path = shown(request.uri().path());
    Error::new(http::StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
}
