use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use open_inference::grpc::proto::inference::ModelInferRequest;
use open_inference::grpc::proto::inference::model_infer_request::InferInputTensor;
use prost::Message;
use tonic::Code;
use tower::ServiceExt;

use crate::support::{Fake, floats, raw, router};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn question(model: &str, seconds: f32) -> Vec<u8> {
    raw(model, &[floats(&[seconds])]).encode_to_vec()
}

/// The status of a call, wherever it stands, and what stands beside it.
async fn ask(fake: &Fake, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (Code, HeaderMap) {
    let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router(fake).oneshot(request.body(body.into()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/grpc");
    let mut headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    headers.extend(body.trailers().cloned().unwrap_or_default());
    (Code::from_bytes(headers["grpc-status"].as_bytes()), headers)
}

async fn code(headers: &[(&str, &str)], body: impl Into<Body>) -> Code {
    ask(&Fake::default(), INFER, headers, body).await.0
}

#[tokio::test]
async fn a_call_is_one_whole_frame() {
    let whole = frame(0, &question("FP32", 0.0));
    assert_eq!(code(&[], whole.clone()).await, Code::Ok);
    assert_eq!(code(&[], Body::empty()).await, Code::InvalidArgument);
    assert_eq!(code(&[], frame(2, &question("FP32", 0.0))).await, Code::InvalidArgument);
    assert_eq!(code(&[], whole.repeat(2)).await, Code::InvalidArgument);
    for length in [1, 4, 5, whole.len() - 1] {
        assert_eq!(code(&[], whole[..length].to_vec()).await, Code::InvalidArgument, "{length} bytes");
    }
    assert_ne!(code(&[], frame(0, &[0xff; 9])).await, Code::Ok, "no message");
    let pieces: Vec<_> = whole.chunks(1).map(|byte| Ok::<_, std::io::Error>(byte.to_vec())).collect();
    assert_eq!(code(&[], Body::from_stream(stream::iter(pieces))).await, Code::Ok);
}

#[tokio::test]
async fn a_declared_length_takes_no_memory_and_too_much_is_refused() {
    assert_eq!(code(&[], [0, 0xff, 0xff, 0xff, 0xff].to_vec()).await, Code::ResourceExhausted);
    let inputs = vec![InferInputTensor::default(); 200_000];
    let many = ModelInferRequest { model_name: "FP32".to_owned(), inputs, ..Default::default() }.encode_to_vec();
    assert!(many.len() < 500_000, "small as a message, large in memory");
    assert_eq!(code(&[], frame(0, &many)).await, Code::ResourceExhausted);
    let ready = "/inference.GRPCInferenceService/ServerReady";
    let long = frame(0, &vec![0; 100_000]);
    assert_eq!(ask(&Fake::default(), ready, &[], long).await.0, Code::ResourceExhausted, "it says nothing that long");
}

#[tokio::test]
async fn compressed_messages_are_read_and_bounded_when_unpacked() {
    let gzip = |message: &[u8]| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(message).unwrap();
        frame(1, &packed.finish().unwrap())
    };
    let deflate = |message: &[u8]| {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(message).unwrap();
        frame(1, &packed.finish().unwrap())
    };
    let message = question("FP32", 0.0);
    assert_eq!(code(&[("grpc-encoding", "gzip")], gzip(&message)).await, Code::Ok);
    assert_eq!(code(&[("grpc-encoding", "deflate")], deflate(&message)).await, Code::Ok);
    assert_eq!(code(&[("grpc-encoding", "gzip")], frame(0, &message)).await, Code::Ok, "small ones often are not");
    assert_eq!(code(&[("grpc-encoding", "gzip")], gzip(&vec![0; 64 << 20])).await, Code::ResourceExhausted);
    assert_eq!(code(&[("grpc-encoding", "gzip")], deflate(&message)).await, Code::InvalidArgument);
    assert_eq!(code(&[("grpc-encoding", "identity")], gzip(&message)).await, Code::InvalidArgument);
    let (code, headers) = ask(&Fake::default(), INFER, &[("grpc-encoding", "br")], gzip(&message)).await;
    assert_eq!(
        (code, &headers["grpc-accept-encoding"]),
        (Code::Unimplemented, &"gzip,deflate,identity".parse().unwrap())
    );
}

#[tokio::test]
async fn answers_are_compressed_only_for_who_compresses() {
    let message = frame(0, &question("FP32", 0.0));
    let could = ("grpc-accept-encoding", "identity,gzip");
    let (_, headers) = ask(&Fake::default(), INFER, &[could], message.clone()).await;
    assert!(!headers.contains_key("grpc-encoding"));
    let (_, headers) = ask(&Fake::default(), INFER, &[could, ("grpc-encoding", "gzip")], message).await;
    assert_eq!(headers["grpc-encoding"], "gzip");
}

#[tokio::test]
async fn the_callers_deadline_ends_the_work() {
    let fake = Fake::default();
    let (code, headers) = ask(&fake, INFER, &[("grpc-timeout", "100m")], frame(0, &question("slow", 60.0))).await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(headers["grpc-message"].to_str().unwrap().contains("within%20the%20time"), "{headers:?}");
    assert_eq!(fake.given_up.load(Ordering::SeqCst), 1);
    let (code, _) = ask(&fake, INFER, &[("grpc-timeout", "9S")], frame(0, &question("slow", 0.0))).await;
    assert_eq!(code, Code::Ok);
    let (code, _) = ask(&fake, INFER, &[("grpc-timeout", "soon")], frame(0, &question("slow", 0.0))).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_come_is_given_up() {
    let begun = frame(0, &question("FP32", 0.0))[..9].to_vec();
    let stalls = || stream::iter([Ok::<_, std::io::Error>(begun.clone())]).chain(stream::pending());
    let called = tokio::time::Instant::now();
    assert_eq!(code(&[], Body::from_stream(stalls())).await, Code::DeadlineExceeded);
    assert!(called.elapsed() < Duration::from_secs(2));
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    let (code, _) = ask(&Fake::default(), path, &[], Body::from_stream(stalls())).await;
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn pieces_of_nothing_are_no_message_that_comes() {
    let nothing = || stream::repeat_with(|| Ok::<_, std::io::Error>(Vec::new()));
    let begun = stream::iter([Ok(frame(0, &question("FP32", 0.0))[..9].to_vec())]).chain(nothing());
    for body in [Body::from_stream(nothing()), Body::from_stream(begun)] {
        assert_eq!(code(&[], body).await, Code::DeadlineExceeded);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_of_reflection_keeps_no_server_from_stopping() {
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let silent = stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let (code, _) = ask(&Fake::default(), path, &[], Body::from_stream(silent)).await;
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn calls_that_are_not_there_are_unimplemented() {
    for path in ["/inference.GRPCInferenceService/CudaSharedMemoryStatus", "/other.Service/Call", "/nothing"] {
        let (code, headers) = ask(&Fake::default(), path, &[], frame(0, &[])).await;
        let words = headers["grpc-message"].to_str().unwrap().replace("%20", " ");
        assert_eq!((code, words.as_str()), (Code::Unimplemented, "No such gRPC method."), "{path}");
    }
}

#[tokio::test]
async fn http_is_served_beside() {
    let request = Request::get("/v2/models/none").body(Body::empty()).unwrap();
    let response = router(&Fake::default()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
}
