use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderValue, StatusCode, header};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::stack::{Answer, Stack, image_request};

/// Concurrent calls to a model on one core.
fn calls_per_core() -> usize {
    4usize.div_ceil(service::runtime::core_count())
}

/// A stack whose concurrent calls to the model `mnist` are all in flight for 200 ms, so that further requests are queued and batched.
async fn busy() -> Arc<Stack> {
    let stack = Arc::new(
        Stack::serving(vec![model("mnist"), model("whole"), model("sluggish")], |settings| {
            settings.app_type = AppType::Cli;
            settings.max_concurrent_requests = 1000;
        })
        .await,
    );
    for in_flight in 1..=calls_per_core() {
        let mut slow = image_request("/predict/mnist", "slow");
        slow.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn({
            let stack = Arc::clone(&stack);
            async move { stack.send(slow).await }
        });
        while stack.runs() < in_flight {
            sleep(Duration::from_millis(1)).await;
        }
    }
    stack
}

fn predict(stack: &Arc<Stack>, image: impl Into<String>) -> JoinHandle<Answer> {
    let (stack, image) = (Arc::clone(stack), image.into());
    tokio::spawn(async move { stack.send(image_request("/predict/mnist", &image)).await })
}

/// Sends images of these lengths. The fake returns the length in millionths as the probability of the third class.
fn predict_lengths(stack: &Arc<Stack>, lengths: impl IntoIterator<Item = usize>) -> Vec<JoinHandle<Answer>> {
    lengths.into_iter().map(|length| predict(stack, "x".repeat(length))).collect()
}

/// The lengths that the responses contain.
async fn lengths(requests: Vec<JoinHandle<Answer>>) -> Vec<usize> {
    let length = |answer: Answer| {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        (answer.json()["probabilities"][2]["value"].as_f64().unwrap() * 1e6).round() as usize
    };
    join_all(requests).await.into_iter().map(|answer| length(answer.unwrap())).collect()
}

#[tokio::test]
async fn pending_requests_are_sent_as_one_batch_and_each_gets_its_own_result() {
    let stack = busy().await;
    assert_eq!(lengths(predict_lengths(&stack, 10..30)).await, (10..30).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (calls_per_core() + 1, calls_per_core() + 20));
    assert_eq!(lengths(predict_lengths(&stack, 10..30)).await, (10..30).collect::<Vec<_>>());
    assert_eq!(stack.runs(), calls_per_core() + 1, "each result is cached on its own");
}

#[tokio::test]
async fn a_full_batch_is_sent_immediately() {
    let stack = busy().await;
    let started = Instant::now();
    let requests = predict_lengths(&stack, 10..50);
    while stack.runs() == calls_per_core() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((stack.runs(), stack.rows()), (calls_per_core() + 1, calls_per_core() + 32));
    assert!(
        started.elapsed() < Duration::from_millis(150),
        "while the other calls are in flight: {:?}",
        started.elapsed()
    );
    assert_eq!(lengths(requests).await, (10..50).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (calls_per_core() + 2, calls_per_core() + 40));
}

#[tokio::test]
async fn requests_to_a_slow_model_are_not_batched() {
    let stack = busy().await;
    let predict = |length: usize| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.send(image_request("/predict/sluggish", &"x".repeat(length))).await })
    };
    assert_eq!(lengths(vec![predict(9)]).await, [9], "the time per row is measured");
    assert_eq!(lengths((10..40).map(predict).collect()).await, (10..40).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (calls_per_core() + 1 + 30, calls_per_core() + 1 + 30));
}

#[tokio::test]
async fn an_overloaded_model_is_sent_no_more_than_it_accepts() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["busy"]).await);
    let predict = |image: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/busy", image);
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn(async move { stack.send(request).await })
    };
    let refused = async || {
        let answer = predict("any").await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let detail =
            "The model \"busy\" is overloaded: it receives more requests than it can process. Try again in 1 s.";
        assert_eq!(answer.json()["detail"], detail, "not the message that the model sent for another request");
        assert_eq!(answer.header("retry-after"), "1");
    };
    let mut slow = Vec::new();
    for in_flight in 1..=3 {
        slow.push(predict("slow"));
        while stack.runs() < in_flight {
            sleep(Duration::from_millis(1)).await;
        }
    }
    for _ in 0..5 {
        refused().await;
    }
    assert_eq!(stack.runs(), 3 + 1, "three were accepted, and a fourth was rejected");
    for answer in join_all(slow).await {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    refused().await;
    assert_eq!(stack.runs(), 3 + 1 + 1, "the next request is sent again");
}

