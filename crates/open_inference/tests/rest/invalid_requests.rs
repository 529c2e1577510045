use http::Method;
use serde_json::json;

use crate::support::{MAX_BODY_BYTES, TestService};

fn x(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}}}]}}"#)
}

/// Asserts the error of a request, and that the model did not run and the server still works.
async fn assert_rejected(model: &str, body: &str, status: u16, message: &str) {
    let service = TestService::new();
    assert_eq!(service.infer(model, body).await.error(), (status, message.to_owned()));
    assert!(service.fake.last_request.lock().unwrap().is_none(), "the model must not run");
    service.infer("echo", x("FP32", "[1, 2]", "[1, 2]")).await.json();
}

#[tokio::test]
async fn inconsistent_shapes_and_data() {
    for (shape, data, message) in [
        ("[1, 2]", "[1]", "input \"x\": shape [1, 2] has 2 elements, but 1 were sent"),
        ("[1, 2]", "[1, 2, 3]", "input \"x\": shape [1, 2] has 2 elements, but more were sent"),
        ("[-1, 2]", "[1, 2]", "input \"x\": shape [-1, 2] has a negative length"),
        ("[4611686018427387904, 4]", "[1]", "input \"x\": shape [4611686018427387904, 4] has too many elements"),
        ("[1, 1, 1, 1, 1, 1, 1, 1, 1]", "[1]", "input \"x\": shape has 9 axes, at most 8 are supported"),
        ("[1, 2]", "[[[1, 2]]]", "input \"x\": its data is nested deeper than the 2 axes of its shape"),
        ("[2, 2]", "[[1], [2, 3, 4]]", "input \"x\": a list on axis 1 has 1 elements, where the shape is [2, 2]"),
        ("[1, 2]", "[1, 1e39]", "input \"x\": element 1: 1e39 is not a valid FP32"),
        ("[1, 2]", "[1, \"nan\"]", "input \"x\": element 1: \"nan\" is not a valid FP32"),
        ("[1, 2]", "[1, {}]", "input \"x\": its data contains an object"),
    ] {
        assert_rejected("echo", &x("FP32", shape, data), 400, message).await;
    }
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let message = "input \"x\": its data is nested deeper than the 2 axes of its shape";
    assert_rejected("echo", &x("FP32", "[1, 2]", &deep), 400, message).await;
}

