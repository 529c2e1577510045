use axum::body::Body;
use contract::ModelDescription;
use http::{HeaderValue, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower::ServiceExt;
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::protocol::{infer_body, post};
use crate::stack::{Answer, Stack, get_request, image_request};

fn infer(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

fn rows(numbers: impl IntoIterator<Item = u8>) -> Vec<[f32; 4]> {
    numbers.into_iter().map(|number| [f32::from(number), 1., 2., 3.]).collect()
}

async fn infer_numbers(stack: &Stack, numbers: impl IntoIterator<Item = u8>) -> Answer {
    stack.send(post(&infer("mnist"), &infer_body(&rows(numbers)))).await
}

fn images(images: &[&str]) -> Request<Body> {
    let data: Vec<_> = images.iter().map(|image| base64(image)).collect();
    let input = json!({"name": "image", "shape": [data.len()], "datatype": "BYTES", "data": data});
    post(&infer("mnist"), &json!({"inputs": [input]}))
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn echo(answer: &Answer) -> Value {
    answer.json()["outputs"][1]["data"].clone()
}

#[tokio::test]
async fn only_rows_that_are_not_cached_run() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    assert_eq!(infer_numbers(&stack, 0..30).await.header("cache-status"), "mlserve; fwd=miss; stored");
    assert_eq!((stack.runs(), stack.rows()), (1, 30));
    let order: Vec<u8> = [30].into_iter().chain(0..30).chain([31]).collect();
    let partial = infer_numbers(&stack, order.clone()).await;
    assert_eq!(partial.header("cache-status"), "mlserve; fwd=partial; stored; detail=\"30 of 32 rows\"");
    assert_eq!((stack.runs(), stack.rows()), (2, 32));
    assert_eq!(partial.json()["outputs"][0]["shape"], json!([32, 3]));
    assert_eq!(echo(&partial), json!(order.iter().map(|&number| f64::from(number)).collect::<Vec<_>>()));
    let stats = stack.send(get_request("/v2/models/mnist/stats")).await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 32, "cached rows have not run again");
    let all = infer_numbers(&stack, 0..32).await;
    assert_eq!((all.header("cache-status"), all.header("age")), ("mlserve; hit", "0"));
    assert_eq!((stack.runs(), stack.rows()), (2, 32));

    let metrics = stack.metrics();
    for line in [
        "answers_total{model=\"mnist\",outcome=\"miss\"} 32\n",
        "answers_total{model=\"mnist\",outcome=\"near\"} 62\n",
        "inferences_total{model=\"mnist\"} 32\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
}

#[tokio::test]
async fn single_rows_and_batches_share_cache_entries() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    infer_numbers(&stack, [7]).await;
    let batch = infer_numbers(&stack, [6, 7]).await;
    assert_eq!(batch.header("cache-status"), "mlserve; fwd=partial; stored; detail=\"1 of 2 rows\"");
    assert_eq!(infer_numbers(&stack, [6]).await.header("cache-status"), "mlserve; hit");
    assert_eq!(stack.rows(), 2);

    stack.send(image_request("/predict", "seven")).await;
    let batch = stack.send(images(&["eleven", "seven"])).await;
    assert_eq!(batch.header("cache-status"), "mlserve; fwd=partial; stored; detail=\"1 of 2 rows\"");
    assert_eq!(echo(&batch), json!([6.0, 5.0]));
    assert_eq!(stack.send(image_request("/predict", "eleven")).await.header("cache-status"), "mlserve; hit");
    assert_eq!(stack.rows(), 4);
}

#[tokio::test]
async fn equal_rows_of_a_batch_run_once() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let answer = infer_numbers(&stack, [5, 6, 5, 5, 6]).await;
    assert_eq!(answer.header("cache-status"), "mlserve; fwd=miss; stored");
    assert_eq!(echo(&answer), json!([5.0, 6.0, 5.0, 5.0, 6.0]));
    assert_eq!((stack.runs(), stack.rows()), (1, 2));
}

#[tokio::test]
async fn a_hundred_identical_concurrent_batches_compute_each_row_once() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let app = stack.app.clone();
        let request = images(&["slow", "seven", "eleven", "slow"]);
        clients.spawn(async move { app.oneshot(request).await.unwrap() });
    }
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answer| answer.status() == StatusCode::OK));
    let stored = answers.iter().filter(|answer| answer.headers()["cache-status"] == "mlserve; fwd=miss; stored");
    assert_eq!(stored.count(), 1);
    assert_eq!((stack.runs(), stack.rows()), (1, 3));
}

#[tokio::test]
async fn batches_that_wait_for_rows_of_each_other_do_not_deadlock() {
    let stack = Stack::serving(vec![model("mnist")], |settings| settings.max_concurrent_requests = 100).await;
    let mut clients = JoinSet::new();
    for start in 0..20_u8 {
        let app = stack.app.clone();
        // Overlapping, and in both directions.
        let mut numbers: Vec<u8> = (0..40).map(|number| (start * 7 + number) % 100).collect();
        if start % 2 == 0 {
            numbers.reverse();
        }
        let request = post(&infer("mnist"), &infer_body(&rows(numbers.clone())));
        clients.spawn(async move {
            let response = app.oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let expected: Vec<_> = numbers.iter().map(|&number| f64::from(number)).collect();
            assert_eq!(body["outputs"][1]["data"], json!(expected));
        });
    }
    clients.join_all().await;
    assert_eq!(stack.rows(), 100, "each row once");
}

