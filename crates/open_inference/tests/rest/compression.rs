use std::io::{Read, Write};

use axum::body::Body;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use crate::support::{MAX_BODY_BYTES, TestResponse, TestService};

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn body(rows: usize) -> Vec<u8> {
    let input = json!({"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": vec![0.5; rows * 2]});
    json!({"inputs": [input]}).to_string().into_bytes()
}

async fn post(service: &TestService, headers: &[(&str, &str)], body: Vec<u8>) -> TestResponse {
    service.send(Method::POST, "/v2/models/echo/infer", headers, body).await
}

#[tokio::test]
async fn compressed_bodies_are_accepted() {
    let service = TestService::new();
    for (encoding, body) in [
        ("gzip", gzip(&body(1))),
        ("deflate", deflate(&body(1))),
        ("identity", body(1)),
        ("GZIP", gzip(&body(1))),
        ("X-Gzip", gzip(&body(1))),
        ("Deflate", deflate(&body(1))),
        ("IDENTITY", body(1)),
    ] {
        let response = post(&service, &[("content-encoding", encoding)], body).await;
        assert_eq!(response.json()["outputs"][0]["data"], json!([0.5, 0.5]), "{encoding}");
    }
}

#[tokio::test]
async fn a_body_is_limited_by_its_decompressed_size() {
    let service = TestService::new();
    let large = vec![b' '; 100 * MAX_BODY_BYTES];
    for (encoding, compressed) in [("gzip", gzip(&large)), ("deflate", deflate(&large))] {
        assert!(compressed.len() < MAX_BODY_BYTES / 2);
        let response = post(&service, &[("content-encoding", encoding)], compressed).await;
        assert_eq!(
            response.error(),
            (413, "The body is larger than 1048576 bytes; send less in one request.".to_owned())
        );
    }
}

#[tokio::test]
async fn an_invalid_or_unsupported_encoding_is_rejected() {
    let service = TestService::new();
    let mut damaged = gzip(&body(1));
    damaged.truncate(20);
    let response = post(&service, &[("content-encoding", "gzip")], damaged).await;
    assert_eq!(response.error(), (400, "The body ended before it was complete.".to_owned()));
    let response = post(&service, &[("content-encoding", "br")], body(1)).await;
    assert_eq!(
        response.error(),
        (415, "content encoding \"br\" is not supported; supported encodings are: gzip, deflate".to_owned())
    );
}

#[tokio::test]
async fn compression_yields_to_other_tasks() {
    let service = TestService::new();
    let request = Request::post("/v2/models/echo/infer").header("accept-encoding", "gzip");
    let request = request.body(Body::from(body(20_000)));
    let response = service.router.oneshot(request.unwrap()).await.unwrap();
    let other = tokio::spawn(async {});
    assert!(response.into_body().collect().await.unwrap().to_bytes().len() < 10_000);
    assert!(other.is_finished());
}

#[tokio::test]
async fn large_responses_are_compressed_where_accepted() {
    let service = TestService::new();
    for encoding in ["gzip", "deflate"] {
        let small = post(&service, &[("accept-encoding", encoding)], body(1)).await;
        assert_eq!(small.header("content-encoding"), None);
        let large = post(&service, &[("accept-encoding", encoding)], body(2000)).await;
        assert_eq!(large.header("content-encoding"), Some(encoding));
        let mut json = String::new();
        match encoding {
            "gzip" => GzDecoder::new(&large.body[..]).read_to_string(&mut json).unwrap(),
            _ => ZlibDecoder::new(&large.body[..]).read_to_string(&mut json).unwrap(),
        };
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["outputs"][0]["shape"], json!([2000, 2]));
    }
    let plain = post(&service, &[], body(2000)).await;
    assert_eq!(plain.header("content-encoding"), None);
}

#[tokio::test]
async fn only_inference_responses_are_compressed() {
    let service = TestService::new();
    // `tritonclient.http.aio` accepts compression on every route, but decompresses only responses of `infer`.
    let headers = &[("accept-encoding", "gzip, deflate")];
    let statistics = service.send(Method::GET, "/v2/models/stats", headers, Body::empty()).await;
    assert!(statistics.body.len() > 4096, "too small to be compressed anyway");
    assert_eq!(statistics.header("content-encoding"), None);
    assert!(statistics.json()["model_stats"].is_array());
    let body = json!({"inputs": [{"name": "x".repeat(5000), "datatype": "FP32", "shape": [1], "data": [1]}]});
    let rejected = post(&service, headers, body.to_string().into_bytes()).await;
    assert_eq!(rejected.header("content-encoding"), None);
    assert_eq!(rejected.status.as_u16(), 422);
}
