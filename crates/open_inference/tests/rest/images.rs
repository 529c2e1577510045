use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use open_inference::Datatype;
use serde_json::json;

use crate::support::{TestResponse, TestService};

const PNG: &[u8] = b"\x89PNG, or so";

fn base64() -> String {
    STANDARD.encode(PNG)
}

async fn post(service: &TestService, headers: &[(&str, &str)], body: &[u8]) -> TestResponse {
    service.send(Method::POST, "/v2/models/image/infer", headers, body.to_vec()).await
}

#[tokio::test]
async fn an_image_reaches_the_model_in_every_encoding() {
    let service = TestService::new();
    let in_json =
        |shape: &[usize]| json!({"inputs": [{"name": "p", "datatype": "BYTES", "shape": shape, "data": [base64()]}]});
    let element = [&(PNG.len() as u32).to_le_bytes()[..], PNG].concat();
    let size = element.len();
    let head =
        json!({"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}]});
    let binary = [head.to_string().as_bytes(), &element].concat();
    let length = head.to_string().len().to_string();
    let octets = ("content-type", "application/octet-stream");
    for (headers, body) in [
        (vec![], in_json(&[1]).to_string().into()),
        (vec![], in_json(&[1, 1]).to_string().into()),
        (vec![octets], in_json(&[1]).to_string().into()),
        (vec![octets, ("inference-header-content-length", &*length)], binary),
        (vec![octets], PNG.to_vec()),
        (vec![("content-type", "image/png")], PNG.to_vec()),
        (vec![("content-type", "Image/PNG; name=seven")], PNG.to_vec()),
    ] {
        let response = post(&service, &headers, &body).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text());
        let request = service.fake.last_request.lock().unwrap().take().unwrap();
        let [image] = &request.inputs[..] else { panic!("one input") };
        assert_eq!((image.datatype, &image.shape[..]), (Datatype::Bytes, &[1][..]));
        assert_eq!(image.strings().next().unwrap(), PNG);
    }
}

#[tokio::test]
async fn an_image_for_a_model_without_image_input_is_unsupported() {
    let service = TestService::new();
    let response =
        service.send(Method::POST, "/v2/models/two/infer", &[("content-type", "image/png")], PNG.to_vec()).await;
    assert_eq!(response.error(), (415, "model \"two\" does not accept an image as its only input".to_owned()));
}

#[tokio::test]
async fn an_image_output_is_returned_as_png_where_accepted() {
    let service = TestService::new();
    let headers = [("content-type", "image/png"), ("accept", "image/png")];
    let response = post(&service, &headers, PNG).await;
    assert_eq!((response.header("content-type"), response.header("etag")), (Some("image/png"), Some("\"key\"")));
    let mut reader = png::Decoder::new(std::io::Cursor::new(&response.body)).read_info().unwrap();
    let mut pixels = [0; 4];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [0, 255, 128, 7]);

    let two = json!({"inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": [base64(), base64()]}]});
    let two = two.to_string();
    let response = post(&service, &[("accept", "image/png")], two.as_bytes()).await;
    assert_eq!(response.error(), (422, "the response has 2 images: request a single one, or accept JSON".to_owned()));

    let requested = |accept: &'static str| {
        let body = json!({
            "inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "data": [base64()]}],
            "outputs": [{"name": "classes"}],
        });
        let service = &service;
        async move { post(service, &[("accept", accept)], body.to_string().as_bytes()).await }
    };
    *service.fake.last_request.lock().unwrap() = None;
    let none = requested("image/png").await.error();
    assert_eq!(none, (406, "no requested output of model \"image\" is an image".to_owned()));
    assert!(service.fake.last_request.lock().unwrap().is_none(), "the model must not run");
    assert_eq!(requested("image/png, */*;q=0.5").await.header("content-type"), Some("application/json"));

    let message = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1, 1], "data": ["a"]}]});
    let headers = [("accept", "image/png")];
    let response = service.send(Method::POST, "/v2/models/words/infer", &headers, message.to_string()).await;
    assert_eq!(response.error(), (422, "output \"y\" is BYTES; it cannot be returned as an image".to_owned()));
}

#[tokio::test]
async fn image_outputs_are_returned_in_json_and_as_binary_data() {
    let service = TestService::new();
    for binary in [false, true] {
        let body = json!({
            "inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": [base64(), base64()]}],
            "outputs": [{"name": "mask", "parameters": {"content_type": "image", "binary_data": binary}}],
        });
        let response = service.infer("image", body).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text());
        if binary {
            assert_eq!(response.body.windows(4).filter(|four| four == b"\x89PNG").count(), 2);
        } else {
            let output = &response.json()["outputs"][0];
            assert_eq!((&output["shape"], &output["datatype"]), (&json!([2]), &json!("BYTES")));
            let image = STANDARD.decode(output["data"][1].as_str().unwrap()).unwrap();
            assert!(image.starts_with(b"\x89PNG"));
        }
    }
}