#[tokio::test]
async fn a_caller_that_disconnects_does_not_cancel_rows_of_others() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let send = |request: Request<Body>| tokio::spawn(stack.app.clone().oneshot(request));
    let first = send(images(&["slow", "seven"]));
    while stack.runs() == 0 {
        tokio::task::yield_now().await;
    }
    let second = send(images(&["seven", "slow", "eleven"]));
    while stack.runs() == 1 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_invalid_row_fails_no_other_request() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    stack.send(image_request("/predict", "seven")).await;
    let (batch, single) =
        tokio::join!(stack.send(images(&["seven", "slow", "text"])), stack.send(image_request("/predict", "slow")),);
    assert_eq!(batch.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        batch.json()["error"],
        "element 2 of image is not an image we read",
        "the index in the request, not in the batch"
    );
    assert_eq!(single.status, StatusCode::OK, "{}", single.text());
    assert_eq!(stack.send(image_request("/predict", "slow")).await.header("cache-status"), "mlserve; hit");
}

#[tokio::test]
async fn a_row_that_crashes_the_model_fails_only_its_own_request() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    stack.send(image_request("/predict", "seven")).await;
    let (batch, single) =
        tokio::join!(stack.send(images(&["seven", "slow", "killer"])), stack.send(image_request("/predict", "slow")));
    assert_eq!(batch.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(single.status, StatusCode::OK, "{}", single.text());
    assert_eq!(stack.runs(), 3, "the row that crashes the model is not retried");
}

#[tokio::test]
async fn results_of_a_model_without_rows_are_cached_as_a_whole() {
    for model in ["liar", "whole"] {
        let stack = Stack::start(AppType::Cli, &[model]).await;
        let infer_rows = |numbers| stack.send(post(&infer(model), &infer_body(&rows(numbers))));
        let first = infer_rows([1, 2]).await;
        assert_eq!(first.header("cache-status"), "mlserve; fwd=miss; stored", "{model}: {}", first.text());
        let runs = stack.runs();
        assert_eq!(infer_rows([1, 2]).await.header("cache-status"), "mlserve; hit", "{model}");
        assert_eq!(infer_rows([2, 3]).await.header("cache-status"), "mlserve; fwd=miss; stored", "{model}");
        assert_eq!(stack.runs(), runs + 1, "{model}");
    }
}

#[tokio::test]
async fn cache_directives_apply_to_batches() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let infer_with = |numbers: &[u8], directive: &'static str| {
        let mut request = post(&infer("mnist"), &infer_body(&rows(numbers.iter().copied())));
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(directive));
        stack.send(request)
    };
    assert_eq!(infer_with(&[1, 2], "no-store").await.header("cache-status"), "mlserve; fwd=request");
    assert_eq!(infer_with(&[1, 2], "only-if-cached").await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(infer_with(&[1, 2], "no-cache").await.header("cache-status"), "mlserve; fwd=request; stored");
    assert_eq!(infer_with(&[2, 1], "only-if-cached").await.header("cache-status"), "mlserve; hit");
    assert_eq!(infer_with(&[2, 3], "only-if-cached").await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!((stack.runs(), stack.rows()), (2, 4));
}

#[tokio::test]
async fn rows_of_different_digests_are_never_combined() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    infer_numbers(&stack, [1]).await;
    // model_api has loaded another file, and the catalog of web_api is older: row 1 is cached under the old digest.
    "sha256:new".clone_into(&mut stack.model_api.models.lock().unwrap()[0].digest);
    let answer = infer_numbers(&stack, [1, 2]).await;
    assert_eq!(answer.json()["parameters"]["model_digest"], "sha256:new");
    assert_eq!(echo(&answer), json!([1.0, 2.0]));
}

#[tokio::test]
async fn a_request_for_a_version_gets_no_rows_of_another_version() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    // model_api has another default version, and the catalog of web_api is older.
    {
        let mut models = stack.model_api.models.lock().unwrap();
        models[0].is_default = false;
        let (version, digest) = ("2".to_owned(), "sha256:two".to_owned());
        let second = ModelDescription { version, digest, is_default: true, ..models[0].clone() };
        models.push(second);
    }
    let (open, mut named) = (images(&["slow", "seven"]), images(&["slow", "seven"]));
    *named.uri_mut() = "/v2/models/mnist/versions/1/infer".parse().unwrap();
    let (open, named) = tokio::join!(stack.send(open), stack.send(named));
    assert_eq!(open.json()["model_version"], "2");
    assert_eq!(named.json()["model_version"], "1");
    assert_eq!(named.json()["parameters"]["model_digest"], "sha256:mnist");
}
