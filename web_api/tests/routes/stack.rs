//! A `web_api` over a fake `model_api`, and what can be sent to it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use contract::ModelDescription;
use db_api::jobs::{JobLimits, Jobs};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use service::readiness::Readiness;
use service::request_guard::RequestGuard;
use service::settings::ServerSettings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::ServiceExt;
use web_api::app::{App, job_worker, router};
use web_api::catalog::Catalog;
use web_api::job_worker::JobWorker;
use web_api::settings::{AppType, JobSettings, Settings};

use crate::fake_model_api::{FakeModelApi, model};

pub struct Stack {
    pub app: Router,
    pub model_api: FakeModelApi,
    pub registry: Registry,
    /// The parts behind the routes.
    pub parts: App,
    pub jobs: Jobs,
    pub worker: JobWorker,
    catalog: Catalog,
    background: JoinHandle<()>,
    server: JoinHandle<()>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Stack {
    /// Serves `names`; ready when this returns.
    pub async fn start(app_type: AppType, names: &[&str]) -> Self {
        Self::serving(names.iter().map(|name| model(name)).collect(), |settings| settings.app_type = app_type).await
    }

    /// Serves `models` with settings that `change` has changed.
    pub async fn serving(models: Vec<ModelDescription>, change: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = settings(&format!("http://{}", listener.local_addr().unwrap()));
        change(&mut settings);
        let model_api = FakeModelApi::serving(models);
        let server = {
            let routes = model_api.clone().router(&settings.server);
            let settings = settings.server.clone();
            tokio::spawn(async move {
                let ready = Readiness::default();
                let _ = service::http_server::serve(listener, routes, &settings, &ready, std::future::pending()).await;
            })
        };
        let mut registry = Registry::default();
        let (app, background) = App::new(&settings, &mut registry).unwrap();
        let worker = job_worker(&app, &settings.jobs);
        let working = worker.clone().run();
        let background = tokio::spawn(async move { tokio::join!(background, working).0 });
        let catalog = app.catalog.clone();
        while !catalog.known().reachable {
            sleep(Duration::from_millis(5)).await;
        }
        let jobs = app.jobs.clone();
        Self { app: router(&app), model_api, registry, parts: app, jobs, worker, catalog, background, server }
    }

    /// Changes what `model_api` serves, and waits until that is known.
    pub async fn change(&self, change: impl FnOnce(&mut Vec<ModelDescription>)) {
        let models = {
            let mut models = self.model_api.models.lock().unwrap();
            change(&mut models);
            models.clone()
        };
        while *self.catalog.known().models != models {
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub fn runs(&self) -> usize {
        self.model_api.runs.load(Ordering::SeqCst)
    }

    pub fn rows(&self) -> usize {
        self.model_api.rows.load(Ordering::SeqCst)
    }

    pub fn metrics(&self) -> String {
        let mut metrics = String::new();
        prometheus_client::encoding::text::encode(&mut metrics, &self.registry).unwrap();
        metrics
    }

    /// As if `model_api` had died.
    pub async fn stop_model_api(&self) {
        self.server.abort();
        while self.send(get_request("/health/ready")).await.status == StatusCode::OK {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.background.abort();
        self.server.abort();
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub fn get_request(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

pub fn image_request(path: &str, image: &str) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, "image/png").body(Body::from(image.to_owned())).unwrap()
}

/// A form of (name, file name or none, content).
pub fn form_request(path: &str, fields: &[(&str, Option<&str>, &str)]) -> Request<Body> {
    let mut body = String::new();
    for (name, file, content) in fields {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\"\r\nContent-Type: image/png"));
        let head = format!("Content-Disposition: form-data; name=\"{name}\"{file}");
        body.extend(["--frontier\r\n", &head, "\r\n\r\n", content, "\r\n"]);
    }
    body += "--frontier--\r\n";
    let content_type = "multipart/form-data; boundary=frontier";
    Request::post(path).header(header::CONTENT_TYPE, content_type).body(Body::from(body)).unwrap()
}

pub fn settings(model_api: &str) -> Settings {
    let any = "127.0.0.1:0".parse().unwrap();
    Settings {
        server: ServerSettings {
            address: any,
            metrics_address: any,
            max_connections: 1000,
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            max_body_bytes: 1 << 20,
            body_memory_bytes: 64 << 20,
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
        },
        guard: RequestGuard::default(),
        model_api_secret: None,
        app_type: AppType::Cli,
        model_api: vec![model_api.parse().unwrap()],
        request_timeout: Duration::from_secs(1),
        max_concurrent_requests: 8,
        repository_api: true,
        redis_url: None,
        redis_timeout: Duration::from_millis(50),
        cache_ttl: Duration::from_hours(1),
        near_cache_bytes: 1 << 20,
        jobs: JobSettings {
            concurrency: 4,
            list: true,
            max_inputs: 10,
            max_bytes: 3 << 20,
            unavailable_timeout: Duration::from_millis(300),
            limits: JobLimits {
                ttl: Duration::from_hours(1),
                queue_length: 20,
                repeat_within: Duration::from_hours(1),
                claim_after: Duration::from_secs(1),
                max_deliveries: 3,
            },
        },
        webhooks: None,
    }
}
