//! The router without a socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use model_api::blocking_pool::BlockingPool;
use model_api::memory::Budget;
use model_api::metrics::Metrics;
use model_api::model::loader::LoadSettings;
use model_api::preprocessing::ImageLimits;
use model_api::registry::ModelRegistry;
use model_api::repository::Repository;
use model_api::repository::RepositoryAccess;
use model_api::repository::Selection;
use model_api::router::router;
use model_api::scheduler::QueueLimits;
use model_api::session::Launcher;
use model_api::state::AppState;
use open_inference::Statistics;
use prometheus_client::registry::Registry;
use serde_json::Value;
use service::body_limits::BodyReader;
use service::instrument::HttpMetrics;
use service::readiness::Readiness;
use service::request_guard::RequestGuard;
use service::settings::ServerSettings;
use tower::ServiceExt;

use super::folder::Folder;

/// Size limit of request bodies.
pub const MAX_BODY_BYTES: usize = 256 << 10;

/// The router over all models of a folder, without a socket.
pub struct Service {
    pub models: Arc<ModelRegistry>,
    pub readiness: Readiness,
    pub metrics: Metrics,
    router: Router,
    pub folder: Folder,
}

/// A response, read to its end.
pub struct Response {
    pub status: StatusCode,
    pub media_type: String,
    pub retry_after: Option<String>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Service {
    pub fn new<L: Launcher>(folder: Folder, launcher: &L) -> Self {
        Self::with_selection(folder, launcher, &Selection::All)
    }

    /// With this `MODEL_NAME`.
    pub fn with_selection<L: Launcher>(folder: Folder, launcher: &L, selection: &Selection) -> Self {
        Self::with_access(folder, launcher, selection, RepositoryAccess::Loopback)
    }

    /// With this policy for loads and unloads.
    pub fn with_access<L: Launcher>(
        folder: Folder,
        launcher: &L,
        selection: &Selection,
        repository_access: RepositoryAccess,
    ) -> Self {
        let mut registry = Registry::default();
        let (metrics, http) = (Metrics::register(&mut registry), HttpMetrics::register(&mut registry));
        let settings = LoadSettings {
            threads: 1,
            queue: QueueLimits { rows: 4, bytes: 1 << 20 },
            run_timeout: Duration::from_secs(5),
        };
        let repository = Repository::new(folder.path()).with_selection(selection.clone());
        let models = repository.select_models(selection).unwrap_or_default();
        let models = ModelRegistry::start(repository, models, launcher, settings, &metrics);
        let server = ServerSettings { max_body_bytes: MAX_BODY_BYTES, ..ServerSettings::from_env(0, 0).unwrap() };
        let readiness = Readiness::default();
        let state = Arc::new(AppState {
            registry: Arc::clone(&models),
            decoder: BlockingPool::new(1, 4),
            image_limits: ImageLimits::default(),
            input_budget: Budget::new(64 << 20),
            body_reader: BodyReader::new(&server),
            readiness: readiness.clone(),
            guard: RequestGuard::private(server.address.ip(), Vec::new()),
            repository_access,
            metrics: metrics.clone(),
            statistics: Statistics::default(),
        });
        Self { models, readiness, metrics, router: router(&state, http), folder }
    }

    /// Waits until every model is warm.
    pub async fn warm(self) -> Self {
        while !self.models.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, media_type: &str, body: impl Into<Body>) -> Response {
        let request = Request::post(path).header(header::CONTENT_TYPE, media_type).body(body.into()).unwrap();
        self.send(request).await
    }

    pub async fn post_with(&self, path: &str, headers: HeaderMap, body: Bytes) -> Response {
        let mut request = Request::post(path).body(Body::from(body)).unwrap();
        request.headers_mut().extend(headers);
        self.send(request).await
    }

    pub async fn post_json(&self, path: &str, body: &str) -> Response {
        self.post(path, "application/json", body.to_owned()).await
    }

    async fn send(&self, request: Request<Body>) -> Response {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Response {
            status: response.status(),
            media_type: header(header::CONTENT_TYPE).unwrap_or_default(),
            retry_after: header(header::RETRY_AFTER),
            headers: response.headers().clone(),
            body: response.into_body().collect().await.unwrap().to_bytes().to_vec(),
        }
    }
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Status and message of an error of the Open Inference Protocol.
    pub fn error(&self) -> (u16, String) {
        assert_eq!(self.media_type, "application/json");
        (self.status.as_u16(), self.json()["error"].as_str().expect("an error").to_owned())
    }

    /// Status and detail of a problem.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.media_type, "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        (self.status.as_u16(), body["detail"].as_str().expect("a detail").to_owned())
    }
}
