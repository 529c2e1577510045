use std::io::{Read, Write};

use axum::body::Body;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;
use tower::ServiceExt;

use crate::support::{Answer, MAX_BODY_BYTES, Service};

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

async fn post(service: &Service, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    service.send(Method::POST, "/v2/models/echo/infer", headers, body).await
}

#[tokio::test]
async fn a_body_may_come_compressed() {
    let service = Service::new();
    for (encoding, body) in [
        ("gzip", gzip(&body(1))),
        ("deflate", deflate(&body(1))),
        ("identity", body(1)),
        ("GZIP", gzip(&body(1))),
        ("X-Gzip", gzip(&body(1))),
        ("Deflate", deflate(&body(1))),
        ("IDENTITY", body(1)),
    ] {
        let answer = post(&service, &[("content-encoding", encoding)], body).await;
        assert_eq!(answer.json()["outputs"][0]["data"], json!([0.5, 0.5]), "{encoding}");
    }
}

#[tokio::test]
async fn a_body_is_bounded_by_what_it_unpacks_to() {
    let service = Service::new();
    let large = vec![b' '; 100 * MAX_BODY_BYTES];
    for (encoding, bomb) in [("gzip", gzip(&large)), ("deflate", deflate(&large))] {
        assert!(bomb.len() < MAX_BODY_BYTES / 2);
        let answer = post(&service, &[("content-encoding", encoding)], bomb).await;
        assert_eq!(
            answer.error(),
            (413, "The body is larger than 1048576 bytes; send less in one request.".to_owned())
        );
    }
}

#[tokio::test]
async fn what_does_not_unpack_is_said() {
    let service = Service::new();
    let mut damaged = gzip(&body(1));
    damaged.truncate(20);
    let answer = post(&service, &[("content-encoding", "gzip")], damaged).await;
    assert_eq!(answer.error(), (400, "The body ended before it was complete.".to_owned()));
    let answer = post(&service, &[("content-encoding", "br")], body(1)).await;
    assert_eq!(answer.error(), (415, "content encoding \"br\" is not known; there are: gzip, deflate".to_owned()));
}

#[tokio::test]
async fn others_get_a_turn_while_an_answer_is_compressed() {
    let service = Service::new();
    let request = Request::post("/v2/models/echo/infer").header("accept-encoding", "gzip");
    let request = request.body(Body::from(body(20_000)));
    let answer = service.router.oneshot(request.unwrap()).await.unwrap();
    let other = tokio::spawn(async {});
    assert!(answer.into_body().collect().await.unwrap().to_bytes().len() < 10_000);
    assert!(other.is_finished());
}

#[tokio::test]
async fn large_answers_go_compressed_to_whoever_accepts_it() {
    let service = Service::new();
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
    let service = Service::new();
    // As tritonclient.http.aio does: it accepts compression everywhere, and unpacks the responses of `infer` alone.
    let headers = &[("accept-encoding", "gzip, deflate")];
    let statistics = service.send(Method::GET, "/v2/models/stats", headers, Body::empty()).await;
    assert!(statistics.body.len() > 4096, "too short to be compressed anyway");
    assert_eq!(statistics.header("content-encoding"), None);
    assert!(statistics.json()["model_stats"].is_array());
    let body = json!({"inputs": [{"name": "x".repeat(5000), "datatype": "FP32", "shape": [1], "data": [1]}]});
    let refused = post(&service, headers, body.to_string().into_bytes()).await;
    assert_eq!(refused.header("content-encoding"), None);
    assert_eq!(refused.status.as_u16(), 422);
}
