use open_inference::Datatype;
use serde_json::{Value, json};

use crate::support::Service;

fn input(name: &str, datatype: &str, shape: &[i64], data: impl Into<Value>) -> Value {
    let data: Value = data.into();
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

#[tokio::test]
async fn base64_is_read_and_written_where_it_is_asked_for() {
    let service = Service::new();
    let strings = |parameters: Value| {
        let mut b = input("b", "BYTES", &[1], json!(["/wA="]));
        b["parameters"] = parameters;
        json!([input("a", "INT64", &[1], json!([1])), b])
    };
    let base64 = json!({"content_type": "base64"});
    let wish = json!([{"name": "d", "parameters": base64}]);
    for body in [
        json!({"inputs": strings(base64.clone()), "outputs": wish}),
        json!({"inputs": strings(json!({})), "parameters": base64, "outputs": wish}),
    ] {
        let answer = service.infer("two", body).await.json();
        assert_eq!(answer["outputs"][0]["data"], json!(["/wA="]));
        assert_eq!(answer["outputs"][0]["parameters"], base64);
        let asked = service.fake.asked.lock().unwrap().take().unwrap();
        assert_eq!(asked.inputs[1].data, &b"\x02\0\0\0\xff\0"[..]);
    }
    let text = json!({"content_type": "str"});
    let answer = service.infer("two", json!({"inputs": strings(text)})).await.json();
    assert_eq!(answer["outputs"][1]["data"], json!(["/wA="]), "text is what it is");
}

#[tokio::test]
async fn base64_is_read_as_programs_write_it() {
    let service = Service::new();
    for text in ["/wA=", "/wA", "_wA=", "/w\r\nA=\n", "data:image/png;base64,/wA="] {
        let answer =
            service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!([text]))]})).await.json();
        assert_eq!(answer["outputs"][0]["data"], json!(["/wA="]), "{text:?}");
    }
    for (text, words) in [
        ("data:,/wA=", "is a data URL whose data is not base64: it has no \";base64,\""),
        ("/w A=", "is not base64: it has a space inside a group of four characters, where a \"+\" may have stood"),
    ] {
        let refused = service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!([text]))]})).await;
        assert_eq!(refused.error(), (400, format!("input \"b\": element 0 {words}")));
    }
}

#[tokio::test]
async fn null_is_a_missing_number_in_a_column_of_floats() {
    let service = Service::new();
    let request = |l: Value| json!({"parameters": {"content_type": "pd"}, "inputs": [input("t", "FP64", &[2], l)]});
    let (status, words) = service.infer("moments", request(json!([1, null]))).await.error();
    assert_eq!((status, words.as_str()), (422, "column \"t\": element 1: NaN is not a valid INT64"));
}

#[tokio::test]
async fn what_the_settings_name_is_done_once_between_services() {
    let service = Service::new();
    let answer = service.infer("marked", json!({"inputs": [input("b", "BYTES", &[1], json!(["/wA="]))]})).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!(["/wA="]));
    let asked = service.fake.asked.lock().unwrap().take().unwrap();
    assert_eq!(asked.inputs[0].data, &b"\x02\0\0\0\xff\0"[..]);

    let (headers, body) = open_inference::client::encode_request(&asked.inputs);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let answer = service.send(http::Method::POST, "/v2/models/marked/infer", &headers, body).await;
    let passed_on = service.fake.asked.lock().unwrap().take().unwrap();
    assert_eq!(passed_on.inputs, asked.inputs);
    let inference = open_inference::client::decode_response(&answer.headers, answer.body).unwrap();
    assert_eq!(inference.outputs[0].data, asked.inputs[0].data);
}

#[tokio::test]
async fn moments_become_seconds_and_the_reverse() {
    let service = Service::new();
    let mut t = input("t", "BYTES", &[2], json!(["2024-05-17T12:30:00Z", "1970-01-01"]));
    t["parameters"] = json!({"content_type": "datetime"});
    let wish = json!([{"name": "u", "parameters": {"content_type": "datetime"}}]);
    let answer = service.infer("moments", json!({"inputs": [t], "outputs": wish})).await.json();
    let expected = json!({
        "name": "u", "datatype": "BYTES", "shape": [2], "parameters": {"content_type": "datetime"},
        "data": ["2024-05-17T12:30:00Z", "1970-01-01T00:00:00Z"],
    });
    assert_eq!(answer["outputs"][0], expected);
}