#[tokio::test]
async fn an_interactive_request_does_not_wait_for_the_call_of_a_job_with_the_same_input() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["mnist"]).await);
    let predict = |priority: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/mnist", "slow");
        request.headers_mut().insert("priority", HeaderValue::from_static(priority));
        tokio::spawn(async move { stack.send(request).await })
    };
    let mut requests = Vec::new();
    // The second request of each priority joins the flight of the first.
    for (priority, runs) in [("u=7", 1), ("u=7", 1), ("u=3", 2), ("u=3", 2)] {
        requests.push(predict(priority));
        let started = Instant::now();
        while stack.runs() < runs && started.elapsed() < Duration::from_secs(9) {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(lengths(requests).await, ["slow".len(); 4]);
    assert_eq!(stack.runs(), 2, "one call for the jobs, and one for the interactive requests");
}

#[tokio::test]
async fn a_503_without_overload_does_not_limit_other_requests() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["loading"]).await);
    let predict = |image: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/loading", image);
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn(async move { stack.send(request).await })
    };
    let slow = predict("slow");
    while stack.runs() < 1 {
        sleep(Duration::from_millis(1)).await;
    }
    for sent in 1..=5 {
        let answer = predict("any").await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["detail"], "loading is not available: it is being loaded");
        assert_eq!(answer.header("retry-after"), "9");
        assert_eq!(stack.runs(), 1 + sent, "each request reaches the model");
    }
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn only_the_request_that_is_rejected_or_crashes_the_model_fails() {
    for (bad, status, detail) in [
        ("text", StatusCode::UNSUPPORTED_MEDIA_TYPE, "element 0 of image is not an image we read"),
        ("killer", StatusCode::INTERNAL_SERVER_ERROR, "the model crashed on this request"),
    ] {
        let stack = busy().await;
        let mut good = predict_lengths(&stack, 10..13);
        let bad = predict(&stack, bad);
        good.extend(predict_lengths(&stack, 13..17));
        assert_eq!(lengths(good).await, (10..17).collect::<Vec<_>>());
        let bad = bad.await.unwrap();
        assert_eq!((bad.status, bad.json()["detail"].as_str().unwrap()), (status, detail));
        assert_eq!(stack.runs(), calls_per_core() + 1 + 8, "first as a batch, and then each alone");
    }
}

#[tokio::test]
async fn a_request_that_hangs_delays_its_batch_by_half_of_the_timeout() {
    let stack = busy().await;
    let started = Instant::now();
    let hanging = predict(&stack, "stuck");
    assert_eq!(lengths(predict_lengths(&stack, 10..17)).await, (10..17).collect::<Vec<_>>());
    assert!(started.elapsed() < Duration::from_secs(1), "within one timeout: {:?}", started.elapsed());
    assert_eq!(hanging.await.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn requests_of_disconnected_callers_are_not_sent() {
    let stack = busy().await;
    let disconnected = predict_lengths(&stack, 10..20);
    let connected = predict_lengths(&stack, 20..25);
    sleep(Duration::from_millis(20)).await;
    disconnected.iter().for_each(JoinHandle::abort);
    assert_eq!(lengths(connected).await, (20..25).collect::<Vec<_>>());
    assert_eq!(stack.rows(), calls_per_core() + 5);
}

#[tokio::test]
async fn requests_to_a_model_without_independent_rows_are_not_batched() {
    let stack = busy().await;
    let before = stack.runs();
    let requests = (10..20).map(|length| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.send(image_request("/predict/whole", &"x".repeat(length))).await })
    });
    assert_eq!(lengths(requests.collect()).await, (10..20).collect::<Vec<_>>());
    assert_eq!(stack.runs() - before, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_concurrent_requests_never_get_the_results_of_others() {
    let stack = busy().await;
    // The initial congestion window, without the calls that are in flight.
    let count = 64 * service::runtime::core_count() - calls_per_core() * service::runtime::core_count();
    let lengths_of = |number: usize| number * 7919 % 997 + 10;
    for round in 0..10 {
        let expected: Vec<usize> = (0..count).map(|number| lengths_of(number + round)).collect();
        let requests = predict_lengths(&stack, expected.iter().copied());
        // Some callers disconnect.
        requests.iter().skip(round).step_by(10).for_each(JoinHandle::abort);
        for (request, expected) in requests.into_iter().zip(expected) {
            let Ok(answer) = request.await else { continue };
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            let value = answer.json()["probabilities"][2]["value"].as_f64().unwrap();
            assert_eq!((value * 1e6).round() as usize, expected);
        }
    }
}
