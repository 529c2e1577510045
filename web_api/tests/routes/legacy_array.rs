use axum::body::Body;
use http::{Request, StatusCode, header};
use serde_json::json;
use web_api::settings::AppType;

use crate::stack::Stack;

fn array(path: &str, json: &str) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(json.to_owned())).unwrap()
}

#[tokio::test]
async fn the_legacy_response_is_unchanged() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let answer = stack.send(array("/web_api", r#"{"image_arr": [[0, 0.5], [1, 0]]}"#)).await;
    assert_eq!(answer.json(), json!({"cls": 1, "value": 0.75}));
    // The spelling of numbers and axes of length one do not change the cache key. Other numbers do.
    for same in [r#"{"image_arr":[[0.0,5e-1],[1.0,0]]}"#, r#"{"image_arr":[[[[0],[0.5]],[[1],[0]]]]}"#] {
        let again = stack.send(array("/web_api/mnist", same)).await;
        assert_eq!(again.header("cache-status"), "mlserve; hit", "{same}");
    }
    let other = stack.send(array("/web_api", r#"{"image_arr":[[0.0,5e-1],[1.0,1]]}"#)).await;
    assert_eq!(other.header("cache-status"), "mlserve; fwd=miss; stored");
}

#[tokio::test]
async fn a_shape_mismatch_names_both_shapes() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let answer = stack.send(array("/web_api", r#"{"image_arr": [1, 2, 3, 4]}"#)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.text());
    assert!(answer.json()["detail"].as_str().unwrap().contains("the shape [4]"), "{}", answer.text());
    assert_eq!(stack.runs(), 0);
}

#[tokio::test]
async fn an_invalid_array_is_rejected_with_the_reason() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let deep = format!(r#"{{"image_arr": {}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    for (json, message) in [
        (r#"{"image_arr": [[1, 2], [3]]}"#, "ragged"),
        (r#"{"image_arr": [NaN]}"#, "line 1"),
        (deep.as_str(), "nested more than 8 deep"),
        ("", "image_arr"),
    ] {
        let answer = stack.send(array("/web_api", json)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(message), "{}", answer.text());
    }
    assert_eq!(stack.runs(), 0);
}
