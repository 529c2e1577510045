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

use crate::support::{MAX_BODY_BYTES, Served, floats, parameters, raw, until};

/// So many bytes, of which the model `slow` makes so many seconds.
fn large(bytes: usize, seconds: f32) -> Tensor {
    let mut values = vec![0.0; bytes / 4];
    values[0] = seconds;
    floats(&values)
}

#[tokio::test]
async fn a_message_may_have_as_many_bytes_as_a_body() {
    let served = Served::start().await;
    let most = MAX_BODY_BYTES - (64 << 10);
    let answer = served.client().model_infer(raw("FP32", &[large(most, 0.0)])).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents[0].len(), most);
    for bytes in [most + 4, MAX_BODY_BYTES + 4, 8 * MAX_BODY_BYTES] {
        let error = served.client().model_infer(raw("FP32", &[large(bytes, 0.0)])).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{bytes}: {error}");
    }
}

#[tokio::test]
async fn clients_may_compress_and_are_answered_so() {
    let served = Served::start().await;
    let mut client = served.client().send_compressed(Gzip).accept_compressed(Gzip);
    let x = large(MAX_BODY_BYTES / 2, 7.0);
    let answer = client.model_infer(raw("FP32", std::slice::from_ref(&x))).await.unwrap();
    assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
    assert_eq!(answer.into_inner().raw_output_contents, [x.data]);
    let error = client.model_infer(raw("FP32", &[large(8 * MAX_BODY_BYTES, 0.0)])).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_call_that_is_given_up_gives_up_its_work() {
    let served = Served::start().await;
    let call = async { served.client().model_infer(raw("slow", &[floats(&[60.0])])).await };
    assert!(timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(served.fake.begun.load(Ordering::SeqCst), 1);
    until("it is given up", || served.fake.given_up.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_requests_own_timeout_ends_the_work() {
    let served = Served::start().await;
    let mut request = raw("slow", &[floats(&[60.0])]);
    request.parameters = parameters([("timeout", ParameterChoice::Int64Param(100_000))]);
    let error = served.client().model_infer(request).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert_eq!(served.fake.given_up.load(Ordering::SeqCst), 1);
    let never = ModelInferRequest {
        parameters: parameters([("timeout", ParameterChoice::StringParam("soon".to_owned()))]),
        ..raw("slow", &[floats(&[0.0])])
    };
    assert_eq!(served.client().model_infer(never).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn all_messages_under_way_share_a_bounded_memory_that_comes_back() {
    let served = Served::start().await;
    let ask = |seconds| {
        let mut client = served.client();
        async move { client.model_infer(raw("slow", &[large(900 << 10, seconds)])).await }
    };
    let answers = join_all((0..8).map(|_| ask(1.0))).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    // One client gets four fifths of four mebibytes, of which parts of messages that are refused later take some.
    assert!((5..8).contains(&refused.len()), "{refused:?}");
    for error in refused {
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert_eq!(error.metadata().get("retry-after").unwrap(), "1");
    }
    for _ in 0..8 {
        ask(0.0).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_has_no_more_under_way_than_one_message_may_have() {
    let served = Served::start().await;
    let sizes = [900 << 10, 300 << 10, 300 << 10, 300 << 10, 900 << 10];
    let questions: Vec<_> = sizes.iter().map(|&bytes| raw("slow", &[large(bytes, 0.2)])).collect();
    let answers = served.client().model_stream_infer(futures_util::stream::iter(questions)).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    assert_eq!(answers.len(), sizes.len());
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.error_message.is_empty())));
    assert_eq!(served.fake.most_at_once.load(Ordering::SeqCst), 3);
}
