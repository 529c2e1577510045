use http::{Request, StatusCode};
use serde_json::json;
use web_api::settings::AppType;

use crate::stack::{Stack, image_request};

fn forget(model: &str) -> Request<axum::body::Body> {
    Request::delete(format!("/cache/{model}")).body(axum::body::Body::empty()).unwrap()
}

#[tokio::test]
async fn forgetting_a_model_makes_its_answers_fresh_and_leaves_the_others() {
    let stack = Stack::start(AppType::Cli, &["leukemia", "mnist"]).await;
    stack.send(image_request("/predict/mnist", "seven")).await;
    stack.send(image_request("/predict/leukemia", "seven")).await;
    assert_eq!(stack.send(forget("mnist")).await.json(), json!({"model": "mnist", "forgotten": 1}));
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], false);
    assert_eq!(stack.send(image_request("/predict/leukemia", "seven")).await.json()["cached"], true);
    assert_eq!(stack.send(forget("nonesuch")).await.status, StatusCode::NOT_FOUND);
}
