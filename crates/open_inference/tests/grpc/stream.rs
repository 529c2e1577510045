use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use open_inference::grpc::proto::inference::ModelInferRequest;
use open_inference::grpc::proto::inference::infer_parameter::ParameterChoice;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use crate::support::{Served, floats, parameters, raw, until};

fn question(model: &str, value: f32) -> ModelInferRequest {
    ModelInferRequest { id: format!("{model} {value}"), ..raw(model, &[floats(&[value])]) }
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_questions_and_an_error_is_one() {
    let served = Served::start().await;
    let questions = [
        question("slow", 0.3),
        question("FP32", 2.0),
        question("none", 0.0),
        question("busy", 0.0),
        question("slow", 0.1),
    ];
    let mut answers = served.client().model_stream_infer(stream::iter(questions)).await.unwrap().into_inner();
    let mut said = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        said.push((answer.infer_response.unwrap().id, answer.error_message));
    }
    let said: Vec<_> = said.iter().map(|(id, error)| (id.as_str(), error.as_str())).collect();
    let unknown = "there is no model \"none\"";
    let expected =
        [("slow 0.3", ""), ("FP32 2", ""), ("none 0", unknown), ("busy 0", "all are busy"), ("slow 0.1", "")];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn some_questions_of_a_stream_are_worked_on_at_once_but_not_all() {
    let served = Served::start().await;
    let questions = stream::iter((0..20).map(|_| question("slow", 0.2)));
    let begun = Instant::now();
    let answers = served.client().model_stream_infer(questions).await.unwrap().into_inner();
    assert_eq!(answers.count().await, 20);
    assert!(begun.elapsed() < Duration::from_secs(3), "20 × 0.2 s one after the other would be 4 s");
    assert_eq!(served.fake.most_at_once.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn what_a_call_has_in_its_metadata_each_answer_of_a_stream_has_in_its_parameters() {
    let served = Served::start().await;
    let mut answers =
        served.client().model_stream_infer(stream::iter([question("FP32", 1.0)])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().infer_response.unwrap();
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    assert_eq!(answer.parameters["cache-status"].parameter_choice, Some(text("mlserve; hit")));
    assert_eq!(answer.parameters["device"].parameter_choice, Some(text("cpu")));
}

#[tokio::test]
async fn each_response_of_a_stream_is_marked_as_the_last_of_its_request() {
    let served = Served::start().await;
    let opted_in = parameters([("triton_enable_empty_final_response", ParameterChoice::BoolParam(true))]);
    let requests = [
        question("FP32", 1.0),
        ModelInferRequest { parameters: opted_in, ..question("FP32", 2.0) },
        question("none", 3.0),
    ];
    let mut responses = served.client().model_stream_infer(stream::iter(requests)).await.unwrap().into_inner();
    for id in ["FP32 1", "FP32 2", "none 3"] {
        let response = responses.message().await.unwrap().unwrap().infer_response.unwrap();
        assert_eq!(response.id, id);
        let last = response.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(last, Some(ParameterChoice::BoolParam(true)), "{id}");
    }
    // No empty response follows one that has tensors.
    assert!(responses.message().await.unwrap().is_none());
    let unary = served.client().model_infer(question("FP32", 1.0)).await.unwrap().into_inner();
    assert!(!unary.parameters.contains_key("triton_final_response"));
}

#[tokio::test]
async fn a_question_is_answered_before_the_next_is_asked() {
    let served = Served::start().await;
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let asked = stream::unfold(asked, |mut asked| async { Some((asked.recv().await?, asked)) });
    let mut answers = served.client().model_stream_infer(asked).await.unwrap().into_inner();
    for value in [1.0, 2.0] {
        ask.try_send(question("FP32", value)).unwrap();
        let answer = timeout(Duration::from_secs(5), answers.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.infer_response.unwrap().id, format!("FP32 {value}"));
    }
    drop(ask);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_up_its_questions() {
    let served = Served::start().await;
    let questions = stream::iter((0..3).map(|_| question("slow", 60.0)));
    let answers = served.client().model_stream_infer(questions).await.unwrap();
    until("all are begun", || served.fake.begun.load(Ordering::SeqCst) == 3).await;
    drop(answers);
    until("all are given up", || served.fake.given_up.load(Ordering::SeqCst) == 3).await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let served = Served::start().await;
    let questions = stream::iter([question("FP32", 1.0), question("slow", 60.0)]).chain(stream::pending());
    let mut request = Request::new(questions);
    request.metadata_mut().insert("grpc-timeout", "500m".parse().unwrap());
    let mut answers = served.client().model_stream_infer(request).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().infer_response.unwrap().id, "FP32 1");
    let error = answers.message().await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    until("it is given up", || served.fake.given_up.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_idle_stream_does_not_keep_an_unready_server() {
    let served = Served::start().await;
    let questions = stream::iter([question("FP32", 1.0)]).chain(stream::pending());
    let mut answers = served.client().model_stream_infer(questions).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    served.fake.unready.store(true, Ordering::SeqCst);
    let error = timeout(Duration::from_secs(12), answers.message()).await.expect("the stream has no end").unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
