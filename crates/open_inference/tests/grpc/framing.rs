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

fn infer_request(model: &str, seconds: f32) -> Vec<u8> {
    raw(model, &[floats(&[seconds])]).encode_to_vec()
}

/// The status of a call, with its headers and trailers.
async fn call(fake: &Fake, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (Code, HeaderMap) {
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
    call(&Fake::default(), INFER, headers, body).await.0
}

#[tokio::test]
async fn a_unary_call_has_exactly_one_complete_frame() {
    let whole = frame(0, &infer_request("FP32", 0.0));
    assert_eq!(code(&[], whole.clone()).await, Code::Ok);
    assert_eq!(code(&[], Body::empty()).await, Code::InvalidArgument);
    assert_eq!(code(&[], frame(2, &infer_request("FP32", 0.0))).await, Code::InvalidArgument);
    assert_eq!(code(&[], whole.repeat(2)).await, Code::InvalidArgument);
    for length in [1, 4, 5, whole.len() - 1] {
        assert_eq!(code(&[], whole[..length].to_vec()).await, Code::InvalidArgument, "{length} bytes");
    }
    assert_ne!(code(&[], frame(0, &[0xff; 9])).await, Code::Ok, "no message");
    let chunks: Vec<_> = whole.chunks(1).map(|byte| Ok::<_, std::io::Error>(byte.to_vec())).collect();
    assert_eq!(code(&[], Body::from_stream(stream::iter(chunks))).await, Code::Ok);
}

#[tokio::test]
async fn a_declared_length_allocates_nothing_and_is_limited() {
    assert_eq!(code(&[], [0, 0xff, 0xff, 0xff, 0xff].to_vec()).await, Code::ResourceExhausted);
    let inputs = vec![InferInputTensor::default(); 200_000];
    let many = ModelInferRequest { model_name: "FP32".to_owned(), inputs, ..Default::default() }.encode_to_vec();
    assert!(many.len() < 500_000, "small as a message, large in memory");
    assert_eq!(code(&[], frame(0, &many)).await, Code::ResourceExhausted);
    let ready = "/inference.GRPCInferenceService/ServerReady";
    let long = frame(0, &vec![0; 100_000]);
    assert_eq!(
        call(&Fake::default(), ready, &[], long).await.0,
        Code::ResourceExhausted,
        "no such message is that long"
    );
}

#[tokio::test]
async fn compressed_messages_are_limited_by_their_decompressed_size() {
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
    let message = infer_request("FP32", 0.0);
    assert_eq!(code(&[("grpc-encoding", "gzip")], gzip(&message)).await, Code::Ok);
    assert_eq!(code(&[("grpc-encoding", "deflate")], deflate(&message)).await, Code::Ok);
    assert_eq!(code(&[("grpc-encoding", "gzip")], frame(0, &message)).await, Code::Ok, "small ones often are not");
    assert_eq!(code(&[("grpc-encoding", "gzip")], gzip(&vec![0; 64 << 20])).await, Code::ResourceExhausted);
    assert_eq!(code(&[("grpc-encoding", "gzip")], deflate(&message)).await, Code::InvalidArgument);
    assert_eq!(code(&[("grpc-encoding", "identity")], gzip(&message)).await, Code::InvalidArgument);
    let (code, headers) = call(&Fake::default(), INFER, &[("grpc-encoding", "br")], gzip(&message)).await;
    assert_eq!(
        (code, &headers["grpc-accept-encoding"]),
        (Code::Unimplemented, &"gzip,deflate,identity".parse().unwrap())
    );
}

#[tokio::test]
async fn responses_are_compressed_only_for_compressed_requests() {
    let message = frame(0, &infer_request("FP32", 0.0));
    let could = ("grpc-accept-encoding", "identity,gzip");
    let (_, headers) = call(&Fake::default(), INFER, &[could], message.clone()).await;
    assert!(!headers.contains_key("grpc-encoding"));
    let (_, headers) = call(&Fake::default(), INFER, &[could, ("grpc-encoding", "gzip")], message).await;
    assert_eq!(headers["grpc-encoding"], "gzip");
}

#[tokio::test]
async fn the_deadline_of_a_call_cancels_the_inference() {
    let fake = Fake::default();
    let (code, headers) = call(&fake, INFER, &[("grpc-timeout", "100m")], frame(0, &infer_request("slow", 60.0))).await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(headers["grpc-message"].to_str().unwrap().contains("exceeded%20its%20deadline"), "{headers:?}");
    assert_eq!(fake.cancelled.load(Ordering::SeqCst), 1);
    let (code, _) = call(&fake, INFER, &[("grpc-timeout", "9S")], frame(0, &infer_request("slow", 0.0))).await;
    assert_eq!(code, Code::Ok);
    let (code, _) = call(&fake, INFER, &[("grpc-timeout", "soon")], frame(0, &infer_request("slow", 0.0))).await;
    assert_eq!(code, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_message_times_out() {
    let started = frame(0, &infer_request("FP32", 0.0))[..9].to_vec();
    let stalls = || stream::iter([Ok::<_, std::io::Error>(started.clone())]).chain(stream::pending());
    let called = tokio::time::Instant::now();
    assert_eq!(code(&[], Body::from_stream(stalls())).await, Code::DeadlineExceeded);
    assert!(called.elapsed() < Duration::from_secs(2));
    let path = "/inference.GRPCInferenceService/ModelStreamInfer";
    let (code, _) = call(&Fake::default(), path, &[], Body::from_stream(stalls())).await;
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn empty_chunks_do_not_extend_the_time_limit() {
    let nothing = || stream::repeat_with(|| Ok::<_, std::io::Error>(Vec::new()));
    let started = stream::iter([Ok(frame(0, &infer_request("FP32", 0.0))[..9].to_vec())]).chain(nothing());
    for body in [Body::from_stream(nothing()), Body::from_stream(started)] {
        assert_eq!(code(&[], body).await, Code::DeadlineExceeded);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_reflection_stream_ends() {
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let silent = stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let (code, _) = call(&Fake::default(), path, &[], Body::from_stream(silent)).await;
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn unknown_calls_are_unimplemented() {
    for path in ["/inference.GRPCInferenceService/CudaSharedMemoryStatus", "/other.TestService/Call", "/nothing"] {
        let (code, headers) = call(&Fake::default(), path, &[], frame(0, &[])).await;
        let message = headers["grpc-message"].to_str().unwrap().replace("%20", " ");
        assert_eq!((code, message.as_str()), (Code::Unimplemented, "No such gRPC method."), "{path}");
    }
}

#[tokio::test]
async fn rest_is_served_on_the_same_router() {
    let request = Request::get("/v2/models/none").body(Body::empty()).unwrap();
    let response = router(&Fake::default()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
}
