use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use open_inference::grpc::proto::inference::ModelInferRequest;
use open_inference::grpc::proto::inference::infer_parameter::ParameterChoice;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use crate::support::{TestServer, floats, parameters, raw, until};

fn infer_request(model: &str, value: f32) -> ModelInferRequest {
    ModelInferRequest { id: format!("{model} {value}"), ..raw(model, &[floats(&[value])]) }
}

#[tokio::test]
async fn responses_are_in_the_order_of_the_requests_including_errors() {
    let server = TestServer::start().await;
    let requests = [
        infer_request("slow", 0.3),
        infer_request("FP32", 2.0),
        infer_request("none", 0.0),
        infer_request("busy", 0.0),
        infer_request("slow", 0.1),
    ];
    let mut responses = server.client().model_stream_infer(stream::iter(requests)).await.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        received.push((response.infer_response.unwrap().id, response.error_message));
    }
    let received: Vec<_> = received.iter().map(|(id, error)| (id.as_str(), error.as_str())).collect();
    let unknown = "there is no model \"none\"";
    let expected =
        [("slow 0.3", ""), ("FP32 2", ""), ("none 0", unknown), ("busy 0", "all are busy"), ("slow 0.1", "")];
    assert_eq!(received, expected);
}

#[tokio::test]
async fn requests_of_a_stream_run_concurrently_up_to_a_limit() {
    let server = TestServer::start().await;
    let requests = stream::iter((0..20).map(|_| infer_request("slow", 0.2)));
    let started = Instant::now();
    let responses = server.client().model_stream_infer(requests).await.unwrap().into_inner();
    assert_eq!(responses.count().await, 20);
    assert!(started.elapsed() < Duration::from_secs(3), "20 × 0.2 s one after the other would be 4 s");
    assert_eq!(server.fake.max_concurrent.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn responses_of_a_stream_carry_metadata_as_parameters() {
    let server = TestServer::start().await;
    let mut responses =
        server.client().model_stream_infer(stream::iter([infer_request("FP32", 1.0)])).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap().infer_response.unwrap();
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    assert_eq!(response.parameters["cache-status"].parameter_choice, Some(text("mlserve; hit")));
    assert_eq!(response.parameters["device"].parameter_choice, Some(text("cpu")));
}

#[tokio::test]
async fn each_response_of_a_stream_is_marked_as_final() {
    let server = TestServer::start().await;
    let opted_in = parameters([("triton_enable_empty_final_response", ParameterChoice::BoolParam(true))]);
    let requests = [
        infer_request("FP32", 1.0),
        ModelInferRequest { parameters: opted_in, ..infer_request("FP32", 2.0) },
        infer_request("none", 3.0),
    ];
    let mut responses = server.client().model_stream_infer(stream::iter(requests)).await.unwrap().into_inner();
    for id in ["FP32 1", "FP32 2", "none 3"] {
        let response = responses.message().await.unwrap().unwrap().infer_response.unwrap();
        assert_eq!(response.id, id);
        let last = response.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(last, Some(ParameterChoice::BoolParam(true)), "{id}");
    }
    // No empty response follows one with tensors.
    assert!(responses.message().await.unwrap().is_none());
    let unary = server.client().model_infer(infer_request("FP32", 1.0)).await.unwrap().into_inner();
    assert!(!unary.parameters.contains_key("triton_final_response"));
}

#[tokio::test]
async fn a_response_arrives_before_the_next_request_is_sent() {
    let server = TestServer::start().await;
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let requests = stream::unfold(requests, |mut requests| async { Some((requests.recv().await?, requests)) });
    let mut responses = server.client().model_stream_infer(requests).await.unwrap().into_inner();
    for value in [1.0, 2.0] {
        sender.try_send(infer_request("FP32", value)).unwrap();
        let response = timeout(Duration::from_secs(5), responses.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(response.infer_response.unwrap().id, format!("FP32 {value}"));
    }
    drop(sender);
    assert!(responses.message().await.unwrap().is_none());
}

#[tokio::test]
async fn dropping_a_stream_cancels_its_requests() {
    let server = TestServer::start().await;
    let requests = stream::iter((0..3).map(|_| infer_request("slow", 60.0)));
    let responses = server.client().model_stream_infer(requests).await.unwrap();
    until("all are started", || server.fake.started.load(Ordering::SeqCst) == 3).await;
    drop(responses);
    until("all are cancelled", || server.fake.cancelled.load(Ordering::SeqCst) == 3).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let server = TestServer::start().await;
    let requests = stream::iter([infer_request("FP32", 1.0), infer_request("slow", 60.0)]).chain(stream::pending());
    let mut request = Request::new(requests);
    request.metadata_mut().insert("grpc-timeout", "500m".parse().unwrap());
    let mut responses = server.client().model_stream_infer(request).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().infer_response.unwrap().id, "FP32 1");
    let error = responses.message().await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    until("it is cancelled", || server.fake.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_idle_stream_ends_when_the_server_is_unready() {
    let server = TestServer::start().await;
    let requests = stream::iter([infer_request("FP32", 1.0)]).chain(stream::pending());
    let mut responses = server.client().model_stream_infer(requests).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().is_some());
    server.fake.unready.store(true, Ordering::SeqCst);
    let error =
        timeout(Duration::from_secs(12), responses.message()).await.expect("the stream has no end").unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
