//! Results by task, on every route that returns them.

use axum::body::Body;
use contract::ModelDescription;
use http::{HeaderValue, Request, StatusCode, header};
use open_inference::{Activation, Datatype, Task, Tensor, TensorMetadata};
use serde_json::{Value, json};

use crate::fake_model_api::model;
use crate::stack::{Answer, Stack, get_request, image_request};

fn output(name: &str, datatype: Datatype, shape: &[i64], task: Option<Task>) -> TensorMetadata {
    let mut output = TensorMetadata::new(name, datatype, shape);
    output.parameters.task = task;
    output.parameters.activation = (task == Some(Task::Classification)).then_some(Activation::None);
    output
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(name, Datatype::Fp32, shape.to_vec(), values).unwrap()
}

/// Serves one model that returns these outputs for every image.
async fn serving(outputs: Vec<TensorMetadata>, tensors: Vec<Tensor>) -> Stack {
    let model = ModelDescription { outputs, ..model("m") };
    let stack = Stack::serving(vec![model], |_| ()).await;
    stack.model_api.outputs.lock().unwrap().insert("m".to_owned(), tensors);
    stack
}

async fn predict(stack: &Stack, query: &str) -> Answer {
    stack.send(image_request(&format!("/predict{query}"), "seven")).await
}

/// Runs a job with one image. Returns its status, and its results in `format`.
async fn job(stack: &Stack, query: &str, format: &str) -> (String, String) {
    let submitted = stack.send(image_request(&format!("/jobs{query}"), "eight")).await;
    assert!(submitted.status.is_success(), "{}", submitted.text());
    ended(stack, submitted.json()["id"].as_str().unwrap(), format).await
}

