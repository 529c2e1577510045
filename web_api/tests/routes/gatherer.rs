use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{HeaderValue, StatusCode, header};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::stack::{Answer, Stack, image_request};

/// Calls of one core to a model that are under way at the same time.
fn lanes() -> usize {
    4usize.div_ceil(service::runtime::core_count())
}

/// A stack all of whose calls to the model `mnist` are under way for 200 ms, so that what comes now waits and goes together.
async fn busy() -> Arc<Stack> {
    let stack = Arc::new(
        Stack::serving(vec![model("mnist"), model("whole"), model("sluggish")], |settings| {
            settings.app_type = AppType::Cli;
            settings.max_concurrent_requests = 1000;
        })
        .await,
    );
    for under_way in 1..=lanes() {
        let mut slow = image_request("/predict/mnist", "slow");
        slow.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn({
            let stack = Arc::clone(&stack);
            async move { stack.send(slow).await }
        });
        while stack.runs() < under_way {
            sleep(Duration::from_millis(1)).await;
        }
    }
    stack
}

fn ask(stack: &Arc<Stack>, picture: impl Into<String>) -> JoinHandle<Answer> {
    let (stack, picture) = (Arc::clone(stack), picture.into());
    tokio::spawn(async move { stack.send(image_request("/predict/mnist", &picture)).await })
}

/// Asks with pictures of these lengths, which the fake gives back in millionths as the probability of the third class.
fn ask_lengths(stack: &Arc<Stack>, lengths: impl IntoIterator<Item = usize>) -> Vec<JoinHandle<Answer>> {
    lengths.into_iter().map(|length| ask(stack, "x".repeat(length))).collect()
}

async fn lengths(asked: Vec<JoinHandle<Answer>>) -> Vec<usize> {
    let length = |answer: Answer| {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        (answer.json()["probabilities"][2]["value"].as_f64().unwrap() * 1e6).round() as usize
    };
    join_all(asked).await.into_iter().map(|answer| length(answer.unwrap())).collect()
}

#[tokio::test]
async fn what_waits_goes_in_one_call_and_everybody_gets_his_own_answer() {
    let stack = busy().await;
    assert_eq!(lengths(ask_lengths(&stack, 10..30)).await, (10..30).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (lanes() + 1, lanes() + 20));
    assert_eq!(lengths(ask_lengths(&stack, 10..30)).await, (10..30).collect::<Vec<_>>());
    assert_eq!(stack.runs(), lanes() + 1, "each is remembered by itself");
}

#[tokio::test]
async fn a_full_call_leaves_at_once() {
    let stack = busy().await;
    let begun = Instant::now();
    let asked = ask_lengths(&stack, 10..50);
    while stack.runs() == lanes() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((stack.runs(), stack.rows()), (lanes() + 1, lanes() + 32));
    assert!(begun.elapsed() < Duration::from_millis(150), "while the others are under way: {:?}", begun.elapsed());
    assert_eq!(lengths(asked).await, (10..50).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (lanes() + 2, lanes() + 40));
}

#[tokio::test]
async fn a_slow_model_is_asked_one_by_one() {
    let stack = busy().await;
    let ask = |length: usize| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.send(image_request("/predict/sluggish", &"x".repeat(length))).await })
    };
    assert_eq!(lengths(vec![ask(9)]).await, [9], "it is known how long a row takes");
    assert_eq!(lengths((10..40).map(ask).collect()).await, (10..40).collect::<Vec<_>>());
    assert_eq!((stack.runs(), stack.rows()), (lanes() + 1 + 30, lanes() + 1 + 30));
}

#[tokio::test]
async fn a_model_that_says_later_is_sent_no_more_than_it_takes() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["busy"]).await);
    let ask = |picture: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/busy", picture);
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn(async move { stack.send(request).await })
    };
    let refused = async || {
        let answer = ask("any").await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let words = "The model \"busy\" is overloaded: it is sent more requests than it can answer. Try again in 1 s.";
        assert_eq!(answer.json()["detail"], words, "not what the model said to another caller");
        assert_eq!(answer.header("retry-after"), "1");
    };
    let mut slow = Vec::new();
    for under_way in 1..=3 {
        slow.push(ask("slow"));
        while stack.runs() < under_way {
            sleep(Duration::from_millis(1)).await;
        }
    }
    for _ in 0..5 {
        refused().await;
    }
    assert_eq!(stack.runs(), 3 + 1, "three are under way, and one more was too much");
    for answer in join_all(slow).await {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    refused().await;
    assert_eq!(stack.runs(), 3 + 1 + 1, "there is room again");
}

