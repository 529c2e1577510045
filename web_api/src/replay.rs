use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use db_api::jobs::{Asked, Kind, Outcome};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::http::cache_control::{BACKGROUND_PRIORITY, PRIORITY_HEADER};

/// Inputs of jobs as requests to our own routes, so that a job and a click are answered by the same code in the same words.
#[derive(Clone)]
pub struct Replay {
    routes: Router,
}

/// How far a question may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What is remembered, and what is wrong at first sight.
    Memory,
    /// The model, after people's questions.
    Model,
}

/// What came of a replayed question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// An answer, or an error that will not be another one next time.
    Ended(Outcome),
    /// It is not remembered, or there was no answer in time.
    NoAnswer(Outcome),
    /// There is no such model, or no such version of it, at the moment.
    NoModel(Outcome),
    /// No room, or no session, at the moment; so many seconds may help.
    Later(u64),
}

impl Replay {
    /// Asks `routes`, which answer `/predict/{model}` and the Open Inference Protocol.
    pub fn new(routes: Router) -> Self {
        Self { routes }
    }

    /// Asks `model` one question.
    pub async fn ask(&self, model: &str, asked: &Asked, data: Bytes, reach: Reach) -> Replayed {
        let request = Self::request(model, asked, data, reach);
        let response = match self.routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return Replayed::Later(1) };
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let failed = || Outcome::Error(error_of(parts.status, &body).to_string());
        match parts.status {
            StatusCode::OK => Replayed::Ended(Outcome::Answer(without_event(body))),
            StatusCode::SERVICE_UNAVAILABLE => {
                let later = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Replayed::Later(later.unwrap_or(1))
            }
            StatusCode::NOT_FOUND => Replayed::NoModel(failed()),
            StatusCode::GATEWAY_TIMEOUT => Replayed::NoAnswer(failed()),
            _ => Replayed::Ended(failed()),
        }
    }

    fn request(model: &str, asked: &Asked, data: Bytes, reach: Reach) -> Request<Body> {
        let version = asked.version.as_ref().map_or_else(String::new, |version| format!("/versions/{version}"));
        let (path, media_type) = match asked.kind {
            Kind::Image => {
                let query = asked.top_k.as_ref().map_or_else(String::new, |top_k| format!("?top_k={top_k}"));
                (format!("/predict/{model}{query}"), "application/octet-stream")
            }
            // The one event of the stream is the answer in JSON, whatever form the request wishes for.
            Kind::V2 => (format!("/v2/models/{model}{version}/infer_stream"), "application/json"),
        };
        let mut request = Request::new(Body::from(data));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let media_type = match asked.content_type.as_str() {
            "" => Ok(HeaderValue::from_static(media_type)),
            named => HeaderValue::try_from(named),
        };
        headers.extend(media_type.ok().map(|value| (header::CONTENT_TYPE, value)));
        if let Some(length) = asked.json_length {
            headers.insert("inference-header-content-length", HeaderValue::from(length));
        }
        match reach {
            Reach::Memory => headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("only-if-cached")),
            Reach::Model => headers.insert(PRIORITY_HEADER, HeaderValue::from_static(BACKGROUND_PRIORITY)),
        };
        request
    }
}

fn without_event(body: String) -> String {
    match body.strip_prefix("data: ") {
        Some(event) => event.trim_end().to_owned(),
        None => body,
    }
}

/// What is wrong, in one form, whichever the route has.
fn error_of(status: StatusCode, body: &str) -> Value {
    let said: Value = serde_json::from_str(body).unwrap_or_default();
    let detail = said["detail"].as_str().or(said["error"].as_str()).unwrap_or_default();
    json!({ "status": status.as_u16(), "detail": detail })
}
