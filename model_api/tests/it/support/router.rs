use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use model_api::app::{App, router};
use model_api::decoder::Decoder;
use model_api::image_input::ImageLimits;
use model_api::loader::LoadSettings;
use model_api::memory::Budget;
use model_api::metrics::Metrics;
use model_api::models::Models;
use model_api::pool::QueueLimits;
use model_api::repository::Repository;
use model_api::repository_access::RepositoryAccess;
use model_api::session::Launcher;
use model_api::settings::Selection;
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

/// Larger than any body of these tests but one.
pub const MAX_BODY_BYTES: usize = 256 << 10;

/// The router over all models of a folder, without a socket.
pub struct Service {
    pub models: Arc<Models>,
    pub readiness: Readiness,
    pub metrics: Metrics,
    router: Router,
    pub folder: Folder,
}

/// A response, read to its end.
pub struct Answer {
    pub status: StatusCode,
    pub media_type: String,
    pub retry_after: Option<String>,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Service {
    pub fn new<L: Launcher>(folder: Folder, launcher: &L) -> Self {
        Self::selecting(folder, launcher, &Selection::All)
    }

    /// With this `MODEL_NAME`.
    pub fn selecting<L: Launcher>(folder: Folder, launcher: &L, selection: &Selection) -> Self {
        Self::with_access(folder, launcher, selection, RepositoryAccess::Loopback)
    }

    /// Loaded and unloaded by these clients.
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
        let repository = Repository::new(folder.path()).selecting(selection.clone());
        let models = repository.select(selection).unwrap_or_default();
        let models = Models::start(repository, models, launcher, settings, &metrics);
        let server = ServerSettings { max_body_bytes: MAX_BODY_BYTES, ..ServerSettings::from_env(0, 0).unwrap() };
        let readiness = Readiness::default();
        let app = Arc::new(App {
            models: Arc::clone(&models),
            decoder: Decoder::new(1, 4),
            image_limits: ImageLimits::default(),
            inputs: Budget::new(64 << 20),
            bodies: BodyReader::new(&server),
            readiness: readiness.clone(),
            guard: RequestGuard::private(server.address.ip(), Vec::new()),
            repository_access,
            metrics: metrics.clone(),
            statistics: Statistics::default(),
        });
        Self { models, readiness, metrics, router: router(&app, http), folder }
    }

    /// Waits until every model is warm.
    pub async fn warm(self) -> Self {
        while !self.models.are_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, media_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, media_type).body(body.into()).unwrap();
        self.ask(request).await
    }

    pub async fn post_with(&self, path: &str, headers: HeaderMap, body: Bytes) -> Answer {
        let mut request = Request::post(path).body(Body::from(body)).unwrap();
        request.headers_mut().extend(headers);
        self.ask(request).await
    }

    pub async fn post_json(&self, path: &str, body: &str) -> Answer {
        self.post(path, "application/json", body.to_owned()).await
    }

    async fn ask(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        Answer {
            status: response.status(),
            media_type: header(header::CONTENT_TYPE).unwrap_or_default(),
            retry_after: header(header::RETRY_AFTER),
            headers: response.headers().clone(),
            body: response.into_body().collect().await.unwrap().to_bytes().to_vec(),
        }
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The status and the words of an error of the Open Inference Protocol.
    pub fn error(&self) -> (u16, String) {
        assert_eq!(self.media_type, "application/json");
        (self.status.as_u16(), self.json()["error"].as_str().expect("an error").to_owned())
    }

    /// The status and the words of a problem.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.media_type, "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        (self.status.as_u16(), body["detail"].as_str().expect("a detail").to_owned())
    }
}
