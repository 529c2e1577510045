use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::TestService;

fn two_rows() -> serde_json::Value {
    json!({"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]}]})
}

#[tokio::test]
async fn a_json_request_gets_a_json_response_with_provenance() {
    let service = TestService::new();
    for (path, version) in [("echo", "2"), ("echo/versions/1", "1")] {
        let response = service.infer(path, two_rows()).await;
        assert_eq!(response.header("content-type"), Some("application/json"));
        let expected = json!({
            "model_name": "echo", "model_version": version, "id": "7",
            "parameters": {"model_digest": "sha256:abc", "device": "cpu", "decode_ms": 0.5, "queue_ms": 0.25, "infer_ms": 2.0},
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.5]}],
        });
        assert_eq!(response.json(), expected);
    }
    assert_eq!(service.fake.last_request.lock().unwrap().as_ref().unwrap().version.as_deref(), Some("1"));
}

#[tokio::test]
async fn keys_may_be_in_any_order_and_unknown_keys_are_ignored() {
    let service = TestService::new();
    let body = r#"{"inputs": [{"data": [1, 2], "extra": {"a": [1]}, "shape": [1, 2], "datatype": "FP32",
        "parameters": {"headers": {"h": "v"}}, "name": "x"}], "outputs": null, "parameters": null, "more": [[]]}"#;
    let response = service.infer("echo", body).await.json();
    assert_eq!(response["outputs"][0]["data"], json!([1.0, 2.0]));
    assert_eq!(response["id"].as_str().unwrap().len(), 36, "an id is generated");
}

#[tokio::test]
async fn binary_data_works_in_both_directions() {
    let service = TestService::new();
    let json = r#"{"id": "7", "parameters": {"binary_data_output": true}, "inputs": [
        {"name": "a", "datatype": "INT64", "shape": [2], "data": [1, -9223372036854775808]},
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}],
        "outputs": [{"name": "d"}, {"name": "c", "parameters": {"binary_data": false}}]}"#;
    let strings = b"\x02\0\0\0\xff\0\0\0\0\0";
    let response = service.infer_binary("two", json, strings).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    let length: usize = response.header("inference-header-content-length").unwrap().parse().unwrap();
    let head: serde_json::Value = serde_json::from_slice(&response.body[..length]).unwrap();
    let expected = json!([
        {"name": "d", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
        {"name": "c", "datatype": "INT64", "shape": [2], "data": [1, i64::MIN]},
    ]);
    assert_eq!(head["outputs"], expected);
    assert_eq!(&response.body[length..], strings);
}

#[tokio::test]
async fn a_body_without_json_is_a_raw_tensor() {
    let service = TestService::new();
    let floats: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let response = service.infer_binary("echo", "", &floats).await;
    let length: usize = response.header("inference-header-content-length").unwrap().parse().unwrap();
    let head: serde_json::Value = serde_json::from_slice(&response.body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["shape"], json!([2, 2]));
    assert_eq!(response.body[length..], floats);

    let (status, message) = service.infer_binary("echo", "", &floats[..7]).await.error();
    assert_eq!(
        (status, message.as_str()),
        (400, "7 bytes do not match datatype FP32 and shape [-1, 2] of input \"x\"")
    );
    let (status, message) = service.infer_binary("two", "", b"").await.error();
    assert_eq!(status, 400);
    assert_eq!(
        message,
        "a body without JSON requires a model with one input; model \"two\" has the inputs \"a\", \"b\""
    );
    let (_, message) = service.infer_binary("any_fp32", "", &floats).await.error();
    assert_eq!(message, "the shape [-1, -1, -1] does not follow from the size of the body: send it in JSON");
    let response = service.infer_binary("scalar_int16", "", &[1, 2]).await;
    assert!(response.body.ends_with(&[1, 2]));
}

#[tokio::test]
async fn top_classes_have_labels() {
    let service = TestService::new();
    let body = json!({
        "inputs": [{"name": "p", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [0, 0, 0, 0]}],
        "outputs": [{"name": "classes", "parameters": {"classification": 2}}],
    });
    let response = service.infer("image", body).await.json();
    let expected =
        json!([{"name": "classes", "datatype": "BYTES", "shape": [1, 2], "data": ["0.5:1:dog", "0.25:0:cat"]}]);
    assert_eq!(response["outputs"], expected);
}

#[tokio::test]
async fn response_headers_are_sent_and_a_matching_etag_gives_304() {
    let service = TestService::new();
    let response = service.infer("echo", two_rows()).await;
    assert_eq!(response.header("cache-status"), Some("mlserve; hit"));
    assert_eq!(response.header("etag"), Some("\"key\""));
    for (tag, status) in [("\"key\"", 304), ("W/\"key\"", 304), ("\"a\", \"key\"", 304), ("*", 200), ("\"a\"", 200)] {
        let headers = [("if-none-match", tag), ("cache-control", "no-cache")];
        let response = service.send(Method::POST, "/v2/models/echo/infer", &headers, two_rows().to_string()).await;
        assert_eq!((response.status.as_u16(), response.body.is_empty()), (status, status == 304), "{tag}");
        assert_eq!(response.header("etag"), Some("\"key\""));
    }
    let request = service.fake.last_request.lock().unwrap().take().unwrap();
    assert_eq!(request.headers["cache-control"], "no-cache", "the caller's headers reach the server");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_cancelled_at_its_timeout() {
    let service = TestService::new();
    let body = |timeout: serde_json::Value| json!({"parameters": {"timeout": timeout}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]});
    for timeout in [json!(2_000_000), json!("2000000")] {
        let started = tokio::time::Instant::now();
        let (status, message) = service.infer("slow", body(timeout)).await.error();
        assert_eq!((status, message.as_str()), (504, "the request timed out: no response within its timeout of 2s"));
        assert_eq!(started.elapsed().as_secs(), Duration::from_secs(2).as_secs());
    }
    let (_, message) = service.infer("slow", body(json!(-1))).await.error();
    assert_eq!(message, "timeout is not a number of microseconds");
}

#[tokio::test]
async fn a_stream_has_one_event() {
    let service = TestService::new();
    for path in ["/v2/models/echo/infer_stream", "/v2/models/echo/versions/1/infer_stream"] {
        let response = service.post(path, two_rows().to_string()).await;
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        let text = response.text();
        let json = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["outputs"][0]["data"], json!([1.0, 2.0, 3.0, 4.5]));
    }
    assert_eq!(service.post("/v2/models/none/infer_stream", "{}").await.error().0, 404);
}
