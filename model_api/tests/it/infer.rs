//! Inference over the Open Inference Protocol: images, and errors of runs.

use axum::http::StatusCode;
use contract::Device;
use model_api::onnx::analysis::GraphFacts;
use model_api::session::SessionInfo;
use open_inference::{Datatype, Tensor, TensorMetadata, client};
use serde_json::{Value, json};

use crate::support::fake::{CRASH, Fake, REJECT};
use crate::support::folder::Folder;
use crate::support::router::{MAX_BODY_BYTES, Response, Service};
use crate::support::squares::{png, squares};

const INFER: &str = "/v2/models/squares/infer";

/// Sends an inference request with binary tensors.
async fn infer(service: &Service, path: &str, inputs: &[Tensor]) -> Response {
    let (headers, body) = client::encode_request(inputs);
    service.post_with(path, headers, body).await
}

fn images(images: &[&[u8]]) -> Tensor {
    Tensor::from_strings("x", vec![images.len()], images.iter().copied())
}

fn numbers(first: f32) -> String {
    let x = json!({"name": "x", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [first, 0, 0.5, 0.25]});
    json!({"inputs": [x]}).to_string()
}

#[tokio::test]
async fn an_image_as_the_body_gets_every_output_and_the_provenance() {
    let service = squares().await;
    let response = service.post(INFER, "image/png", png()).await;
    assert_eq!(response.status, StatusCode::OK, "{:?}", response.json());
    let response = response.json();
    let y = json!({"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [0.0, 51.0, 255.0, 102.0]});
    assert_eq!(response["outputs"], json!([y]));
    assert_eq!((&response["model_name"], &response["model_version"]), (&json!("squares"), &json!("1")));
    let parameters = &response["parameters"];
    assert!(parameters["model_digest"].as_str().unwrap().starts_with("sha256:"), "{parameters}");
    assert_eq!(parameters["device"], "cpu");
    for part in ["decode_ms", "queue_ms", "infer_ms"] {
        assert!(parameters[part].as_f64().is_some_and(|ms| ms >= 0.0), "{parameters}");
    }
    for media_type in ["application/octet-stream", "image/jpeg"] {
        let response = service.post(INFER, media_type, png()).await;
        assert_eq!(response.status, StatusCode::OK, "the media type of an image does not matter: {media_type}");
    }
}

#[tokio::test]
async fn several_images_are_one_batch() {
    let service = squares().await;
    let response = infer(&service, INFER, &[images(&[&png(), &png(), &png()])]).await;
    let inference = client::decode_response(&response.headers, response.body.into()).unwrap();
    assert_eq!(inference.outputs[0].shape, [3, 4]);
    assert_eq!(inference.outputs[0].to_f32(), [0.0, 51.0, 255.0, 102.0].repeat(3));
    let stats = service.get("/v2/models/squares/stats").await.json();
    let counts = &stats["model_stats"][0];
    assert_eq!((&counts["inference_count"], &counts["execution_count"]), (&json!(3), &json!(1)));
}

#[tokio::test]
async fn numbers_are_not_decoded() {
    let response = squares().await.post_json(INFER, &numbers(0.75)).await;
    assert_eq!(response.json()["outputs"][0]["data"], json!([0.75, 0.0, 0.5, 0.25]));
}

#[tokio::test]
async fn each_image_error_has_its_status() {
    let service = squares().await;
    let (truncated, huge) = (&png()[..40], vec![0; MAX_BODY_BYTES + 1]);
    for (body, status, words) in [
        (&b""[..], 400, "empty"),
        (b"hello", 415, "must be PNG, JPEG, BMP, GIF, WebP, TIFF or PNM"),
        (truncated, 422, "cannot be decoded"),
        (&huge, 413, "larger than 262144 bytes"),
    ] {
        let (found, detail) = service.post(INFER, "image/png", body.to_vec()).await.error();
        assert_eq!(found, status, "{detail}");
        assert!(detail.contains(words), "{detail}");
    }
    let (status, detail) = infer(&service, INFER, &[images(&[&png(), b"hello"])]).await.error();
    assert!(status == 415 && detail.starts_with("Image 1: The image format is not supported"), "{detail}");
    assert_eq!(service.post(INFER, "image/png", png()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_batch_whose_tensor_would_be_too_large_is_rejected_before_it_is_decoded() {
    let info = SessionInfo {
        inputs: vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 4096, 4096, 3])],
        outputs: vec![TensorMetadata::new("y", Datatype::Fp32, &[-1, 4])],
        left_out: Vec::new(),
        device: Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "fake".to_owned() },
        facts: GraphFacts::default(),
    };
    let settings = r#"{"inputs": [{"name": "x", "parameters": {"content_type": "image"}}]}"#;
    let folder = Folder::new().with("m/model.onnx", "").with("m/model-settings.json", settings);
    let service = Service::new(folder, &Fake::default().with_info(info)).warm().await;
    let (status, detail) = infer(&service, "/v2/models/m/infer", &[images(&[b"", b""])]).await.error();
    assert_eq!(status, 413, "{detail}");
    assert!(
        detail.contains("402653184 bytes as one tensor, and the limit is 268435456 (MAX_DECODE_BYTES)"),
        "{detail}"
    );
}

#[tokio::test]
async fn a_model_without_an_image_input_rejects_images() {
    let service = Service::new(Folder::new().with("plain.onnx", ""), &Fake::default()).warm().await;
    let (status, _) = service.post("/v2/models/plain/infer", "image/png", png()).await.error();
    assert_eq!(status, 415);
    let (status, detail) = infer(&service, "/v2/models/plain/infer", &[images(&[&png()])]).await.error();
    assert_eq!((status, detail.as_str()), (422, "input \"x\" is FP32, not BYTES"));
}

#[tokio::test]
async fn each_run_error_has_its_status_and_is_counted() {
    let service = squares().await;
    assert_eq!(service.post_json(INFER, &numbers(REJECT)).await.error(), (422, "no such input".to_owned()));
    let crashed = "The model crashed on this request.".to_owned();
    assert_eq!(service.post_json(INFER, &numbers(CRASH)).await.error(), (500, crashed));
    assert_eq!(service.post_json(INFER, &numbers(0.5)).await.status, StatusCode::OK);
    let stats = service.get("/v2/models/squares/stats").await.json()["model_stats"][0]["inference_stats"].take();
    assert_eq!((&stats["fail"]["count"], &stats["success"]["count"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn an_unknown_model_is_404_with_the_available_models() {
    let service = squares().await;
    let response = service.post("/v2/models/leukemia/infer", "image/png", png()).await;
    assert_eq!(response.error(), (404, "There is no model \"leukemia\"; available models: squares.".to_owned()));
    for name in ["..", "%2e%2e%2fetc", "a%00b"] {
        assert_eq!(
            service.post(&format!("/v2/models/{name}/infer"), "image/png", png()).await.error().0,
            404,
            "{name}"
        );
    }
    let response = service.post("/v2/models/squares/versions/9/infer", "image/png", png()).await;
    assert_eq!(response.error().0, 404);
}

#[tokio::test]
async fn metadata_and_readiness_are_the_models() {
    let service = squares().await;
    let metadata: Value = service.get("/v2/models/squares").await.json();
    assert_eq!((&metadata["name"], &metadata["versions"]), (&json!("squares"), &json!(["1"])));
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, 2, 2, 1]));
    assert_eq!(service.get("/v2/models/squares/ready").await.json()["ready"], true);
    assert_eq!(service.get("/v2/health/ready").await.json()["ready"], true);
    let stopping = service.readiness.hold("stopping");
    assert_eq!(service.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    drop(stopping);
}
