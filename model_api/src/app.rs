use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use open_inference::{Statistics, Tensor, grpc, rest};
use service::body_limits::BodyReader;
use service::instrument::{HttpMetrics, instrument};
use service::readiness::Readiness;
use service::request_guard::RequestGuard;

use crate::decoder::Decoder;
use crate::error::Error;
use crate::image_input::ImageLimits;
use crate::memory::{Budget, Reserved, bytes_of};
use crate::metrics::Metrics;
use crate::models::Models;
use crate::repository_access::RepositoryAccess;
use crate::routes::{fallback, health, home, input, list, predict};
use crate::v2::V2;

/// What every route can reach.
pub struct App {
    /// Every model that was asked for.
    pub models: Arc<Models>,
    /// Where pictures and lists become tensors.
    pub decoder: Decoder,
    /// Of one picture.
    pub image_limits: ImageLimits,
    /// Of the inputs of all requests that wait or run.
    pub inputs: Budget,
    /// Of bodies.
    pub bodies: BodyReader,
    /// Held by whoever wants no traffic.
    pub readiness: Readiness,
    /// Which requests reach their routes.
    pub guard: RequestGuard,
    /// Which of them may load and unload models.
    pub repository_access: RepositoryAccess,
    /// What is counted.
    pub metrics: Metrics,
    /// What is counted for the protocol's clients.
    pub statistics: Statistics,
}

impl App {
    /// Reserves memory for inputs, until the last copy of them is dropped.
    pub fn hold(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Error> {
        Ok(self.reserve(bytes_of(&inputs))?.hold_all(inputs))
    }

    /// Reserves memory for inputs of so many bytes.
    pub fn reserve(&self, bytes: usize) -> Result<Reserved, Error> {
        self.inputs.try_reserve(bytes).ok_or_else(|| Error::InputsFull(self.inputs.bytes()))
    }
}

/// Live and ready, for the listener that is never published: its places are free for health checks.
pub fn health_router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .with_state(Arc::clone(app))
}

/// All routes, without a socket.
pub fn router(app: &Arc<App>, http: HttpMetrics) -> Router {
    let app = Arc::clone(app);
    let guard = app.guard.clone();
    let server = V2(Arc::clone(&app));
    let protocol = rest::router(server.clone(), app.bodies.clone()).merge(grpc::router(server, app.bodies.clone()));
    let routes = Router::new()
        .route("/", get(home::greet))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/models", get(list::models))
        .route("/predict_array", post(predict::predict_array))
        .route("/predict_array/{model}", post(predict::predict_array))
        .route("/input/{model}", post(input::as_the_model_sees_it))
        .fallback(fallback::no_such_route)
        .method_not_allowed_fallback(fallback::no_such_method)
        .with_state(app)
        .merge(protocol);
    instrument(routes, http, guard)
}