#[tokio::test]
async fn unknown_or_missing_inputs() {
    assert_rejected("echo", r#"{"inputs": []}"#, 422, "input \"x\" is missing; model \"echo\" has the inputs \"x\"")
        .await;
    let y = x("FP32", "[1, 2]", "[1, 2]").replace("\"x\"", "\"y\"");
    assert_rejected("echo", &y, 422, "model \"echo\" has no input \"y\"; its inputs are \"x\"").await;
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
    assert_rejected("echo", &json!({"inputs": [input, input]}).to_string(), 400, "input \"x\" is given twice").await;
    assert_rejected("echo", &x("INT64", "[1, 2]", "[1, 2]"), 422, "input \"x\" is FP32, not INT64").await;
    let message = "input \"x\": \"FP33\" is not a datatype; valid datatypes are: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, \
                 INT64, FP16, BF16, FP32, FP64, BYTES";
    assert_rejected("echo", &x("FP33", "[1, 2]", "[1, 2]"), 400, message).await;
    let message = "input \"x\" has the shape [-1, 2] (-1: any length), not [1, 3]";
    assert_rejected("echo", &x("FP32", "[1, 3]", "[1, 2, 3]"), 422, message).await;
    let message =
        "input \"x\" of the shape [0, 2] has no elements, which the model's settings do not allow (allow_empty)";
    assert_rejected("echo", &x("FP32", "[0, 2]", "[]"), 422, message).await;
}

#[tokio::test]
async fn unknown_or_invalid_outputs() {
    let body = |outputs: serde_json::Value| {
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
        json!({"inputs": [input], "outputs": outputs}).to_string()
    };
    let unknown = body(json!([{"name": "z"}]));
    assert_rejected("echo", &unknown, 422, "model \"echo\" has no output \"z\"; its outputs are \"y\"").await;
    let shared = body(json!([{"name": "y", "parameters": {"shared_memory_region": "r"}}]));
    assert_rejected("echo", &shared, 400, "output \"y\" is requested in shared memory, which is not supported").await;
    assert_rejected("echo", &body(json!([{"name": "y"}, {"name": "y"}])), 400, "output \"y\" is requested twice").await;
    let classes = body(json!([{"name": "y", "parameters": {"classification": -1}}]));
    assert_rejected("echo", &classes, 400, "classification of output \"y\" is not a number of classes").await;
    let flag = body(json!([{"name": "y", "parameters": {"binary_data": 1}}]));
    assert_rejected("echo", &flag, 400, "binary_data is not a boolean").await;
}

#[tokio::test]
async fn invalid_json() {
    for (body, message) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{}", "missing field `inputs` at line 1 column 2"),
        (r#"{"inputs": 1}"#, "invalid type: integer `1`, expected a sequence at line 1 column 12"),
        (r#"{"inputs": [], "inputs": []}"#, "duplicate field `inputs` at line 1 column 23"),
        ("[]", "invalid type: sequence, expected an object at line 1 column 0"),
        (r#"{"inputs": [["x"]]}"#, "invalid type: sequence, expected an object at line 1 column 12"),
        (r#"{"inputs": []} x"#, "trailing characters at line 1 column 16"),
        (r#"{"inputs": [{"name": "x", "data": [NaN]}]}"#, "expected value at line 1 column 36"),
        (
            r#"{"inputs": [{"name": "x", "shape": [1.5]}]}"#,
            "invalid type: floating point `1.5`, expected i64 at line 1 column 39",
        ),
        (
            r#"{"inputs": [{"name": "x", "shape": [9223372036854775808]}]}"#,
            "invalid value: integer `9223372036854775808`, expected i64 at line 1 column 55",
        ),
    ] {
        assert_rejected("echo", body, 400, &format!("the body is not a valid inference request: {message}")).await;
    }
    let deep = "[".repeat(200_000);
    let service = TestService::new();
    for body in [format!(r#"{{"inputs": {deep}"#), format!(r#"{{"parameters": {{"a": {deep}"#), deep] {
        assert_eq!(service.infer("echo", body).await.error().0, 400);
    }
    let none = r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}"#;
    assert_rejected("echo", none, 400, "input \"x\" has neither data nor a binary_data_size").await;
    let shared = none.replace("}]}", r#", "parameters": {"shared_memory_region": "r"}}]}"#);
    assert_rejected("echo", &shared, 400, "input \"x\" is in shared memory, which is not supported").await;
}

#[tokio::test]
async fn invalid_binary_data_sizes() {
    let head = |shape: &str, size: &str| {
        format!(
            r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": {shape}, "parameters": {{"binary_data_size": {size}}}}}]}}"#
        )
    };
    for (head, tail, message) in [
        (head("[1, 2]", "8"), 7, "binary_data_size of \"x\" is 8, but only 7 bytes are left"),
        (head("[1, 2]", "8"), 9, "1 bytes after the JSON belong to no tensor"),
        (head("[1, 2]", "-1"), 8, "binary_data_size of \"x\" is not a number of bytes"),
        (head("[1, 2]", "\"8\""), 8, "binary_data_size of \"x\" is not a number of bytes"),
        (
            head("[1, 2]", "18446744073709551615"),
            8,
            "binary_data_size of \"x\" is 18446744073709551615, but only 8 bytes are left",
        ),
        (head("[1, 2]", "7"), 7, "input \"x\": shape [1, 2] of FP32 takes 8 bytes, but 7 were sent"),
        (head("[-1, 2]", "8"), 8, "input \"x\": shape [-1, 2] has a negative length"),
        (head("[9223372036854775807, 2]", "8"), 8, "input \"x\": shape [9223372036854775807, 2] has too many elements"),
        (
            head("[1, 2]", "8").replace("\"parameters\"", "\"data\": [1, 2], \"parameters\""),
            8,
            "input \"x\" has both data in the JSON and binary data",
        ),
    ] {
        let service = TestService::new();
        let error = service.infer_binary("echo", &head, &vec![0; tail]).await.error();
        assert_eq!(error, (400, message.to_owned()));
    }
    let strings = head("[1]", "8").replace("FP32", "BYTES").replace("\"x\"", "\"b\"");
    let service = TestService::new();
    let error = service.infer_binary("two", &strings, b"\xff\xff\xff\xffabcd").await.error();
    let message = "input \"b\": element 0 of BYTES has a length of 4294967295 bytes, but only 4 are left";
    assert_eq!(error, (400, message.to_owned()));
}

#[tokio::test]
async fn invalid_header_lengths() {
    let service = TestService::new();
    let send = |values: &'static [&'static str]| {
        let headers: Vec<_> = values.iter().map(|value| ("inference-header-content-length", *value)).collect();
        let service = &service;
        async move { service.send(Method::POST, "/v2/models/echo/infer", &headers, "{}").await.error() }
    };
    let name = "inference-header-content-length";
    for (values, message) in [
        (&["3"][..], format!("{name} is 3, but the body has only 2 bytes")),
        (&["-1"], format!("{name} is not a length: \"-1\"")),
        (&["+1"], format!("{name} is not a length: \"+1\"")),
        (&[""], format!("{name} is not a length: \"\"")),
        (&["abc"], format!("{name} is not a length: \"abc\"")),
        (&["18446744073709551616"], format!("{name} is not a length: \"18446744073709551616\"")),
        (&["9223372036854775808"], format!("{name} is 9223372036854775808, but the body has only 2 bytes")),
        (&["2", "2"], format!("{name} is given twice")),
    ] {
        assert_eq!(send(values).await, (400, message));
    }
}

#[tokio::test]
async fn requests_beyond_the_size_limit() {
    let service = TestService::new();
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    let error = service.post("/v2/models/echo/infer", large).await.error();
    assert_eq!(error, (413, "The body is larger than 1048576 bytes; send less in one request.".to_owned()));
    // Two bytes of JSON per number, and four of tensor data.
    let rows = 200_000;
    let data = format!("[{}]", vec!["1"; 2 * rows].join(","));
    let body = x("FP32", &format!("[{rows}, 2]"), &data);
    assert!(body.len() < MAX_BODY_BYTES);
    let error = service.infer("echo", body).await.error();
    assert_eq!(error, (413, "the tensors of the request take more than 983040 bytes".to_owned()));
    let promise = x("FP32", "[100000000000, 2]", "[]");
    assert_eq!(service.infer("echo", promise).await.error().0, 413);
}

#[tokio::test]
async fn too_many_tensors_axes_or_parameters() {
    let service = TestService::new();
    let input = |shape: serde_json::Value| json!({"name": "x", "datatype": "FP32", "shape": shape, "data": [1, 2]});
    let parameters: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), n.into())).collect();
    for (body, message) in [
        (
            json!({"inputs": vec![json!({"name": "", "datatype": "", "shape": []}); 4097]}),
            "a list has more than 4096 elements",
        ),
        (json!({"inputs": [], "outputs": vec![json!({"name": "y"}); 4097]}), "a list has more than 4096 elements"),
        (json!({"inputs": [input(json!(vec![1; 65]))]}), "a list has more than 64 elements"),
        (json!({"inputs": [], "parameters": parameters}), "there are more than 64 parameters"),
    ] {
        let (status, error) = service.infer("echo", body).await.error();
        assert!(status == 400 && error.contains(message), "{error}");
    }
    let id = |length| json!({"id": "i".repeat(length), "inputs": [input(json!([1, 2]))]}).to_string();
    assert_rejected("echo", &id(1025), 400, "the id has more than 1024 bytes").await;
    assert_eq!(service.infer("echo", id(1024)).await.json()["id"].as_str().map(str::len), Some(1024));
}

#[tokio::test]
async fn unknown_models_and_versions() {
    assert_rejected("none", "{}", 404, "there is no model \"none\"").await;
    assert_rejected("echo/versions/9", "{}", 404, "there is no version \"9\" of model \"echo\"").await;
    assert_rejected("loading", "{}", 503, "model \"loading\" is being read").await;
}

#[tokio::test]
async fn error_messages_truncate_client_input() {
    let service = TestService::new();
    let long = "n".repeat(500_000);
    for body in [
        json!({"inputs": [{"name": long, "datatype": "FP32", "shape": [1], "data": [1]}]}),
        json!({"inputs": [{"name": "x", "datatype": long, "shape": [1], "data": [1]}]}),
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [long, 1]}]}),
        json!({"inputs": [], "outputs": [{"name": long}]}),
        json!({"inputs": [], "parameters": {"content_type": long}}),
        json!({"inputs": long}),
        json!({"inputs": [long]}),
        json!({"inputs": [], "parameters": long}),
        json!({"inputs": [], "outputs": long}),
        json!(long),
    ] {
        let (status, message) = service.infer("echo", body).await.error();
        assert!((400..500).contains(&status) && message.len() < 400, "{status} {}", message.len());
    }
    let load = json!({"parameters": "n".repeat(500_000)}).to_string();
    let (status, message) = service.post("/v2/repository/models/echo/load", load).await.error();
    assert!(status == 400 && message.len() < 400, "{status} {}", message.len());
}