#[tokio::test]
async fn a_table_reaches_a_model_with_an_input_for_each_column() {
    let service = Service::new();
    let inputs = json!([
        input("town", "BYTES", &[2], json!(["Rome", "Oslo"])),
        input("age", "FP64", &[2, 1], json!([30.5, 40])),
    ]);
    let answer = service.infer("columns", json!({"parameters": {"content_type": "pd"}, "inputs": inputs})).await.json();
    assert_eq!(answer["outputs"][0], json!({"name": "a", "datatype": "FP32", "shape": [2, 1], "data": [30.5, 40.0]}));
    assert_eq!(answer["outputs"][1]["shape"], json!([2, 1]));
    let (status, words) = service.infer("columns", json!({"inputs": inputs})).await.error();
    assert_eq!((status, words.as_str()), (422, "input \"town\" has the shape [-1, 1] (-1: any length), not [2]"));
}

#[tokio::test]
async fn a_table_reaches_a_model_of_one_matrix_column_by_column() {
    let service = Service::new();
    let inputs = |third: Value| {
        let (first, second) = (input("l", "FP64", &[2], json!([1, 4])), input("w", "INT64", &[2], json!([2, 5])));
        json!({"parameters": {"content_type": "pd"}, "inputs": [first, second, third]})
    };
    let answer = service.infer("table", inputs(input("h", "BOOL", &[2, 1], json!([true, false])))).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!([1.0, 2.0, 1.0, 4.0, 5.0, 0.0]));
    let asked = service.fake.asked.lock().unwrap().take().unwrap();
    let [matrix] = &asked.inputs[..] else { panic!("one matrix") };
    assert_eq!((matrix.name.as_str(), matrix.datatype, &matrix.shape[..]), ("X", Datatype::Fp32, &[2, 3][..]));

    for (third, words) in [
        (input("h", "FP32", &[3], json!([1, 2, 3])), "column \"h\" has the shape [3], where the first has 2 rows"),
        (input("w", "FP32", &[2], json!([1, 2])), "input \"w\" is given twice"),
        (input("h", "BYTES", &[2], json!(["a", "b"])), "column \"h\" is BYTES, which cannot be converted to FP32"),
    ] {
        assert_eq!(service.infer("table", inputs(third)).await.error().1, words);
    }
    let one = json!({"parameters": {"content_type": "pd"}, "inputs": [input("l", "FP64", &[2], json!([1, 4]))]});
    let (status, words) = service.infer("table", one).await.error();
    assert_eq!((status, words.as_str()), (422, "input \"X\" has the shape [-1, 3] (-1: any length), not [2, 1]"));
}

#[tokio::test]
async fn a_number_that_a_column_cannot_hold_is_refused() {
    let service = Service::new();
    let t = input("t", "FP64", &[2], json!([1, 1.5]));
    let (status, words) =
        service.infer("moments", json!({"parameters": {"content_type": "pd"}, "inputs": [t]})).await.error();
    assert_eq!((status, words.as_str()), (422, "column \"t\": element 1: 1.5 is not a valid INT64"));
}

#[tokio::test]
async fn what_does_not_go_with_a_content_type_is_said() {
    let service = Service::new();
    let b = |data: Value, content_type: &str| {
        let mut b = input("b", "BYTES", &[1], data);
        b["parameters"] = json!({"content_type": content_type});
        json!({"inputs": [input("a", "INT64", &[1], json!([1])), b]})
    };
    for (body, words) in [
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
        assert_eq!(service.infer("two", body).await.error(), (400, words.to_owned()));
    }
    let wish = |name: &str, parameters: Value| {
        let x = input("a", "INT64", &[1], json!([1]));
        let b = input("b", "BYTES", &[1], json!(["x"]));
        json!({"inputs": [x, b], "outputs": [{"name": name, "parameters": parameters}]})
    };
    for (name, parameters, words) in [
        ("c", json!({"content_type": "base64"}), "output \"c\" is INT64; it cannot be returned as base64"),
        ("c", json!({"content_type": "str"}), "output \"c\" is INT64; it cannot be returned as text"),
        ("d", json!({"content_type": "image"}), "output \"d\" is BYTES; it cannot be returned as an image"),
        ("d", json!({"classification": 1}), "output \"d\" is BYTES; it cannot be returned as classes"),
    ] {
        assert_eq!(service.infer("two", wish(name, parameters)).await.error(), (422, words.to_owned()));
    }
    assert!(service.fake.asked.lock().unwrap().is_none(), "all of it is found before the model is asked");
}

#[tokio::test]
async fn lists_that_mlservers_codecs_send_as_columns_fit_models_that_want_lists() {
    let service = Service::new();
    let mut b = input("b", "BYTES", &[2, 1], json!(["x", "y"]));
    let a = input("a", "INT64", &[2], json!([1, 2]));
    let (status, _) = service.infer("two", json!({"inputs": [a, b]})).await.error();
    assert_eq!(status, 422, "only where a content type is named");
    b["parameters"] = json!({"content_type": "str"});
    let answer = service.infer("two", json!({"inputs": [a, b]})).await.json();
    assert_eq!(answer["outputs"][1]["shape"], json!([2]));
}
