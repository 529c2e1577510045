use std::io::Write;

use axum::body::Body;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, Request, StatusCode, header};
use open_inference::grpc::proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use open_inference::grpc::proto::inference::model_infer_request::InferInputTensor;
use open_inference::grpc::proto::inference::{ModelInferRequest, ModelInferResponse};
use open_inference::{Datatype, Tensor, client};
use serde_json::{Value, json};
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::stack::{Stack, form_request, get_request, image_request};

const INFER: &str = "/v2/models/mnist/infer";

pub fn post(path: &str, body: &Value) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

/// Request with rows of 2×2 images.
pub fn infer_body(rows: &[[f32; 4]]) -> Value {
    let data = rows.as_flattened();
    json!({"inputs": [{"name": "image", "shape": [rows.len(), 2, 2, 1], "datatype": "FP32", "data": data}]})
}

fn tensor(row: [f32; 4]) -> Tensor {
    Tensor::from_f32("image", Datatype::Fp32, vec![1, 2, 2, 1], &row).unwrap()
}

fn binary(path: &str, row: [f32; 4]) -> Request<Body> {
    let (headers, body) = client::encode_request(&[tensor(row)]);
    let mut request = Request::post(path).body(Body::from(body)).unwrap();
    request.headers_mut().extend(headers);
    request
}

fn gzip(path: &str, body: &Value) -> Request<Body> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body.to_string().as_bytes()).unwrap();
    let request = Request::post(path).header(header::CONTENT_ENCODING, "gzip");
    request.body(Body::from(encoder.finish().unwrap())).unwrap()
}

async fn call(stack: &Stack, input: Tensor, cache_control: &str) -> tonic::Response<ModelInferResponse> {
    call_model(stack, "mnist", input, cache_control).await
}

/// Sends a request over gRPC.
pub async fn call_model(
    stack: &Stack,
    model: &str,
    input: Tensor,
    cache_control: &str,
) -> tonic::Response<ModelInferResponse> {
    let contents = InferInputTensor {
        name: input.name,
        datatype: input.datatype.to_string(),
        shape: input.shape.iter().map(|&length| i64::try_from(length).unwrap()).collect(),
        ..Default::default()
    };
    let mut request = tonic::Request::new(ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![contents],
        raw_input_contents: vec![input.data.to_vec().into()],
        ..Default::default()
    });
    request.metadata_mut().insert("cache-control", cache_control.parse().unwrap());
    let origin = "http://localhost".parse().unwrap();
    GrpcInferenceServiceClient::with_origin(stack.app.clone(), origin).model_infer(request).await.unwrap()
}

#[tokio::test]
async fn equal_requests_in_five_encodings_share_one_cache_key() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let row = [0.5, 0., 1., 0.25];
    let first = stack.send(post(INFER, &infer_body(&[row]))).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    assert_eq!(first.header("cache-status"), "mlserve; fwd=miss; stored");
    let answer = first.json();
    assert_eq!(answer["outputs"][1]["data"], json!([0.5]));
    assert_eq!(answer["parameters"]["model_digest"], "sha256:mnist");

    for (way, request) in [
        ("binary", binary(INFER, row)),
        ("gzip", gzip(INFER, &infer_body(&[row]))),
        ("a version", post("/v2/models/mnist/versions/1/infer", &infer_body(&[row]))),
        ("image_arr", post("/web_api", &json!({"image_arr": [[0.5, 0], [1, 0.25]]}))),
    ] {
        let again = stack.send(request).await;
        assert_eq!((again.status, again.header("cache-status")), (StatusCode::OK, "mlserve; hit"), "{way}");
        assert_eq!(again.header("etag"), first.header("etag"), "{way}");
        assert_eq!(again.header("age"), "0", "{way}");
    }
    let answer = call(&stack, tensor(row), "").await;
    assert_eq!(answer.metadata().get("cache-status").unwrap(), "mlserve; hit");
    assert_eq!(answer.metadata().get("etag").unwrap(), first.header("etag"));
    assert!(answer.metadata().get("content-security-policy").is_none());
    assert_eq!(answer.get_ref().raw_output_contents[1], 0.5_f32.to_le_bytes()[..]);
    assert_eq!((stack.runs(), stack.rows()), (1, 1));
    assert!(stack.metrics().contains("inferences_total{model=\"mnist\"} 1\n"));
}

