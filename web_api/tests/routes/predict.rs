use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::task::JoinSet;
use web_api::settings::AppType;

use crate::stack::{Stack, form_request, get_request, image_request};

#[tokio::test]
async fn the_result_of_an_image_is_cached() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let first = stack.send(form_request("/predict", &[("image", Some("7.png"), "seven")])).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    assert_eq!(first.header("cache-status"), "mlserve; fwd=miss; stored");
    let body = first.json();
    assert_eq!(body["cls"], 1);
    assert_eq!(body["label"], "one");
    assert_eq!(body["cached"], false);
    assert_eq!(body["probabilities"][1], json!({"label": "one", "value": 0.75}));
    assert_eq!(first.header("etag"), format!("\"{}\"", body["key"].as_str().unwrap()));

    for request in [
        image_request("/predict/mnist", "seven"),
        form_request("/predict/mnist", &[("file", Some("other-name.png"), "seven")]),
    ] {
        let again = stack.send(request).await;
        assert_eq!(again.header("cache-status"), "mlserve; hit");
        assert_eq!(again.header("age"), "0");
        assert_eq!(again.json()["cached"], true);
        assert_eq!(again.json()["key"], body["key"]);
    }
    assert_eq!(stack.runs(), 1);
}

#[tokio::test]
async fn labels_of_a_changed_model_are_not_used() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    // model_api already has the new model, and the catalog of web_api does not.
    "sha256:new".clone_into(&mut stack.model_api.models.lock().unwrap()[0].digest);
    let body = stack.send(image_request("/predict", "seven")).await.json();
    assert_eq!((&body["model_digest"], &body["label"]), (&json!("sha256:new"), &json!("1")));
}

#[tokio::test]
async fn identical_concurrent_requests_are_collapsed_into_one_inference() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let app = stack.app.clone();
        clients.spawn(async move {
            let response = tower::ServiceExt::oneshot(app, image_request("/predict", "slow")).await.unwrap();
            (response.status(), response.headers()["cache-status"].to_str().unwrap().to_owned())
        });
    }
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
    assert_eq!(answers.iter().filter(|(_, status)| status == "mlserve; fwd=miss; stored").count(), 1);
    assert_eq!(answers.iter().filter(|(_, status)| status == "mlserve; fwd=miss; collapsed").count(), 99);
    assert_eq!(stack.runs(), 1);
    let metrics = stack.metrics();
    assert!(metrics.contains("inferences_total{model=\"mnist\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn cache_control_directives_are_respected() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let predict = |directive: &'static str| {
        let mut request = image_request("/predict", "seven");
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(directive));
        stack.send(request)
    };
    assert_eq!(predict("only-if-cached").await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(predict("no-store").await.header("cache-status"), "mlserve; fwd=request");
    assert_eq!(predict("only-if-cached").await.status, StatusCode::GATEWAY_TIMEOUT, "no-store must not have stored");
    assert_eq!(predict("no-cache").await.header("cache-status"), "mlserve; fwd=request; stored");
    assert_eq!(predict("only-if-cached").await.header("cache-status"), "mlserve; hit");
    assert_eq!(predict("no-cache").await.json()["cached"], false);
    assert_eq!(stack.runs(), 3);
}

#[tokio::test]
async fn if_none_match_returns_304() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let etag = stack.send(image_request("/predict", "seven")).await.headers["etag"].clone();
    let mut request = image_request("/predict", "seven");
    request.headers_mut().insert(header::IF_NONE_MATCH, etag.clone());
    let answer = stack.send(request).await;
    assert_eq!((answer.status, &answer.headers["etag"]), (StatusCode::NOT_MODIFIED, &etag));
    assert!(answer.body.is_empty());
    let mut other = image_request("/predict", "eight");
    other.headers_mut().insert(header::IF_NONE_MATCH, etag);
    assert_eq!(stack.send(other).await.status, StatusCode::OK);
}

