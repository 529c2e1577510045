use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use open_inference::Tensor;
use open_inference::grpc::proto::inference::ModelInferRequest;
use open_inference::grpc::proto::inference::infer_parameter::ParameterChoice;
use tokio::time::timeout;
use tonic::Code;
use tonic::codec::CompressionEncoding::Gzip;

use crate::support::{MAX_BODY_BYTES, TestServer, floats, parameters, raw, until};

/// A tensor of this many bytes, for which the model `slow` takes this many seconds.
fn large(bytes: usize, seconds: f32) -> Tensor {
    let mut values = vec![0.0; bytes / 4];
    values[0] = seconds;
    floats(&values)
}

#[tokio::test]
async fn a_message_is_limited_to_the_size_of_a_body() {
    let server = TestServer::start().await;
    let max_bytes = MAX_BODY_BYTES - (64 << 10);
    let response = server.client().model_infer(raw("FP32", &[large(max_bytes, 0.0)])).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents[0].len(), max_bytes);
    for bytes in [max_bytes + 4, MAX_BODY_BYTES + 4, 8 * MAX_BODY_BYTES] {
        let error = server.client().model_infer(raw("FP32", &[large(bytes, 0.0)])).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{bytes}: {error}");
    }
}

#[tokio::test]
async fn compressed_requests_get_compressed_responses() {
    let server = TestServer::start().await;
    let mut client = server.client().send_compressed(Gzip).accept_compressed(Gzip);
    let x = large(MAX_BODY_BYTES / 2, 7.0);
    let response = client.model_infer(raw("FP32", std::slice::from_ref(&x))).await.unwrap();
    assert_eq!(response.metadata().get("grpc-encoding").unwrap(), "gzip");
    assert_eq!(response.into_inner().raw_output_contents, [x.data]);
    let error = client.model_infer(raw("FP32", &[large(8 * MAX_BODY_BYTES, 0.0)])).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn cancelling_a_call_cancels_the_inference() {
    let server = TestServer::start().await;
    let call = async { server.client().model_infer(raw("slow", &[floats(&[60.0])])).await };
    assert!(timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(server.fake.started.load(Ordering::SeqCst), 1);
    until("it is cancelled", || server.fake.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn the_timeout_of_a_request_cancels_the_inference() {
    let server = TestServer::start().await;
    let mut request = raw("slow", &[floats(&[60.0])]);
    request.parameters = parameters([("timeout", ParameterChoice::Int64Param(100_000))]);
    let error = server.client().model_infer(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert_eq!(server.fake.cancelled.load(Ordering::SeqCst), 1);
    let never = ModelInferRequest {
        parameters: parameters([("timeout", ParameterChoice::StringParam("soon".to_owned()))]),
        ..raw("slow", &[floats(&[0.0])])
    };
    assert_eq!(server.client().model_infer(never).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn messages_in_flight_share_a_memory_budget() {
    let server = TestServer::start().await;
    let infer = |seconds| {
        let mut client = server.client();
        async move { client.model_infer(raw("slow", &[large(900 << 10, seconds)])).await }
    };
    let responses = join_all((0..8).map(|_| infer(1.0))).await;
    let rejected: Vec<_> = responses.into_iter().filter_map(Result::err).collect();
    // One client gets four fifths of four mebibytes. Parts of messages that are rejected later take some of it.
    assert!((5..8).contains(&rejected.len()), "{rejected:?}");
    for error in rejected {
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert_eq!(error.metadata().get("retry-after").unwrap(), "1");
    }
    for _ in 0..8 {
        infer(0.0).await.unwrap();
    }
}

#[tokio::test]
async fn messages_of_a_stream_in_flight_are_limited_to_the_size_of_one() {
    let server = TestServer::start().await;
    let sizes = [900 << 10, 300 << 10, 300 << 10, 300 << 10, 900 << 10];
    let requests: Vec<_> = sizes.iter().map(|&bytes| raw("slow", &[large(bytes, 0.2)])).collect();
    let responses = server.client().model_stream_infer(futures_util::stream::iter(requests)).await.unwrap();
    let responses: Vec<_> = responses.into_inner().collect().await;
    assert_eq!(responses.len(), sizes.len());
    assert!(responses.iter().all(|response| response.as_ref().is_ok_and(|response| response.error_message.is_empty())));
    assert_eq!(server.fake.max_concurrent.load(Ordering::SeqCst), 3);
}
