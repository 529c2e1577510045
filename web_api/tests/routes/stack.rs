//! A `web_api` over a `model_api` that counts its runs and answers what a test tells it to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Body};
use contract::{ClassScore, Device, ImageInput, ModelDescription, ModelList, Prediction};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use open_inference::{Datatype, ModelState, Provenance, TensorMetadata, Timing};
use prometheus_client::registry::Registry;
use service::problem::Problem;
use service::readiness::Readiness;
use service::settings::ServerSettings;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::ServiceExt;
use web_api::app::{App, router};
use web_api::settings::{AppType, Settings};

pub struct Stack {
    pub app: Router,
    pub model_api: Arc<FakeModelApi>,
    pub registry: Registry,
    background: JoinHandle<()>,
    server: JoinHandle<()>,
}

#[derive(Default)]
pub struct FakeModelApi {
    pub runs: AtomicUsize,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

pub fn model(name: &str) -> ModelDescription {
    let mut output = TensorMetadata::new("probabilities", Datatype::Fp32, &[-1, 2]);
    output.parameters.labels = vec!["0".to_owned(), "</script>".to_owned()];
    ModelDescription {
        title: format!("Title of {name}"),
        notice: (name == "medical").then(|| "Not for clinical use.".to_owned()),
        digest: format!("sha256:{name}"),
        device: Some(Device { name: "cpu".to_owned(), stepped_down: None, runtime: "1.31.1".to_owned() }),
        outputs: vec![output],
        image: Some(ImageInput { width: 28, height: 28, color: "gray".to_owned(), fit: "digit".to_owned() }),
        ..ModelDescription::unread(name, "1", ModelState::Ready, None)
    }
}

impl Stack {
    /// Serves `names`; ready when this returns.
    pub async fn start(app_type: AppType, names: &[&str]) -> Self {
        let models = ModelList { models: names.iter().map(|name| model(name)).collect(), ready: !names.is_empty() };
        let model_api = Arc::new(FakeModelApi::default());
        let routes = Router::new()
            .route("/models", get(Json(models)))
            .route("/predict/{model}", post(predict))
            .route("/input/{model}", post(|| async { b"\x89PNG seen".to_vec() }))
            .with_state(Arc::clone(&model_api));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let settings = settings(app_type, &url);
        let server = {
            let settings = settings.server.clone();
            tokio::spawn(async move {
                let ready = Readiness::default();
                let _ = service::server::serve(listener, routes, &settings, &ready, std::future::pending()).await;
            })
        };
        let mut registry = Registry::default();
        let (app, background) = App::new(&settings, &mut registry).unwrap();
        let background = tokio::spawn(background);
        while !app.catalog.known().reachable {
            sleep(Duration::from_millis(5)).await;
        }
        Self { app: router(app), model_api, registry, background, server }
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

/// `text` is the image that cannot be read, `slow` the one that takes long.
async fn predict(State(fake): State<Arc<FakeModelApi>>, Path(name): Path<String>, body: String) -> Response {
    fake.runs.fetch_add(1, Ordering::SeqCst);
    match body.as_str() {
        "text" => return refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not an image we read"),
        "slow" => sleep(Duration::from_millis(200)).await,
        "stuck" => sleep(Duration::from_mins(1)).await,
        _ => {}
    }
    let score = |label: &str, value| ClassScore { label: label.to_owned(), value };
    Json(Prediction {
        provenance: Provenance {
            model_digest: format!("sha256:{name}"),
            device: "cpu".to_owned(),
            timing_ms: Timing { decode: 0.1, queue: 0.2, infer: 0.3 },
        },
        model: name,
        version: "1".to_owned(),
        cls: 1,
        label: "one".to_owned(),
        value: 0.75,
        probabilities: vec![score("zero", 0.25), score("one", 0.75)],
    })
    .into_response()
}

fn refusal(status: StatusCode, detail: &str) -> Response {
    let problem = Problem { title: String::new(), status: status.as_u16(), detail: detail.to_owned() };
    (status, Json(problem)).into_response()
}

fn settings(app_type: AppType, model_api: &str) -> Settings {
    let any = "127.0.0.1:0".parse().unwrap();
    Settings {
        server: ServerSettings {
            address: any,
            metrics_address: any,
            max_connections: 1000,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(5),
            max_body_bytes: 1 << 20,
            body_memory_bytes: 64 << 20,
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
        },
        app_type,
        model_api: vec![model_api.parse().unwrap()],
        request_timeout: Duration::from_secs(1),
        max_concurrent_requests: 8,
        redis_url: None,
        redis_timeout: Duration::from_millis(50),
        cache_ttl: Duration::from_hours(1),
        near_cache_bytes: 1 << 20,
    }
}