async fn ended(stack: &Stack, id: &str, format: &str) -> (String, String) {
    loop {
        let status =
            stack.send(get_request(&format!("/jobs/{id}"))).await.json()["status"].as_str().unwrap().to_owned();
        if !["queued", "running"].contains(&status.as_str()) {
            return (status, stack.send(get_request(&format!("/jobs/{id}/results?format={format}"))).await.text());
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_class_is_that_of_the_classification_output() {
    let outputs = vec![
        output("label", Datatype::Int64, &[-1], None),
        output("probabilities", Datatype::Fp32, &[-1, 3], Some(Task::Classification)),
    ];
    let label = Tensor::from_f32("label", Datatype::Int64, vec![1], &[2.0]).unwrap();
    let stack = serving(outputs, vec![label, floats("probabilities", &[1, 3], &[0.25, 0.25, 0.5])]).await;
    let json = predict(&stack, "").await.json();
    assert_eq!((&json["task"], &json["output"]), (&json!("classification"), &json!("probabilities")));
    assert_eq!((&json["cls"], &json["value"], &json["scale"]), (&json!(2), &json!(0.5), &json!("probability")));
    let array = r#"{"image_arr": [[[[0], [0]], [[0], [0]]]]}"#;
    let legacy = Request::post("/web_api").body(Body::from(array)).unwrap();
    assert_eq!(stack.send(legacy).await.json(), json!({"cls": 2, "value": 0.5}));
}

#[tokio::test]
async fn an_empty_detection_is_a_result_without_a_class() {
    let outputs = vec![output("boxes", Datatype::Fp32, &[-1, 4], Some(Task::Detection))];
    let stack = serving(outputs, vec![floats("boxes", &[0, 4], &[])]).await;
    let answer = predict(&stack, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let json = answer.json();
    let none = json!([{"name": "boxes", "datatype": "FP32", "shape": [0, 4], "data": []}]);
    assert_eq!((&json["task"], &json["outputs"], json.get("cls")), (&json!("detection"), &none, None));
    let (status, lines) = job(&stack, "", "ndjson").await;
    assert_eq!(status, "succeeded", "{lines}");
    assert_eq!(serde_json::from_str::<Value>(&lines).unwrap()["answer"]["outputs"], none);
}

#[tokio::test]
async fn outputs_without_a_task_are_tensors_but_legacy_clients_get_the_largest_value() {
    let outputs = vec![output("y", Datatype::Fp32, &[-1, 2], None)];
    let stack = serving(outputs, vec![floats("y", &[1, 2], &[-1.0, 3.5])]).await;
    let json = predict(&stack, "").await.json();
    assert_eq!((&json["task"], &json["outputs"][0]["data"]), (&json!("none"), &json!([-1.0, 3.5])));
    let array = r#"{"image_arr": [[[[0], [0]], [[0], [0]]]]}"#;
    let legacy = Request::post("/web_api").body(Body::from(array)).unwrap();
    assert_eq!(stack.send(legacy).await.json(), json!({"cls": 1, "value": 3.5}));
}

#[tokio::test]
async fn an_image_is_a_png_in_json_or_the_whole_body() {
    let outputs = vec![output("y", Datatype::Fp32, &[-1, 1, -1, -1], Some(Task::Image))];
    let stack = serving(outputs, vec![floats("y", &[1, 1, 2, 3], &[0.5; 6])]).await;
    let answer = predict(&stack, "").await;
    let json = answer.json();
    assert_eq!((&json["task"], &json["width"], &json["height"]), (&json!("image"), &json!(3), &json!(2)));
    assert!(json["image"].as_str().unwrap().starts_with("iVBORw0KGgo"), "{json}");
    assert_eq!((answer.header("vary"), json.get("cls")), ("accept", None));
    let mut request = image_request("/predict", "seven");
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("image/png, */*;q=0.5"));
    let png = stack.send(request).await;
    assert_eq!((png.header("content-type"), &png.body[..4]), ("image/png", &b"\x89PNG"[..]));
    assert_eq!(png.header("cache-status"), "mlserve; hit", "the same result in another form");
    let (status, csv) = job(&stack, "", "csv").await;
    assert!(status == "succeeded" && csv.contains("\"\"width\"\":3") && !csv.contains("iVBO"), "{csv}");
    stack.model_api.outputs.lock().unwrap().insert("m".to_owned(), vec![floats("y", &[2, 1, 1, 1], &[0.5; 2])]);
    let mut two = image_request("/predict", "nine");
    two.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("image/png"));
    let answer = stack.send(two).await;
    assert_eq!(answer.status, StatusCode::NOT_ACCEPTABLE);
    assert!(answer.text().contains("The result has 2 images"), "{}", answer.text());
}

#[tokio::test]
async fn a_segmentation_has_the_share_of_each_class() {
    let mut metadata = output("y", Datatype::Fp32, &[-1, 2, -1, -1], Some(Task::Segmentation));
    metadata.parameters.labels = vec!["sky".to_owned(), "sea".to_owned()];
    let scores = [0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9];
    let stack = serving(vec![metadata], vec![floats("y", &[1, 2, 2, 2], &scores)]).await;
    let json = predict(&stack, "").await.json();
    let shares = json!([{"cls": 0, "label": "sky", "share": 0.75}, {"cls": 1, "label": "sea", "share": 0.25}]);
    assert_eq!((&json["task"], &json["classes"]), (&json!("segmentation"), &shares));
}

#[tokio::test]
async fn top_k_limits_the_list_of_classes() {
    let values: Vec<f32> = (0_u8..50).map(f32::from).collect();
    let outputs = vec![output("y", Datatype::Fp32, &[-1, 50], Some(Task::Classification))];
    let stack = serving(outputs, vec![floats("y", &[1, 50], &values)]).await;
    let listed = |answer: Answer| answer.json()["probabilities"].as_array().unwrap().len();
    assert_eq!(listed(predict(&stack, "").await), 10);
    assert_eq!(listed(predict(&stack, "?top_k=all").await), 50);
    let three = predict(&stack, "?top_k=3").await;
    assert_eq!(three.json()["probabilities"][2], json!({"cls": 47, "label": "47", "value": 47.0}));
    assert_eq!((three.json()["classes"].as_u64(), stack.runs()), (Some(50), 1), "one result, listed in three ways");
    for wrong in ["?top_k=0", "?top_k=many", "?top_k=1&top_k=2"] {
        let answer = predict(&stack, wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.json()["detail"].as_str().unwrap().contains("top_k"), "{}", answer.text());
    }
}

#[tokio::test]
async fn top_k_of_a_submission_applies_to_its_job() {
    let values: Vec<f32> = (0_u8..50).map(f32::from).collect();
    let outputs = vec![output("y", Datatype::Fp32, &[-1, 50], Some(Task::Classification))];
    let stack = serving(outputs, vec![floats("y", &[1, 50], &values)]).await;
    let listed = |lines: &str| {
        serde_json::from_str::<Value>(lines).unwrap()["answer"]["probabilities"].as_array().unwrap().len()
    };
    assert_eq!(listed(&job(&stack, "?top_k=3", "ndjson").await.1), 3);
    assert_eq!(listed(&job(&stack, "?top_k=all", "ndjson").await.1), 50, "another job than the one before");
    let wrong = stack.send(image_request("/jobs?top_k=0", "eight")).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST, "{}", wrong.text());
    let mut deferred = image_request("/predict?top_k=2", "nine");
    deferred.headers_mut().insert("prefer", HeaderValue::from_static("respond-async"));
    let deferred = stack.send(deferred).await;
    assert_eq!(deferred.status, StatusCode::ACCEPTED, "{}", deferred.text());
    assert_eq!(listed(&ended(&stack, deferred.json()["id"].as_str().unwrap(), "ndjson").await.1), 2);
}

#[tokio::test]
async fn csv_has_columns_for_labels_and_values() {
    let mut labels = output("y", Datatype::Fp32, &[-1, 3], Some(Task::MultiLabel));
    labels.parameters.labels = ["sun", "sea", "sand"].map(str::to_owned).to_vec();
    let stack = serving(vec![labels], vec![floats("y", &[1, 3], &[0.75, 0.25, 0.5])]).await;
    assert_eq!(predict(&stack, "").await.json()["labels"], json!(["sun", "sand"]));
    let (_, csv) = job(&stack, "", "csv").await;
    assert!(csv.ends_with("0,,succeeded,\"sun;sand\",,,\r\n"), "{csv}");

    let mut age = output("y", Datatype::Fp32, &[-1, 1], Some(Task::Regression));
    age.parameters.unit = Some("years".to_owned());
    let stack = serving(vec![age], vec![floats("y", &[1, 1], &[41.5])]).await;
    let json = predict(&stack, "").await.json();
    assert_eq!((&json["value"], &json["unit"], json.get("cls")), (&json!(41.5), &json!("years"), None));
    let (_, csv) = job(&stack, "", "csv").await;
    assert!(csv.ends_with("0,,succeeded,,41.5,,\r\n"), "{csv}");
}

#[tokio::test]
async fn tensors_that_are_too_large_for_json_are_rejected_with_an_alternative() {
    let length = contract::MAX_JSON_TENSOR_BYTES / 4 + 1;
    let outputs = vec![output("y", Datatype::Fp32, &[-1, -1], None)];
    let stack = serving(outputs, vec![floats("y", &[1, length], &vec![0.0; length])]).await;
    let answer = predict(&stack, "").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("4194304") && detail.contains("POST /v2/models/NAME/infer"), "{detail}");
}
