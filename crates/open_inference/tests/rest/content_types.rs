use open_inference::Datatype;
use serde_json::{Value, json};

use crate::support::TestService;

fn input(name: &str, datatype: &str, shape: &[i64], data: impl Into<Value>) -> Value {
    let data: Value = data.into();
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

#[tokio::test]
async fn base64_is_decoded_and_encoded_on_request() {
    let service = TestService::new();
    let strings = |parameters: Value| {
        let mut b = input("b", "BYTES", &[1], json!(["/wA="]));
        b["parameters"] = parameters;
        json!([input("a", "INT64", &[1], json!([1])), b])
    };
    let base64 = json!({"content_type": "base64"});
    let requested = json!([{"name": "d", "parameters": base64}]);
    for body in [
        json!({"inputs": strings(base64.clone()), "outputs": requested}),
        json!({"inputs": strings(json!({})), "parameters": base64, "outputs": requested}),
    ] {
        let response = service.infer("two", body).await.json();
        assert_eq!(response["outputs"][0]["data"], json!(["/wA="]));
        assert_eq!(response["outputs"][0]["parameters"], base64);
        let request = service.fake.last_request.lock().unwrap().take().unwrap();
        assert_eq!(request.inputs[1].data, &b"\x02\0\0\0\xff\0"[..]);
    }
    let text = json!({"content_type": "str"});
    let response = service.infer("two", json!({"inputs": strings(text)})).await.json();
    assert_eq!(response["outputs"][1]["data"], json!(["/wA="]), "text is unchanged");
}

#[tokio::test]
async fn lenient_forms_of_base64_are_accepted() {
    let service = TestService::new();
    for text in ["/wA=", "/wA", "_wA=", "/w\r\nA=\n", "data:image/png;base64,/wA="] {
        let response =
            service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!([text]))]})).await.json();
        assert_eq!(response["outputs"][0]["data"], json!(["/wA="]), "{text:?}");
    }
    for (text, message) in [
        ("data:,/wA=", "is a data URL whose data is not base64: it has no \";base64,\""),
        ("/w A=", "is not base64: it has a space inside a group of four characters, where a \"+\" may have stood"),
    ] {
        let rejected = service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!([text]))]})).await;
        assert_eq!(rejected.error(), (400, format!("input \"b\": element 0 {message}")));
    }
}

#[tokio::test]
async fn null_becomes_nan_in_a_float_column() {
    let service = TestService::new();
    let request = |l: Value| json!({"parameters": {"content_type": "pd"}, "inputs": [input("t", "FP64", &[2], l)]});
    let (status, message) = service.infer("dates", request(json!([1, null]))).await.error();
    assert_eq!((status, message.as_str()), (422, "column \"t\": element 1: NaN is not a valid INT64"));
}

#[tokio::test]
async fn content_types_of_the_settings_apply_once_between_services() {
    let service = TestService::new();
    let response =
        service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!(["/wA="]))]})).await.json();
    assert_eq!(response["outputs"][0]["data"], json!(["/wA="]));
    let request = service.fake.last_request.lock().unwrap().take().unwrap();
    assert_eq!(request.inputs[0].data, &b"\x02\0\0\0\xff\0"[..]);

    let (headers, body) = open_inference::client::encode_request(&request.inputs);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let response = service.send(http::Method::POST, "/v2/models/marked/infer", &headers, body).await;
    let passed_on = service.fake.last_request.lock().unwrap().take().unwrap();
    assert_eq!(passed_on.inputs, request.inputs);
    let inference = open_inference::client::decode_response(&response.headers, response.body).unwrap();
    assert_eq!(inference.outputs[0].data, request.inputs[0].data);
}

#[tokio::test]
async fn dates_are_converted_to_seconds_and_back() {
    let service = TestService::new();
    let mut t = input("t", "BYTES", &[2], json!(["2024-05-17T12:30:00Z", "1970-01-01"]));
    t["parameters"] = json!({"content_type": "datetime"});
    let requested = json!([{"name": "u", "parameters": {"content_type": "datetime"}}]);
    let response = service.infer("dates", json!({"inputs": [t], "outputs": requested})).await.json();
    let expected = json!({
        "name": "u", "datatype": "BYTES", "shape": [2], "parameters": {"content_type": "datetime"},
        "data": ["2024-05-17T12:30:00Z", "1970-01-01T00:00:00Z"],
    });
    assert_eq!(response["outputs"][0], expected);
}

#[tokio::test]
async fn table_columns_are_mapped_to_inputs() {
    let service = TestService::new();
    let inputs = json!([
        input("town", "BYTES", &[2], json!(["Rome", "Oslo"])),
        input("age", "FP64", &[2, 1], json!([30.5, 40])),
    ]);
    let response =
        service.infer("columns", json!({"parameters": {"content_type": "pd"}, "inputs": inputs})).await.json();
    assert_eq!(response["outputs"][0], json!({"name": "a", "datatype": "FP32", "shape": [2, 1], "data": [30.5, 40.0]}));
    assert_eq!(response["outputs"][1]["shape"], json!([2, 1]));
    let (status, message) = service.infer("columns", json!({"inputs": inputs})).await.error();
    assert_eq!((status, message.as_str()), (422, "input \"town\" has the shape [-1, 1] (-1: any length), not [2]"));
}

