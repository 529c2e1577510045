//! Job executor: runs inputs of jobs as requests to this service's own routes, so that a job and an interactive request have the same
//! result, byte for byte.

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use db_api::jobs::{InputKind, InputSpec, Outcome};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cache_control::{BACKGROUND_PRIORITY, PRIORITY_HEADER};

/// Runs inputs through the inference routes.
#[derive(Clone)]
pub struct JobExecutor {
    routes: Router,
}

/// How far an execution may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only cached results, and errors that need no inference.
    CacheOnly,
    /// Run the model, with background priority.
    Full,
}

/// Outcome of an execution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Execution {
    /// A result, or an error that a retry would repeat.
    Done(Outcome),
    /// The result is not cached, or did not arrive in time.
    NoResult(Outcome),
    /// The model or its version does not exist at the moment.
    ModelNotFound(Outcome),
    /// Overloaded, or not loaded. A retry after this time may succeed, s.
    RetryAfter(u64),
}

impl JobExecutor {
    /// Runs inputs through `routes`, which serve `/predict/{model}` and the Open Inference Protocol.
    pub fn new(routes: Router) -> Self {
        Self { routes }
    }

    /// Runs `model` on one input.
    pub async fn execute(&self, model: &str, spec: &InputSpec, data: Bytes, scope: Scope) -> Execution {
        let request = Self::request(model, spec, data, scope);
        let response = match self.routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return Execution::RetryAfter(1) };
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let failed = || Outcome::Error(error_of(parts.status, &body).to_string());
        match parts.status {
            StatusCode::OK => Execution::Done(Outcome::Success(strip_sse(body))),
            StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after = parts.headers.get(header::RETRY_AFTER);
                let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
                Execution::RetryAfter(seconds.unwrap_or(1))
            }
            StatusCode::NOT_FOUND => Execution::ModelNotFound(failed()),
            StatusCode::GATEWAY_TIMEOUT => Execution::NoResult(failed()),
            _ => Execution::Done(failed()),
        }
    }

    fn request(model: &str, spec: &InputSpec, data: Bytes, scope: Scope) -> Request<Body> {
        let version = spec.version.as_ref().map_or_else(String::new, |version| format!("/versions/{version}"));
        let (path, media_type) = match spec.kind {
            InputKind::Image => {
                let query = spec.top_k.as_ref().map_or_else(String::new, |top_k| format!("?top_k={top_k}"));
                (format!("/predict/{model}{query}"), "application/octet-stream")
            }
            // The only event of the stream is the response as JSON, even if binary outputs are requested.
            InputKind::V2 => (format!("/v2/models/{model}{version}/infer_stream"), "application/json"),
        };
        let mut request = Request::new(Body::from(data));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let media_type = match spec.content_type.as_str() {
            "" => Ok(HeaderValue::from_static(media_type)),
            named => HeaderValue::try_from(named),
        };
        headers.extend(media_type.ok().map(|value| (header::CONTENT_TYPE, value)));
        if let Some(length) = spec.json_length {
            headers.insert("inference-header-content-length", HeaderValue::from(length));
        }
        match scope {
            Scope::CacheOnly => headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("only-if-cached")),
            Scope::Full => headers.insert(PRIORITY_HEADER, HeaderValue::from_static(BACKGROUND_PRIORITY)),
        };
        request
    }
}

/// The data of a server-sent event.
fn strip_sse(body: String) -> String {
    match body.strip_prefix("data: ") {
        Some(event) => event.trim_end().to_owned(),
        None => body,
    }
}

/// An error in the form of job results. Routes use either `detail` or `error`.
fn error_of(status: StatusCode, body: &str) -> Value {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let detail = body["detail"].as_str().or(body["error"].as_str()).unwrap_or_default();
    json!({ "status": status.as_u16(), "detail": detail })
}
