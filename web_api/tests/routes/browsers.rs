//! Cross-origin requests and host names.

use axum::body::Body;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use service::request_guard::RequestGuard;
use service::shared_secret::SharedSecret;

use crate::fake_model_api::model;
use crate::protocol::{infer_body, post};
use crate::stack::{Answer, Stack, get_request, image_request};

const APP: &str = "https://app.example";

fn with(mut request: Request<Body>, headers: &[(&'static str, &'static str)]) -> Request<Body> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

fn from(request: Request<Body>, origin: &'static str) -> Request<Body> {
    with(request, &[("origin", origin), ("sec-fetch-site", "cross-site")])
}

/// Allows requests from pages of [`APP`].
async fn open() -> Stack {
    let guard = RequestGuard::public(false, Vec::new(), vec![HeaderValue::from_static(APP)]);
    Stack::serving(vec![model("mnist")], |settings| settings.guard = guard).await
}

async fn preflight(stack: &Stack, path: &str, origin: &'static str) -> Answer {
    let request = Request::builder().method(Method::OPTIONS).uri(path).body(Body::empty()).unwrap();
    let requested =
        [("access-control-request-method", "POST"), ("access-control-request-headers", "content-type,x-request-id")];
    stack.send(with(with(request, &requested), &[("origin", origin)])).await
}

#[tokio::test]
async fn cross_origin_requests_are_rejected_without_effect() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    let empty = json!({});
    for request in [
        image_request("/predict", "seven"),
        image_request("/jobs", "seven"),
        Request::delete("/cache/mnist").body(Body::empty()).unwrap(),
    ] {
        let refused = stack.send(from(request, "https://evil.example")).await;
        assert_eq!(
            (refused.status, refused.header("content-type")),
            (StatusCode::FORBIDDEN, "application/problem+json")
        );
        assert!(refused.text().contains("CORS_ALLOW_ORIGINS"), "{}", refused.text());
    }
    for path in ["/v2/models/mnist/infer", "/v2/repository/models/mnist/unload", "/v2/repository/index"] {
        let refused = stack.send(from(post(path, &empty), "https://evil.example")).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("CORS_ALLOW_ORIGINS"), "{path}");
    }
    assert_eq!(stack.runs(), 0);
    assert_eq!(stack.send(get_request("/jobs")).await.json(), json!({"jobs": []}));
    assert_eq!(stack.send(get_request("/v2/models/mnist")).await.status, StatusCode::OK, "nothing was unloaded");
    let ours = [("host", "localhost"), ("origin", "http://localhost"), ("sec-fetch-site", "same-origin")];
    assert_eq!(stack.send(with(image_request("/predict", "seven"), &ours)).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_host_name_is_misdirected() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    for path in ["/", "/health/ready", "/v2/models", "/nowhere"] {
        let refused = stack.send(with(get_request(path), &[("host", "rebound.example:5000")])).await;
        assert_eq!(refused.status, StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert!(refused.text().contains("ALLOWED_HOSTS"), "{}", refused.text());
    }
    let call = with(
        post("/inference.GRPCInferenceService/ServerLive", &json!({})),
        &[("content-type", "application/grpc"), ("host", "rebound.example")],
    );
    let refused = stack.send(call).await;
    assert_eq!((refused.status, refused.header("grpc-status")), (StatusCode::OK, "7"));
    assert!(refused.header("grpc-message").contains("ALLOWED_HOSTS"));
}

#[tokio::test]
async fn an_allowed_origin_has_the_same_access_as_the_own_page() {
    let stack = open().await;
    for path in ["/predict", "/predict/mnist", "/v2/models/mnist/infer", "/v2/models", "/jobs", "/v2/health/ready"] {
        let allowed = preflight(&stack, path, APP).await;
        assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (StatusCode::OK, APP), "{path}");
        assert!(allowed.header("access-control-allow-methods").contains("POST"));
        assert_eq!(allowed.header("access-control-allow-headers"), "content-type,x-request-id");
        let other = preflight(&stack, path, "https://evil.example").await;
        assert_eq!(other.header("access-control-allow-origin"), "", "{path}");
    }
    let request = post("/v2/models/mnist/infer", &infer_body(&[[1.0; 4]]));
    let response = stack.send(from(request, APP)).await;
    assert_eq!((response.status, response.header("access-control-allow-origin")), (StatusCode::OK, APP));
    assert_eq!(response.header("cross-origin-resource-policy"), "cross-origin");
    for name in ["cache-status", "etag", "location", "x-request-id"] {
        assert!(response.header("access-control-expose-headers").contains(name), "{name}");
    }
    let own = stack.send(image_request("/predict", "seven")).await;
    assert_eq!(own.header("cross-origin-resource-policy"), "same-origin");
    let other = stack.send(from(image_request("/predict", "eight"), "https://evil.example")).await;
    assert_eq!(other.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn cors_is_disabled_by_default() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    let refused = preflight(&stack, "/predict", APP).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (StatusCode::METHOD_NOT_ALLOWED, ""));
    let read = stack.send(from(get_request("/v2/models"), APP)).await;
    assert_eq!((read.status, read.header("access-control-allow-origin")), (StatusCode::OK, ""));
}

#[tokio::test]
async fn errors_do_not_repeat_long_methods_or_paths() {
    let stack = Stack::serving(vec![model("mnist")], |_| {}).await;
    let long = "A".repeat(50_000);
    for path in ["/predict", "/jobs", "/v2/models", "/", "/health/live"] {
        let request = Request::builder().method(long.as_str()).uri(path).body(Body::empty()).unwrap();
        let refused = stack.send(request).await;
        assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert!(refused.body.len() < 500, "{path}: {} bytes", refused.body.len());
    }
    for path in
        [format!("/{long}"), format!("/v2/{long}"), format!("/predict/{long}"), format!("/v2/models/{long}/infer")]
    {
        for method in [Method::GET, Method::POST, Method::PUT] {
            let request = Request::builder().method(method.clone()).uri(&path).body(Body::empty()).unwrap();
            let refused = stack.send(request).await;
            assert!(refused.status.is_client_error());
            assert!(refused.body.len() < 1000, "{method} {}: {} bytes", &path[..12], refused.body.len());
        }
    }
}

#[tokio::test]
async fn the_secret_is_sent_with_repository_requests() {
    let secret = SharedSecret::new("0123456789abcdef").unwrap();
    let given = secret.clone();
    let stack = Stack::serving(vec![model("mnist")], |settings| settings.model_api_secret = Some(given)).await;
    for path in ["/v2/repository/models/other/load", "/v2/repository/models/other/unload"] {
        stack.model_api.repository_headers.lock().unwrap().clear();
        assert_eq!(stack.send(post(path, &json!({}))).await.status, StatusCode::OK);
        assert!(secret.matches(&stack.model_api.repository_headers.lock().unwrap()), "{path}");
    }
    let response = stack.send(get_request("/v2/models")).await;
    assert!(!response.headers.contains_key(secret.header().0));
    assert!(response.headers.contains_key(header::CONTENT_TYPE));
}
