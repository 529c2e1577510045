use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::Service;

fn two_rows() -> serde_json::Value {
    json!({"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4.5]]}]})
}

#[tokio::test]
async fn a_question_in_json_gets_an_answer_in_json_with_its_provenance() {
    let service = Service::new();
    for (path, version) in [("echo", "2"), ("echo/versions/1", "1")] {
        let answer = service.infer(path, two_rows()).await;
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let expected = json!({
            "model_name": "echo", "model_version": version, "id": "7",
            "parameters": {"model_digest": "sha256:abc", "device": "cpu", "decode_ms": 0.5, "queue_ms": 0.25, "infer_ms": 2.0},
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.5]}],
        });
        assert_eq!(answer.json(), expected);
    }
    assert_eq!(service.fake.asked.lock().unwrap().as_ref().unwrap().version.as_deref(), Some("1"));
}

#[tokio::test]
async fn keys_may_come_in_any_order_and_what_is_unknown_is_passed_over() {
    let service = Service::new();
    let body = r#"{"inputs": [{"data": [1, 2], "extra": {"a": [1]}, "shape": [1, 2], "datatype": "FP32",
        "parameters": {"headers": {"h": "v"}}, "name": "x"}], "outputs": null, "parameters": null, "more": [[]]}"#;
    let answer = service.infer("echo", body).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!([1.0, 2.0]));
    assert_eq!(answer["id"].as_str().unwrap().len(), 36, "an id is made up");
}

#[tokio::test]
async fn elements_may_stand_behind_the_json_both_ways() {
    let service = Service::new();
    let json = r#"{"id": "7", "parameters": {"binary_data_output": true}, "inputs": [
        {"name": "a", "datatype": "INT64", "shape": [2], "data": [1, -9223372036854775808]},
        {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}],
        "outputs": [{"name": "d"}, {"name": "c", "parameters": {"binary_data": false}}]}"#;
    let strings = b"\x02\0\0\0\xff\0\0\0\0\0";
    let answer = service.infer_binary("two", json, strings).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let head: serde_json::Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    let expected = json!([
        {"name": "d", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
        {"name": "c", "datatype": "INT64", "shape": [2], "data": [1, i64::MIN]},
    ]);
    assert_eq!(head["outputs"], expected);
    assert_eq!(&answer.body[length..], strings);
}

#[tokio::test]
async fn a_body_without_json_is_one_tensor_and_so_is_the_answer() {
    let service = Service::new();
    let floats: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let answer = service.infer_binary("echo", "", &floats).await;
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let head: serde_json::Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!(head["outputs"][0]["shape"], json!([2, 2]));
    assert_eq!(answer.body[length..], floats);

    let (status, words) = service.infer_binary("echo", "", &floats[..7]).await.error();
    assert_eq!((status, words.as_str()), (400, "7 bytes do not match datatype FP32 and shape [-1, 2] of input \"x\""));
    let (status, words) = service.infer_binary("two", "", b"").await.error();
    assert_eq!(status, 400);
    assert_eq!(words, "a body without JSON requires a model with one input; model \"two\" has the inputs \"a\", \"b\"");
    let (_, words) = service.infer_binary("any_fp32", "", &floats).await.error();
    assert_eq!(words, "the shape [-1, -1, -1] does not follow from the size of the body: send it in JSON");
    let answer = service.infer_binary("scalar_int16", "", &[1, 2]).await;
    assert!(answer.body.ends_with(&[1, 2]));
}

#[tokio::test]
async fn the_best_classes_come_with_their_labels() {
    let service = Service::new();
    let body = json!({
        "inputs": [{"name": "p", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [0, 0, 0, 0]}],
        "outputs": [{"name": "classes", "parameters": {"classification": 2}}],
    });
    let answer = service.infer("picture", body).await.json();
    let expected =
        json!([{"name": "classes", "datatype": "BYTES", "shape": [1, 2], "data": ["0.5:1:dog", "0.25:0:cat"]}]);
    assert_eq!(answer["outputs"], expected);
}

#[tokio::test]
async fn the_servers_headers_are_sent_and_a_known_answer_is_not_sent_again() {
    let service = Service::new();
    let answer = service.infer("echo", two_rows()).await;
    assert_eq!(answer.header("cache-status"), Some("mlserve; hit"));
    assert_eq!(answer.header("etag"), Some("\"key\""));
    for (tag, status) in [("\"key\"", 304), ("W/\"key\"", 304), ("\"a\", \"key\"", 304), ("*", 200), ("\"a\"", 200)] {
        let headers = [("if-none-match", tag), ("cache-control", "no-cache")];
        let answer = service.send(Method::POST, "/v2/models/echo/infer", &headers, two_rows().to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.body.is_empty()), (status, status == 304), "{tag}");
        assert_eq!(answer.header("etag"), Some("\"key\""));
    }
    let asked = service.fake.asked.lock().unwrap().take().unwrap();
    assert_eq!(asked.headers["cache-control"], "no-cache", "the caller's headers reach the server");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_given_up_when_its_time_is_over() {
    let service = Service::new();
    let body = |timeout: serde_json::Value| json!({"parameters": {"timeout": timeout}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]});
    for timeout in [json!(2_000_000), json!("2000000")] {
        let begun = tokio::time::Instant::now();
        let (status, words) = service.infer("slow", body(timeout)).await.error();
        assert_eq!((status, words.as_str()), (504, "the request timed out: no response within its timeout of 2s"));
        assert_eq!(begun.elapsed().as_secs(), Duration::from_secs(2).as_secs());
    }
    let (_, words) = service.infer("slow", body(json!(-1))).await.error();
    assert_eq!(words, "timeout is not a number of microseconds");
}

#[tokio::test]
async fn a_stream_is_one_event() {
    let service = Service::new();
    for path in ["/v2/models/echo/infer_stream", "/v2/models/echo/versions/1/infer_stream"] {
        let answer = service.post(path, two_rows().to_string()).await;
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        let text = answer.text();
        let json = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["outputs"][0]["data"], json!([1.0, 2.0, 3.0, 4.5]));
    }
    assert_eq!(service.post("/v2/models/none/infer_stream", "{}").await.error().0, 404);
}
