use std::time::Duration;

use db_api::jobs::Delivery;
use http::{Request, StatusCode};
use open_inference::ModelState;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use web_api::settings::{AppType, Settings};

use crate::fake_model_api::model;
use crate::jobs::{ended, job_of, post, request_of, zip};
use crate::stack::{Stack, get_request, image_request};

/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(1);

/// Submits a job of `count` different inputs, each of which takes 0.2 s. Returns its path.
async fn submit_slow(stack: &Stack, count: usize) -> String {
    let requests: Vec<Value> = (0..count).map(|number| request_of(&[&number.to_string(), "slow"])).collect();
    job_of(&stack.send(post("/jobs", "application/json", json!(requests).to_string())).await)
}

async fn show(stack: &Stack, job: &str) -> Value {
    stack.send(get_request(job)).await.json()
}

/// Waits until the worker has started `runs` inputs.
async fn until_started(stack: &Stack, job: &str, runs: u64) {
    while show(stack, job).await["runs"] != runs {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn until_the_worker_has_stopped(stack: &Stack) {
    timeout(Duration::from_secs(10), stack.worker.wait_until_stopped()).await.unwrap();
}

/// The inputs that wait in the queue.
async fn waiting(stack: &Stack) -> Vec<u32> {
    let indices = |deliveries: Vec<Delivery>| deliveries.iter().map(|delivery| delivery.index).collect();
    indices(stack.jobs.receive("mnist", 100).await.unwrap())
}

#[tokio::test]
async fn shutdown_records_inputs_at_the_model_and_takes_no_others() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let job = submit_slow(&stack, 8).await;
    until_started(&stack, &job, 4).await;
    stack.worker.stop(LONG);
    until_the_worker_has_stopped(&stack).await;
    let now = show(&stack, &job).await;
    assert_eq!(
        (&now["status"], &now["done"], &now["failed"], &now["runs"]),
        (&json!("running"), &json!(4), &json!(0), &json!(4))
    );
    assert_eq!(waiting(&stack).await, [4, 5, 6, 7]);
}

#[tokio::test]
async fn an_input_that_is_unfinished_after_the_drain_timeout_goes_back_to_the_queue() {
    let stack = Stack::serving(vec![model("mnist")], |settings| settings.request_timeout = LONG).await;
    let requests = json!([request_of(&["1", "stuck"])]);
    let job = job_of(&stack.send(post("/jobs", "application/json", requests.to_string())).await);
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    stack.worker.stop(Duration::from_millis(500));
    until_the_worker_has_stopped(&stack).await;
    assert_eq!(waiting(&stack).await, [0]);
    let now = show(&stack, &job).await;
    assert_eq!((&now["status"], &now["done"], &now["dead"]), (&json!("running"), &json!(0), &json!(0)));
}

#[tokio::test]
async fn an_input_that_waits_for_an_overloaded_model_goes_back_to_the_queue_immediately() {
    let stack = Stack::start(AppType::Cli, &["busy"]).await;
    let job = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "a")]))).await);
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    stack.worker.stop(LONG);
    until_the_worker_has_stopped(&stack).await;
    assert_eq!(stack.jobs.receive("busy", 10).await.unwrap().len(), 1, "{}", show(&stack, &job).await);
}

#[tokio::test]
async fn jobs_run_while_interactive_requests_hold_all_permits() {
    let one_at_a_time = |settings: &mut Settings| {
        (settings.max_concurrent_requests, settings.request_timeout) = (1, LONG);
    };
    let stack = Stack::serving(vec![model("mnist")], one_at_a_time).await;
    let hanging = tokio::spawn(stack.app.clone().oneshot(image_request("/predict/mnist", "stuck")));
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let refused = async || stack.send(image_request("/predict/mnist", "another")).await.status;
    assert_eq!(refused().await, StatusCode::SERVICE_UNAVAILABLE);
    let job = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "a")]))).await);
    assert_eq!(ended_within(&stack, &job, Duration::from_secs(20)).await["status"], "succeeded");
    assert_eq!(refused().await, StatusCode::SERVICE_UNAVAILABLE);
    hanging.abort();
}

#[tokio::test]
async fn a_job_for_a_model_that_cannot_be_loaded_fails_with_the_reason_and_can_be_retried() {
    let stack = Stack::start(AppType::Cli, &["mnist", "other"]).await;
    let set_broken = |broken: bool| {
        move |models: &mut Vec<_>| {
            models[0] = model("mnist");
            if broken {
                models[0].state = ModelState::Unavailable;
                models[0].reason = Some("its file is no ONNX model".to_owned());
            }
        }
    };
    stack.change(set_broken(true)).await;
    let job = job_of(&stack.send(post("/jobs?model=mnist", "application/zip", zip(&[("a.png", "a")]))).await);
    let now = show(&stack, &job).await;
    assert_eq!((&now["status"], &now["reason"]), (&json!("queued"), &json!("mnist: its file is no ONNX model")));
    let failed = ended(&stack, &job).await;
    let error = &failed["results"][0]["error"];
    assert_eq!((&failed["status"], &failed["reason"], &error["status"]), (&json!("failed"), &Value::Null, &json!(503)));
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains("its file is no ONNX model") && detail.contains("/retry"), "{detail}");

    stack.change(set_broken(false)).await;
    let retried = stack.send(Request::post(format!("{job}/retry")).body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED);
    assert_eq!(ended(&stack, &job).await["status"], "succeeded");
}

#[tokio::test]
async fn a_job_for_a_model_that_is_removed_fails_with_the_reason() {
    let stack = Stack::start(AppType::Cli, &["busy", "other"]).await;
    let job = job_of(&stack.send(post("/jobs?model=busy", "application/zip", zip(&[("a.png", "a")]))).await);
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    stack.change(|models| models.retain(|model| model.name != "busy")).await;
    assert_eq!(show(&stack, &job).await["reason"], "busy is not served");
    let failed = ended_within(&stack, &job, Duration::from_secs(20)).await;
    let detail = failed["results"][0]["error"]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("\"busy\"") && detail.contains("it is no longer served"), "{detail}");
}

async fn ended_within(stack: &Stack, job: &str, time: Duration) -> Value {
    let end = async {
        while show(stack, job).await["finished"].is_null() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(time, end).await.unwrap();
    show(stack, job).await
}
