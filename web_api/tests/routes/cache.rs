use std::time::Duration;

use http::{Request, StatusCode};
use open_inference::{Batching, RowDependence};
use serde_json::json;
use tokio::time::sleep;
use web_api::settings::AppType;

use crate::stack::{Stack, get_request, image_request};

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

#[tokio::test]
async fn results_that_model_api_has_found_to_be_wrong_are_dropped_and_those_of_others_kept() {
    let stack = Stack::start(AppType::Cli, &["leukemia", "mnist"]).await;
    stack.send(image_request("/predict/mnist", "seven")).await;
    stack.send(image_request("/predict/leukemia", "seven")).await;
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], true);
    let reason = "output \"y\" differed".to_owned();
    let batching = Batching { enabled: false, rows: RowDependence::Dependent, reason: reason.clone() };
    stack
        .change(|models| {
            let mnist = models.iter_mut().find(|model| model.name == "mnist").unwrap();
            (mnist.wrong_before_ms, mnist.batching) = (Some(1), Some(batching));
        })
        .await;
    // Each of them would be a hit for ever.
    while stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"] == true {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stack.send(image_request("/predict/mnist", "seven")).await.json()["cached"], true, "of the new ones");
    assert_eq!(stack.send(image_request("/predict/leukemia", "seven")).await.json()["cached"], true);
    let metadata = stack.send(get_request("/v2/models/mnist")).await.json();
    let expected = json!({"enabled": false, "rows": "dependent", "reason": reason});
    assert_eq!(metadata["parameters"]["batching"], expected);
    assert_eq!(metadata["parameters"]["cache"], json!({"enabled": true}));
    let index = axum::body::Body::empty();
    let index = Request::post("/v2/repository/index").body(index).unwrap();
    let index = stack.send(index).await.json();
    assert_eq!(index[1]["batching"], expected, "{index}");
    assert!(index[0].get("batching").is_none(), "what is not known is not said: {index}");
}