#[tokio::test]
async fn an_interactive_request_does_not_wait_for_the_call_of_a_job_with_the_same_input() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["mnist"]).await);
    let ask = |priority: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/mnist", "slow");
        request.headers_mut().insert("priority", HeaderValue::from_static(priority));
        tokio::spawn(async move { stack.send(request).await })
    };
    let mut asked = Vec::new();
    // The second of each kind joins the first.
    for (priority, runs) in [("u=7", 1), ("u=7", 1), ("u=3", 2), ("u=3", 2)] {
        asked.push(ask(priority));
        let begun = Instant::now();
        while stack.runs() < runs && begun.elapsed() < Duration::from_secs(9) {
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(lengths(asked).await, ["slow".len(); 4]);
    assert_eq!(stack.runs(), 2, "one for the jobs, and one for those who wait");
}

#[tokio::test]
async fn a_503_that_says_nothing_of_load_keeps_no_other_request_away() {
    let stack = Arc::new(Stack::start(AppType::Cli, &["loading"]).await);
    let ask = |picture: &'static str| {
        let stack = Arc::clone(&stack);
        let mut request = image_request("/predict/loading", picture);
        request.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        tokio::spawn(async move { stack.send(request).await })
    };
    let slow = ask("slow");
    while stack.runs() < 1 {
        sleep(Duration::from_millis(1)).await;
    }
    for asked in 1..=5 {
        let answer = ask("any").await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["detail"], "loading cannot be asked now: it is being loaded");
        assert_eq!(answer.header("retry-after"), "9");
        assert_eq!(stack.runs(), 1 + asked, "the model has been asked each time");
    }
    assert_eq!(slow.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn one_that_is_refused_or_crashes_is_the_only_one_to_be_told_so() {
    for (bad, status, words) in [
        ("text", StatusCode::UNSUPPORTED_MEDIA_TYPE, "element 0 of image is not an image we read"),
        ("killer", StatusCode::INTERNAL_SERVER_ERROR, "the model crashed on this request"),
    ] {
        let stack = busy().await;
        let mut good = ask_lengths(&stack, 10..13);
        let bad = ask(&stack, bad);
        good.extend(ask_lengths(&stack, 13..17));
        assert_eq!(lengths(good).await, (10..17).collect::<Vec<_>>());
        let bad = bad.await.unwrap();
        assert_eq!((bad.status, bad.json()["detail"].as_str().unwrap()), (status, words));
        assert_eq!(stack.runs(), lanes() + 1 + 8, "together, and then each alone");
    }
}

#[tokio::test]
async fn one_that_takes_for_ever_costs_the_others_half_of_their_time_and_no_answer() {
    let stack = busy().await;
    let begun = Instant::now();
    let endless = ask(&stack, "stuck");
    assert_eq!(lengths(ask_lengths(&stack, 10..17)).await, (10..17).collect::<Vec<_>>());
    assert!(begun.elapsed() < Duration::from_secs(1), "within the time for one: {:?}", begun.elapsed());
    assert_eq!(endless.await.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn who_has_gone_is_not_asked_for() {
    let stack = busy().await;
    let gone = ask_lengths(&stack, 10..20);
    let stayed = ask_lengths(&stack, 20..25);
    sleep(Duration::from_millis(20)).await;
    gone.iter().for_each(JoinHandle::abort);
    assert_eq!(lengths(stayed).await, (20..25).collect::<Vec<_>>());
    assert_eq!(stack.rows(), lanes() + 5);
}

#[tokio::test]
async fn a_model_without_independent_rows_is_asked_one_by_one() {
    let stack = busy().await;
    let before = stack.runs();
    let asked = (10..20).map(|length| {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { stack.send(image_request("/predict/whole", &"x".repeat(length))).await })
    });
    assert_eq!(lengths(asked.collect()).await, (10..20).collect::<Vec<_>>());
    assert_eq!(stack.runs() - before, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_at_a_time_never_get_each_others_answers() {
    let stack = busy().await;
    // As many as are sent to a model that has not answered yet, with those that are under way.
    let crowd = 64 * service::runtime::core_count() - lanes() * service::runtime::core_count();
    let lengths_of = |number: usize| number * 7919 % 997 + 10;
    for round in 0..10 {
        let expected: Vec<usize> = (0..crowd).map(|number| lengths_of(number + round)).collect();
        let asked = ask_lengths(&stack, expected.iter().copied());
        // Some lose their patience.
        asked.iter().skip(round).step_by(10).for_each(JoinHandle::abort);
        for (asked, expected) in asked.into_iter().zip(expected) {
            let Ok(answer) = asked.await else { continue };
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            let value = answer.json()["probabilities"][2]["value"].as_f64().unwrap();
            assert_eq!((value * 1e6).round() as usize, expected);
        }
    }
}