#[tokio::test]
async fn with_several_models_a_request_must_name_one() {
    let stack = Stack::start(AppType::Cli, &["leukemia", "mnist"]).await;
    let unnamed = stack.send(image_request("/predict", "seven")).await;
    assert_eq!(unnamed.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(unnamed.json()["detail"].as_str().unwrap().contains("leukemia, mnist"));
    let by_field = form_request("/predict", &[("model", None, "mnist"), ("image", Some("7.png"), "seven")]);
    assert_eq!(stack.send(by_field).await.json()["model"], "mnist");
    let (mnist, leukemia) = (
        stack.send(image_request("/predict/mnist", "seven")).await.json(),
        stack.send(image_request("/predict/leukemia", "seven")).await.json(),
    );
    assert_eq!((&mnist["cached"], &leukemia["cached"]), (&json!(true), &json!(false)));
    assert_ne!(mnist["key"], leukemia["key"]);
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_the_reason() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let typed = |media_type: &'static str, body: &'static str| {
        let mut request = image_request("/predict", body);
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        request
    };
    let large = "x".repeat((1 << 20) + 1);
    for (request, status, message) in [
        (image_request("/predict", ""), 400, "Upload an image first!"),
        (form_request("/predict", &[]), 400, "Upload an image first!"),
        (form_request("/predict", &[("image", Some(""), "")]), 400, "Upload an image first!"),
        (form_request("/predict", &[("picture", Some("7.png"), "seven")]), 400, "it has picture"),
        (form_request("/predict", &[("image", Some("a"), "a"), ("file", Some("b"), "b")]), 400, "several files"),
        (typed("multipart/form-data", "x"), 400, "cannot be read"),
        (typed("multipart/form-data; boundary=x", "--x\r\n"), 400, "cannot be read"),
        (typed("application/x-www-form-urlencoded", "x"), 415, "-F image=@FILE"),
        (typed("text/plain", "x"), 415, "text/plain"),
        (image_request("/predict", &large), 413, "larger than 1048576 bytes"),
        (image_request("/predict", "text"), 415, "not an image we read"),
        (image_request("/predict/nonesuch", "seven"), 404, "available models: mnist"),
        (image_request("/predict/..%2f..%2fetc", "seven"), 404, "no model"),
        (image_request("/predict/mnist%00", "seven"), 404, "no model"),
        (image_request("/predict/%ff", "seven"), 404, "No such route"),
        (get_request("/static/%ff"), 404, "No such route"),
        (get_request("/predict"), 405, "Method GET is not allowed"),
        (get_request("/nowhere"), 404, "No such route"),
    ] {
        let path = request.uri().to_string();
        let answer = stack.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(message), "{path}: {detail}");
    }
    assert_eq!(stack.send(image_request("/predict", "seven")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn errors_are_not_cached() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    for _ in 0..2 {
        assert_eq!(stack.send(image_request("/predict", "text")).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    assert_eq!(stack.runs(), 2);
}

#[tokio::test]
async fn a_timeout_is_504_and_too_many_requests_are_503() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let mut clients = JoinSet::new();
    for number in 0..9 {
        let app = stack.app.clone();
        // The ninth request exceeds the limit. `no-store` keeps them from sharing a flight.
        let mut request = image_request("/predict", "stuck");
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        clients.spawn(async move {
            let response = tower::ServiceExt::oneshot(app, request).await.unwrap();
            (response.status(), response.headers().get(header::RETRY_AFTER).is_some(), number)
        });
    }
    let answers = clients.join_all().await;
    let late = answers.iter().filter(|(status, ..)| *status == StatusCode::GATEWAY_TIMEOUT).count();
    let busy = answers.iter().filter(|(status, retry, _)| *status == StatusCode::SERVICE_UNAVAILABLE && *retry).count();
    assert_eq!((late, busy), (8, 1));
}

#[tokio::test]
async fn cached_results_are_returned_without_model_api() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    stack.send(image_request("/predict", "seven")).await;
    stack.stop_model_api().await;
    assert_eq!(stack.send(image_request("/predict", "seven")).await.header("cache-status"), "mlserve; hit");
    let other = stack.send(image_request("/predict", "eight")).await;
    assert_eq!(other.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(other.header("retry-after"), "1");
    assert!(other.json()["detail"].as_str().unwrap().contains("is unreachable"));
}