#[tokio::test]
async fn table_columns_are_concatenated_to_a_matrix() {
    let service = TestService::new();
    let inputs = |third: Value| {
        let (first, second) = (input("l", "FP64", &[2], json!([1, 4])), input("w", "INT64", &[2], json!([2, 5])));
        json!({"parameters": {"content_type": "pd"}, "inputs": [first, second, third]})
    };
    let response = service.infer("table", inputs(input("h", "BOOL", &[2, 1], json!([true, false])))).await.json();
    assert_eq!(response["outputs"][0]["data"], json!([1.0, 2.0, 1.0, 4.0, 5.0, 0.0]));
    let request = service.fake.last_request.lock().unwrap().take().unwrap();
    let [matrix] = &request.inputs[..] else { panic!("one matrix") };
    assert_eq!((matrix.name.as_str(), matrix.datatype, &matrix.shape[..]), ("X", Datatype::Fp32, &[2, 3][..]));

    for (third, message) in [
        (input("h", "FP32", &[3], json!([1, 2, 3])), "column \"h\" has the shape [3], where the first has 2 rows"),
        (input("w", "FP32", &[2], json!([1, 2])), "input \"w\" is given twice"),
        (input("h", "BYTES", &[2], json!(["a", "b"])), "column \"h\" is BYTES, which cannot be converted to FP32"),
    ] {
        assert_eq!(service.infer("table", inputs(third)).await.error().1, message);
    }
    let one = json!({"parameters": {"content_type": "pd"}, "inputs": [input("l", "FP64", &[2], json!([1, 4]))]});
    let (status, message) = service.infer("table", one).await.error();
    assert_eq!((status, message.as_str()), (422, "input \"X\" has the shape [-1, 3] (-1: any length), not [2, 1]"));
}

#[tokio::test]
async fn an_unrepresentable_number_in_a_column_is_rejected() {
    let service = TestService::new();
    let t = input("t", "FP64", &[2], json!([1, 1.5]));
    let (status, message) =
        service.infer("dates", json!({"parameters": {"content_type": "pd"}, "inputs": [t]})).await.error();
    assert_eq!((status, message.as_str()), (422, "column \"t\": element 1: 1.5 is not a valid INT64"));
}

#[tokio::test]
async fn incompatible_content_types_are_rejected() {
    let service = TestService::new();
    let b = |data: Value, content_type: &str| {
        let mut b = input("b", "BYTES", &[1], data);
        b["parameters"] = json!({"content_type": content_type});
        json!({"inputs": [input("a", "INT64", &[1], json!([1])), b]})
    };
    for (body, message) in [
        (b(json!(["*"]), "base64"), "input \"b\": element 0 is not base64"),
        (
            b(json!(["soon"]), "datetime"),
            "input \"b\": element 0 is not a date in ISO 8601, such as 2024-05-17T12:30:00Z",
        ),
        (
            b(json!(["x"]), "hf"),
            "content type \"hf\" is not supported; supported content types are: np, pd, str, base64, datetime, image",
        ),
    ] {
        assert_eq!(service.infer("two", body).await.error(), (400, message.to_owned()));
    }
    let requested = |name: &str, parameters: Value| {
        let x = input("a", "INT64", &[1], json!([1]));
        let b = input("b", "BYTES", &[1], json!(["x"]));
        json!({"inputs": [x, b], "outputs": [{"name": name, "parameters": parameters}]})
    };
    for (name, parameters, message) in [
        ("c", json!({"content_type": "base64"}), "output \"c\" is INT64; it cannot be returned as base64"),
        ("c", json!({"content_type": "str"}), "output \"c\" is INT64; it cannot be returned as text"),
        ("d", json!({"content_type": "image"}), "output \"d\" is BYTES; it cannot be returned as an image"),
        ("d", json!({"classification": 1}), "output \"d\" is BYTES; it cannot be returned as classes"),
    ] {
        assert_eq!(service.infer("two", requested(name, parameters)).await.error(), (422, message.to_owned()));
    }
    assert!(service.fake.last_request.lock().unwrap().is_none(), "all errors are found before the model runs");
}

#[tokio::test]
async fn columns_of_mlservers_codecs_match_inputs_of_rank_one() {
    let service = TestService::new();
    let mut b = input("b", "BYTES", &[2, 1], json!(["x", "y"]));
    let a = input("a", "INT64", &[2], json!([1, 2]));
    let (status, _) = service.infer("two", json!({"inputs": [a, b]})).await.error();
    assert_eq!(status, 422, "only with a content type");
    b["parameters"] = json!({"content_type": "str"});
    let response = service.infer("two", json!({"inputs": [a, b]})).await.json();
    assert_eq!(response["outputs"][1]["shape"], json!([2]));
}