#[tokio::test]
async fn an_image_has_the_same_cache_key_on_every_route() {
    let stack = Stack::start(AppType::Ui, &["mnist"]).await;
    let mut page = form_request("/predict", &[("image", Some("7.png"), "seven")]);
    page.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/html"));
    assert!(stack.send(page).await.text().contains("75.00 %"));
    let element = json!({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["c2V2ZW4="]}]});
    for (way, request) in [
        ("a file", image_request("/predict", "seven")),
        ("an element of a tensor", post(INFER, &element)),
        ("the whole body", image_request(INFER, "seven")),
    ] {
        let answer = stack.send(request).await;
        assert_eq!((answer.status, answer.header("cache-status")), (StatusCode::OK, "mlserve; hit"), "{way}");
    }
    let answer = call(&stack, Tensor::from_strings("image", vec![1], [&b"seven"[..]]), "").await;
    assert_eq!(answer.metadata().get("cache-status").unwrap(), "mlserve; hit");
    assert_eq!(stack.runs(), 1);
}

#[tokio::test]
async fn grpc_calls_respect_cache_control() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let cache_status = async |directive: &str| {
        let answer = call(&stack, tensor([1.; 4]), directive).await;
        answer.metadata().get("cache-status").unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(cache_status("no-store").await, "mlserve; fwd=request");
    assert_eq!(cache_status("").await, "mlserve; fwd=miss; stored");
    assert_eq!(cache_status("no-cache").await, "mlserve; fwd=request; stored");
    assert_eq!(cache_status("only-if-cached").await, "mlserve; hit");
    assert_eq!(stack.runs(), 3);
}

#[tokio::test]
async fn different_requests_never_share_a_result() {
    let version = |version: &str, is_default| contract::ModelDescription {
        version: version.to_owned(),
        digest: format!("sha256:{version}"),
        is_default,
        ..model("mnist")
    };
    let models = vec![model("leukemia"), version("1", false), version("2", true)];
    let stack = Stack::serving(models, |_| {}).await;
    let row = infer_body(&[[1., 2., 3., 4.]]);
    let mut runs = 0;
    for path in [INFER, "/v2/models/mnist/versions/1/infer", "/v2/models/leukemia/infer"] {
        let answer = stack.send(post(path, &row)).await;
        runs += 1;
        assert_eq!(answer.header("cache-status"), "mlserve; fwd=miss; stored", "{path}: {}", answer.text());
        assert_eq!(stack.runs(), runs);
    }
    assert_eq!(stack.send(post(INFER, &row)).await.json()["model_version"], "2");

    // The model file has changed.
    stack.change(|models| models[2].digest = "sha256:changed".to_owned()).await;
    let answer = stack.send(post(INFER, &row)).await;
    assert_eq!(answer.header("cache-status"), "mlserve; fwd=miss; stored");
    assert_eq!(answer.json()["parameters"]["model_digest"], "sha256:changed");

    // The same bytes with another shape.
    stack.change(|models| models[0].inputs[0].shape = vec![-1, -1, -1, 1]).await;
    let mut other = row.clone();
    other["inputs"][0]["shape"] = json!([1, 1, 4, 1]);
    let answer = stack.send(post("/v2/models/leukemia/infer", &other)).await;
    assert_eq!(answer.header("cache-status"), "mlserve; fwd=miss; stored", "{}", answer.text());
}

