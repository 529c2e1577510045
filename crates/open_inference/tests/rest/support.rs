use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use open_inference::rest;
use serde_json::Value;
use service::body_limits::BodyReader;
use service::settings::ServerSettings;
use tower::ServiceExt;

use crate::fake::Fake;

/// Of one body, in these tests.
pub const MAX_BODY_BYTES: usize = 1 << 20;

/// The routes over the fake, and the fake.
pub struct Service {
    pub router: Router,
    pub fake: Fake,
}

/// An answer that has come.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Service {
    pub fn new() -> Self {
        let settings = ServerSettings { max_body_bytes: MAX_BODY_BYTES, ..ServerSettings::from_env(0, 0).unwrap() };
        let fake = Fake::default();
        Self { router: rest::router(fake.clone(), BodyReader::new(&settings)), fake }
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, path, &[], body).await
    }

    /// Asks a model in JSON.
    pub async fn infer(&self, model: &str, body: impl ToString) -> Answer {
        self.post(&format!("/v2/models/{model}/infer"), body.to_string()).await
    }

    /// Asks a model with JSON and raw elements behind it.
    pub async fn infer_binary(&self, model: &str, json: &str, tail: &[u8]) -> Answer {
        let length = json.len().to_string();
        let headers = [("inference-header-content-length", &*length)];
        let body = [json.as_bytes(), tail].concat();
        self.send(Method::POST, &format!("/v2/models/{model}/infer"), &headers, body).await
    }
}

impl Answer {
    /// The JSON, which must be with status 200.
    pub fn json(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and words of an error, which must be the protocol's.
    pub fn error(&self) -> (u16, String) {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.text()));
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(1), "{json}");
        (self.status.as_u16(), json["error"].as_str().unwrap().to_owned())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
