use http::Method;
use serde_json::json;

use crate::support::{MAX_BODY_BYTES, Service};

fn x(datatype: &str, shape: &str, data: &str) -> String {
    format!(r#"{{"inputs": [{{"name": "x", "datatype": "{datatype}", "shape": {shape}, "data": {data}}}]}}"#)
}

/// Asks, wants exactly this error, and sees that a good request is still answered.
async fn refused(model: &str, body: &str, status: u16, words: &str) {
    let service = Service::new();
    assert_eq!(service.infer(model, body).await.error(), (status, words.to_owned()));
    assert!(service.fake.asked.lock().unwrap().is_none(), "the model must not be asked");
    service.infer("echo", x("FP32", "[1, 2]", "[1, 2]")).await.json();
}

#[tokio::test]
async fn shapes_and_data_that_contradict_each_other() {
    for (shape, data, words) in [
        ("[1, 2]", "[1]", "input \"x\": shape [1, 2] has 2 elements, but 1 were sent"),
        ("[1, 2]", "[1, 2, 3]", "input \"x\": shape [1, 2] has 2 elements, but more were sent"),
        ("[-1, 2]", "[1, 2]", "input \"x\": shape [-1, 2] has a negative length"),
        (
            "[4611686018427387904, 4]",
            "[1]",
            "input \"x\": shape [4611686018427387904, 4] has more elements than any memory holds",
        ),
        ("[1, 1, 1, 1, 1, 1, 1, 1, 1]", "[1]", "input \"x\": shape has 9 axes, at most 8 are served"),
        ("[1, 2]", "[[[1, 2]]]", "input \"x\": its data is nested deeper than the 2 axes of its shape"),
        ("[2, 2]", "[[1], [2, 3, 4]]", "input \"x\": a list on axis 1 has 1 elements, where the shape is [2, 2]"),
        ("[1, 2]", "[1, 1e39]", "input \"x\": element 1: 1e39 is no FP32"),
        ("[1, 2]", "[1, \"nan\"]", "input \"x\": element 1: \"nan\" is no FP32"),
        ("[1, 2]", "[1, {}]", "input \"x\": its data has an object among its elements"),
    ] {
        refused("echo", &x("FP32", shape, data), 400, words).await;
    }
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let words = "input \"x\": its data is nested deeper than the 2 axes of its shape";
    refused("echo", &x("FP32", "[1, 2]", &deep), 400, words).await;
}

#[tokio::test]
async fn inputs_that_the_model_does_not_have() {
    refused("echo", r#"{"inputs": []}"#, 422, "input \"x\" is missing; model \"echo\" takes \"x\"").await;
    let y = x("FP32", "[1, 2]", "[1, 2]").replace("\"x\"", "\"y\"");
    refused("echo", &y, 422, "model \"echo\" has no input \"y\"; it takes \"x\"").await;
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
    refused("echo", &json!({"inputs": [input, input]}).to_string(), 400, "input \"x\" is given twice").await;
    refused("echo", &x("INT64", "[1, 2]", "[1, 2]"), 422, "input \"x\" is FP32, not INT64").await;
    let words = "input \"x\": \"FP33\" is no datatype; there are: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, \
                 INT64, FP16, BF16, FP32, FP64, BYTES";
    refused("echo", &x("FP33", "[1, 2]", "[1, 2]"), 400, words).await;
    let words = "input \"x\" has the shape [-1, 2] (-1: any length), not [1, 3]";
    refused("echo", &x("FP32", "[1, 3]", "[1, 2, 3]"), 422, words).await;
    let words = "input \"x\" of the shape [0, 2] has no elements; the model's settings allow none (allow_empty)";
    refused("echo", &x("FP32", "[0, 2]", "[]"), 422, words).await;
}

#[tokio::test]
async fn outputs_that_the_model_does_not_have() {
    let body = |outputs: serde_json::Value| {
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
        json!({"inputs": [input], "outputs": outputs}).to_string()
    };
    let unknown = body(json!([{"name": "z"}]));
    refused("echo", &unknown, 422, "model \"echo\" has no output \"z\"; it gives \"y\"").await;
    let shared = body(json!([{"name": "y", "parameters": {"shared_memory_region": "r"}}]));
    refused("echo", &shared, 400, "output \"y\" is wanted in shared memory, which is not served").await;
    refused("echo", &body(json!([{"name": "y"}, {"name": "y"}])), 400, "output \"y\" is asked for twice").await;
    let classes = body(json!([{"name": "y", "parameters": {"classification": -1}}]));
    refused("echo", &classes, 400, "classification of output \"y\" is not a number of classes").await;
    let flag = body(json!([{"name": "y", "parameters": {"binary_data": 1}}]));
    refused("echo", &flag, 400, "binary_data is neither true nor false").await;
}

#[tokio::test]
async fn what_is_no_json_of_a_request() {
    for (body, words) in [
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
        refused("echo", body, 400, &format!("the body is no JSON of an inference request: {words}")).await;
    }
    let deep = "[".repeat(200_000);
    let service = Service::new();
    for body in [format!(r#"{{"inputs": {deep}"#), format!(r#"{{"parameters": {{"a": {deep}"#), deep] {
        assert_eq!(service.infer("echo", body).await.error().0, 400);
    }
    let none = r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}"#;
    refused("echo", none, 400, "input \"x\" has neither data nor a binary_data_size").await;
    let shared = none.replace("}]}", r#", "parameters": {"shared_memory_region": "r"}}]}"#);
    refused("echo", &shared, 400, "input \"x\" is in shared memory, which is not served").await;
}

#[tokio::test]
async fn binary_tensors_whose_lengths_are_wrong() {
    let head = |shape: &str, size: &str| {
        format!(
            r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": {shape}, "parameters": {{"binary_data_size": {size}}}}}]}}"#
        )
    };
    for (head, tail, words) in [
        (head("[1, 2]", "8"), 7, "binary_data_size of \"x\" is 8, but only 7 bytes are left"),
        (head("[1, 2]", "8"), 9, "1 bytes behind the JSON belong to no tensor"),
        (head("[1, 2]", "-1"), 8, "binary_data_size of \"x\" is not a number of bytes"),
        (head("[1, 2]", "\"8\""), 8, "binary_data_size of \"x\" is not a number of bytes"),
        (
            head("[1, 2]", "18446744073709551615"),
            8,
            "binary_data_size of \"x\" is 18446744073709551615, but only 8 bytes are left",
        ),
        (head("[1, 2]", "7"), 7, "input \"x\": shape [1, 2] of FP32 takes 8 bytes, but 7 were sent"),
        (head("[-1, 2]", "8"), 8, "input \"x\": shape [-1, 2] has a negative length"),
        (
            head("[9223372036854775807, 2]", "8"),
            8,
            "input \"x\": shape [9223372036854775807, 2] has more elements than any memory holds",
        ),
        (
            head("[1, 2]", "8").replace("\"parameters\"", "\"data\": [1, 2], \"parameters\""),
            8,
            "input \"x\" has data both in the JSON and behind it",
        ),
    ] {
        let service = Service::new();
        let error = service.infer_binary("echo", &head, &vec![0; tail]).await.error();
        assert_eq!(error, (400, words.to_owned()));
    }
    let strings = head("[1]", "8").replace("FP32", "BYTES").replace("\"x\"", "\"b\"");
    let service = Service::new();
    let error = service.infer_binary("two", &strings, b"\xff\xff\xff\xffabcd").await.error();
    let words = "input \"b\": element 0 of BYTES is said to have 4294967295 bytes, but only 4 are left";
    assert_eq!(error, (400, words.to_owned()));
}

#[tokio::test]
async fn header_lengths_that_no_body_has() {
    let service = Service::new();
    let send = |values: &'static [&'static str]| {
        let headers: Vec<_> = values.iter().map(|value| ("inference-header-content-length", *value)).collect();
        let service = &service;
        async move { service.send(Method::POST, "/v2/models/echo/infer", &headers, "{}").await.error() }
    };
    let name = "inference-header-content-length";
    for (values, words) in [
        (&["3"][..], format!("{name} is 3, but the body has only 2 bytes")),
        (&["-1"], format!("{name} is no length: \"-1\"")),
        (&["+1"], format!("{name} is no length: \"+1\"")),
        (&[""], format!("{name} is no length: \"\"")),
        (&["abc"], format!("{name} is no length: \"abc\"")),
        (&["18446744073709551616"], format!("{name} is no length: \"18446744073709551616\"")),
        (&["9223372036854775808"], format!("{name} is 9223372036854775808, but the body has only 2 bytes")),
        (&["2", "2"], format!("{name} is given twice")),
    ] {
        assert_eq!(send(values).await, (400, words));
    }
}

#[tokio::test]
async fn more_than_a_request_may_have() {
    let service = Service::new();
    let large = vec![b' '; MAX_BODY_BYTES + 1];
    let error = service.post("/v2/models/echo/infer", large).await.error();
    assert_eq!(error, (413, "The body is larger than 1048576 bytes; send less in one request.".to_owned()));
    // Two bytes of JSON each, and four of a tensor.
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
async fn lists_and_parameters_that_would_take_far_more_memory_than_the_body() {
    let service = Service::new();
    let input = |shape: serde_json::Value| json!({"name": "x", "datatype": "FP32", "shape": shape, "data": [1, 2]});
    let parameters: serde_json::Map<_, _> = (0..65).map(|n| (n.to_string(), n.into())).collect();
    for (body, words) in [
        (
            json!({"inputs": vec![json!({"name": "", "datatype": "", "shape": []}); 4097]}),
            "a list has more than 4096 members",
        ),
        (json!({"inputs": [], "outputs": vec![json!({"name": "y"}); 4097]}), "a list has more than 4096 members"),
        (json!({"inputs": [input(json!(vec![1; 65]))]}), "a list has more than 64 members"),
        (json!({"inputs": [], "parameters": parameters}), "there are more than 64 parameters"),
    ] {
        let (status, error) = service.infer("echo", body).await.error();
        assert!(status == 400 && error.contains(words), "{error}");
    }
    let id = |length| json!({"id": "i".repeat(length), "inputs": [input(json!([1, 2]))]}).to_string();
    refused("echo", &id(1025), 400, "the id has more than 1024 bytes").await;
    assert_eq!(service.infer("echo", id(1024)).await.json()["id"].as_str().map(str::len), Some(1024));
}

#[tokio::test]
async fn models_and_versions_that_do_not_exist() {
    refused("none", "{}", 404, "there is no model \"none\"").await;
    refused("echo/versions/9", "{}", 404, "there is no version \"9\" of model \"echo\"").await;
    refused("loading", "{}", 503, "model \"loading\" is being read").await;
}

#[tokio::test]
async fn an_error_repeats_no_more_than_a_piece_of_what_was_sent() {
    let service = Service::new();
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
        let (status, words) = service.infer("echo", body).await.error();
        assert!((400..500).contains(&status) && words.len() < 400, "{status} {}", words.len());
    }
    let load = json!({"parameters": "n".repeat(500_000)}).to_string();
    let (status, words) = service.post("/v2/repository/models/echo/load", load).await.error();
    assert!(status == 400 && words.len() < 400, "{status} {}", words.len());
}