#[tokio::test]
async fn errors_have_the_format_of_the_protocol() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let text = json!({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["dGV4dA=="]}]});
    let mut wrong = infer_body(&[[0.; 4]]);
    wrong["inputs"][0]["name"] = "picture".into();
    for (request, status, message) in [
        (post(INFER, &text), 415, "element 0 of image is not an image we read"),
        (post(INFER, &wrong), 422, "picture"),
        (post("/v2/models/nonesuch/infer", &infer_body(&[[0.; 4]])), 404, "available models: mnist"),
        (post("/v2/models/mnist/versions/7/infer", &infer_body(&[[0.; 4]])), 404, "no version"),
        (post("/v2/nowhere", &json!({})), 404, "no route"),
        (get_request(INFER), 405, "GET"),
    ] {
        let path = request.uri().to_string();
        let answer = stack.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        assert!(answer.json()["error"].as_str().unwrap().contains(message), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_invalid_asynchronous_request_fails_in_the_format_of_its_route() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let long_key = "k".repeat(256);
    for (mut request, field) in
        [(post(INFER, &infer_body(&[[0.5; 4]])), "error"), (image_request("/predict/mnist", "seven"), "detail")]
    {
        request.headers_mut().insert("prefer", HeaderValue::from_static("respond-async"));
        request.headers_mut().insert("idempotency-key", HeaderValue::from_str(&long_key).unwrap());
        let answer = stack.send(request).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()[field], "Idempotency-Key has 1 to 255 ASCII characters.");
    }
}

#[tokio::test]
async fn a_loaded_model_is_available_immediately() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let load = |name: &str, verb: &str| post(&format!("/v2/repository/models/{name}/{verb}"), &json!({}));
    let infer = || post("/v2/models/fresh/infer", &infer_body(&[[0.; 4]]));
    assert_eq!(stack.send(infer()).await.status, StatusCode::NOT_FOUND);
    assert_eq!(stack.send(load("fresh", "load")).await.status, StatusCode::OK);
    assert_eq!(stack.send(infer()).await.status, StatusCode::OK);
    let index = stack.send(post("/v2/repository/index", &json!({}))).await.json();
    assert_eq!(index[0]["name"], "fresh");
    let garbage = stack.send(load("garbage", "load")).await;
    assert_eq!((garbage.status.as_u16(), garbage.json()), (422, json!({"error": "garbage is no model"})));
    assert_eq!(stack.send(load("fresh", "unload")).await.status, StatusCode::OK);
    assert_eq!(stack.send(infer()).await.status, StatusCode::NOT_FOUND);

    let closed = Stack::serving(vec![model("mnist")], |settings| settings.repository_api = false).await;
    let refused = closed.send(load("fresh", "load")).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.json()["error"].as_str().unwrap().contains("REPOSITORY_API"));
    assert_eq!(closed.send(post("/v2/repository/index", &json!({}))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_model_that_the_index_reports_as_ready_is_available_immediately() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    stack.model_api.models.lock().unwrap().push(model("fresh"));
    let index = stack.send(post("/v2/repository/index", &json!({}))).await.json();
    assert_eq!((&index[0]["name"], &index[0]["state"]), (&json!("fresh"), &json!("READY")));
    let answer = stack.send(post("/v2/models/fresh/infer", &infer_body(&[[0.; 4]]))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_failed_replica_is_named_in_the_error() {
    let unreachable = "http://127.0.0.1:9/".parse().unwrap();
    let stack = Stack::serving(vec![model("mnist")], |settings| settings.model_api.push(unreachable)).await;
    let load = stack.send(post("/v2/repository/models/fresh/load", &json!({}))).await;
    assert_eq!(load.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(load.json()["error"].as_str().unwrap().starts_with("Replica 2 of 2 failed"), "{}", load.text());
    assert!(load.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(stack.send(post("/v2/models/fresh/infer", &infer_body(&[[0.; 4]]))).await.status, StatusCode::OK);
    let index = stack.send(post("/v2/repository/index", &json!({}))).await.json();
    assert_eq!(index[1]["name"], "mnist", "models of the other replica are listed");
}

#[tokio::test]
async fn statistics_count_hits_and_runs_of_every_route() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    stack.send(image_request("/predict", "seven")).await;
    stack.send(image_request(INFER, "seven")).await;
    let stats = stack.send(get_request("/v2/models/mnist/stats")).await.json();
    let stats = &stats["model_stats"][0];
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(1), &json!(1)));
    assert_eq!(stats["inference_stats"]["cache_hit"]["count"], 1);
}
