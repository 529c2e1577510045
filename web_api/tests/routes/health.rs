use http::StatusCode;
use serde_json::json;
use web_api::settings::AppType;

use crate::stack::{Stack, get_request};

#[tokio::test]
async fn readiness_reports_models_cache_and_devices() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let health = stack.send(get_request("/health/ready")).await;
    assert_eq!(health.status, StatusCode::OK);
    let body = health.json();
    assert_eq!(body["ready"], true);
    assert_eq!(body["memory"]["kind"], "near");
    assert_eq!(body["models"][0]["device"]["name"], "cpu");
    let jobs = &body["jobs"];
    assert_eq!((&jobs["durable"], &jobs["ready"], &jobs["reason"]), (&json!(false), &json!(true), &json!(null)));
    assert_eq!(jobs["waiting"], 0);
    assert!(stack.metrics().contains("jobs_ready 1\n"));
    assert_eq!(stack.send(get_request("/health/live")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_models_the_service_is_not_ready() {
    let stack = Stack::start(AppType::Ui, &[]).await;
    let health = stack.send(get_request("/health/ready")).await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health.json()["reason"], "no model is served");
}

#[tokio::test]
async fn without_model_api_the_service_is_live_but_not_ready() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    stack.stop_model_api().await;
    let health = stack.send(get_request("/health/ready")).await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(health.json()["model_api"]["running"], false);
    assert_eq!(stack.send(get_request("/health/live")).await.status, StatusCode::OK);
}
