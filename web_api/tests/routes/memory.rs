//! Memory limits: what requests, listeners and jobs hold is bounded, and is released.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use web_api::jobs::watcher::MAX_LISTENERS_PER_JOB;
use web_api::settings::AppType;

use crate::fake_model_api::model;
use crate::jobs::{job_of, post, request_of, with, zip};
use crate::stack::{Stack, get_request};

/// Submits a job whose only input is slow, and waits until it has started. Returns its path.
async fn slow_job(stack: &Stack) -> String {
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "slow")]))).await);
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    path
}

#[tokio::test]
async fn a_thousand_listeners_have_one_watcher_and_one_copy_of_each_event() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path = slow_job(&stack).await;
    let events = format!("{path}/events");
    let listen = || stack.app.clone().oneshot(get_request(&events));
    let mut listeners = Vec::new();
    for _ in 0..MAX_LISTENERS_PER_JOB {
        let listener = listen().await.unwrap();
        assert_eq!(listener.status(), StatusCode::OK);
        listeners.push(listener.into_body());
    }
    assert_eq!(stack.parts.watchers.count(), 1);
    let refused = stack.send(get_request(&events)).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.text().contains("1024 requests wait for events"), "{}", refused.text());

    let mut first = Vec::new();
    for listener in &mut listeners {
        first.push(listener.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    assert!(first.iter().all(|page| page.as_ptr() == first[0].as_ptr()), "all listeners share the bytes");
    let held = stack.parts.bodies.budget().used();
    assert!((1..64 << 10).contains(&held), "a page is reserved once: {held}");
    drop(first);
    let all = listeners.pop().unwrap().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&all).contains("event: result"));
    drop((all, listeners));
    let ended = async {
        while stack.parts.watchers.count() > 0 || stack.parts.bodies.budget().used() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), ended).await.expect("the watcher ends with its last listener");
}

#[tokio::test]
async fn a_long_poll_and_a_stream_share_a_watcher() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path = slow_job(&stack).await;
    let stream = stack.app.clone().oneshot(get_request(&format!("{path}/events"))).await.unwrap();
    let poll = stack.send(with(get_request(&path), "prefer", "wait=10"));
    let watched = async {
        sleep(Duration::from_millis(50)).await;
        stack.parts.watchers.count()
    };
    let (poll, watched) = tokio::join!(poll, watched);
    assert_eq!((watched, poll.json()["status"].as_str()), (1, Some("succeeded")));
    assert!(stream.into_body().collect().await.is_ok());
}

#[tokio::test]
async fn a_list_of_requests_is_rejected_at_the_first_one_over_the_limit() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let list = format!("[{}", "{},".repeat(300_000));
    let refused = stack.send(post("/jobs", "application/json", list)).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(refused.text().contains("11 or more inputs are too many"), "{}", refused.text());
    assert_eq!(stack.parts.bodies.budget().used(), 0);
    let list = format!("[{},{}]", request_of(&["a"]), request_of(&["b"]));
    let job = stack.send(post("/jobs", "application/json", list)).await.json();
    assert_eq!(job["total"], 2);
}

/// All parts of a form share one counter of inputs, entries and bytes.
#[tokio::test]
async fn archives_of_one_form_share_the_limits_of_one_submission() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let form = |archive: &[u8], count: usize| {
        let mut body = Vec::new();
        for number in 0..count {
            let mut head = String::new();
            write!(head, "--b\r\nContent-Disposition: form-data; name=f; filename={number}.zip\r\n\r\n").unwrap();
            body.extend([head.as_bytes(), archive, b"\r\n"].concat());
        }
        body.extend(b"--b--\r\n");
        post("/jobs", "multipart/form-data; boundary=b", body)
    };
    let image = "x".repeat(600 << 10);
    // Six of 600 KiB are more than the 3 MiB of one job, and six of two images are more than its ten inputs.
    for (archive, message) in [
        (zip(&[("a.png", &image)]), "more than 3145728 bytes, unpacked"),
        (zip(&[("a.png", "x"), ("b.png", "y")]), "more than 10 files"),
    ] {
        let refused = stack.send(form(&archive, 6)).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.text());
        assert!(refused.text().contains(message), "{}", refused.text());
    }
    assert_eq!(stack.parts.bodies.budget().used(), 0);
}

#[tokio::test]
async fn a_request_that_exceeds_the_memory_of_one_client_is_413_and_not_503() {
    let memory = |settings: &mut web_api::settings::Settings| {
        (settings.server.max_body_bytes, settings.server.body_memory_bytes) = (1 << 20, 2 << 20);
    };
    let stack = Stack::serving(vec![model("mnist")], memory).await;
    // A body of 1 MB whose numbers take another 2 MB.
    let array = format!("{{\"image_arr\": [{}1]}}", "1,".repeat(500_000));
    let refused = stack.send(post("/web_api", "application/json", array)).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.text());
    assert!(refused.text().contains("BODY_MEMORY_BYTES"), "{}", refused.text());
    assert_eq!(stack.parts.bodies.budget().used(), 0);
}

#[tokio::test]
async fn respond_async_decodes_the_model_name_in_the_path() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let request =
        Request::post("/predict/%6Dnist").header("content-type", "image/png").header("prefer", "respond-async");
    let accepted = stack.send(request.body(Body::from("seven")).unwrap()).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.text());
}
