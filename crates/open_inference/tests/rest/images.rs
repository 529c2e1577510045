use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use open_inference::Datatype;
use serde_json::json;

use crate::support::{Answer, Service};

const PNG: &[u8] = b"\x89PNG, or so";

fn base64() -> String {
    STANDARD.encode(PNG)
}

async fn post(service: &Service, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    service.send(Method::POST, "/v2/models/picture/infer", headers, body.to_vec()).await
}

#[tokio::test]
async fn a_picture_reaches_the_model_on_every_way() {
    let service = Service::new();
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
        let answer = post(&service, &headers, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let asked = service.fake.asked.lock().unwrap().take().unwrap();
        let [picture] = &asked.inputs[..] else { panic!("one input") };
        assert_eq!((picture.datatype, &picture.shape[..]), (Datatype::Bytes, &[1][..]));
        assert_eq!(picture.strings().next().unwrap(), PNG);
    }
}

#[tokio::test]
async fn a_picture_for_a_model_that_takes_none_is_no_media_type_of_its() {
    let service = Service::new();
    let answer =
        service.send(Method::POST, "/v2/models/two/infer", &[("content-type", "image/png")], PNG.to_vec()).await;
    assert_eq!(answer.error(), (415, "model \"two\" does not accept an image as its only input".to_owned()));
}

#[tokio::test]
async fn an_output_comes_as_the_picture_it_is_where_that_is_accepted() {
    let service = Service::new();
    let headers = [("content-type", "image/png"), ("accept", "image/png")];
    let answer = post(&service, &headers, PNG).await;
    assert_eq!((answer.header("content-type"), answer.header("etag")), (Some("image/png"), Some("\"key\"")));
    let mut reader = png::Decoder::new(std::io::Cursor::new(&answer.body)).read_info().unwrap();
    let mut pixels = [0; 4];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [0, 255, 128, 7]);

    let two = json!({"inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": [base64(), base64()]}]});
    let two = two.to_string();
    let answer = post(&service, &[("accept", "image/png")], two.as_bytes()).await;
    assert_eq!(answer.error(), (422, "the response has 2 images: request a single one, or accept JSON".to_owned()));

    let wish = |accept: &'static str| {
        let body = json!({
            "inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "data": [base64()]}],
            "outputs": [{"name": "classes"}],
        });
        let service = &service;
        async move { post(service, &[("accept", accept)], body.to_string().as_bytes()).await }
    };
    *service.fake.asked.lock().unwrap() = None;
    let none = wish("image/png").await.error();
    assert_eq!(none, (406, "no requested output of model \"picture\" is an image".to_owned()));
    assert!(service.fake.asked.lock().unwrap().is_none(), "the model must not be asked");
    assert_eq!(wish("image/png, */*;q=0.5").await.header("content-type"), Some("application/json"));

    let words = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1, 1], "data": ["a"]}]});
    let headers = [("accept", "image/png")];
    let answer = service.send(Method::POST, "/v2/models/words/infer", &headers, words.to_string()).await;
    assert_eq!(answer.error(), (422, "output \"y\" is BYTES; it cannot be returned as an image".to_owned()));
}

#[tokio::test]
async fn an_output_comes_as_pictures_in_json_and_behind_it() {
    let service = Service::new();
    for binary in [false, true] {
        let body = json!({
            "inputs": [{"name": "p", "datatype": "BYTES", "shape": [2], "data": [base64(), base64()]}],
            "outputs": [{"name": "mask", "parameters": {"content_type": "image", "binary_data": binary}}],
        });
        let answer = service.infer("picture", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        if binary {
            assert_eq!(answer.body.windows(4).filter(|four| four == b"\x89PNG").count(), 2);
        } else {
            let output = &answer.json()["outputs"][0];
            assert_eq!((&output["shape"], &output["datatype"]), (&json!([2]), &json!("BYTES")));
            let picture = STANDARD.decode(output["data"][1].as_str().unwrap()).unwrap();
            assert!(picture.starts_with(b"\x89PNG"));
        }
    }
}
