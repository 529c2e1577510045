//! What a death costs: nobody but, at the very worst, the one request that caused it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::{Running, is_alive, signal};

const RUNS: &str = r#"model_api_runs_total{model="hangs"}"#;

fn hangs() -> Folder {
    Folder::new().with("hangs.onnx", onnx::hangs())
}

/// Waits until so many runs have begun.
async fn runs(running: &Running, count: f64) {
    while running.metric(RUNS).await < Some(count) {
        sleep(Duration::from_millis(5)).await;
    }
    // Begun by the parent; now let the child get it.
    sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_session_killed_while_idle_is_replaced_and_the_next_request_answered() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    signal(session, "KILL");
    assert_eq!(running.infer("hangs", 0.25).await, (200, json!([0.25])));
    assert_ne!(running.session_other_than(session).await, session);
    assert!(running.log().contains("ended by signal 9"));
}

#[tokio::test]
async fn a_session_killed_twice_in_the_same_run_costs_that_request_alone() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let killer = running.ask("hangs", "[1]");
    let executioner = async {
        let first = running.session_other_than(0).await;
        runs(&running, 1.0).await;
        signal(first, "KILL");
        runs(&running, 2.0).await;
        signal(running.session_other_than(first).await, "KILL");
    };
    let ((status, problem), ()) = tokio::join!(killer, executioner);
    assert_eq!((status, &problem["detail"]), (500, &json!("the model crashed on this request")));
    assert_eq!(running.infer("hangs", 0.25).await, (200, json!([0.25])));
}

#[tokio::test]
async fn a_run_that_hangs_is_answered_504_and_ended_and_its_session_lives() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[("RUN_TIMEOUT_MS", "300")]).await else { return };
    let session = running.session_other_than(0).await;
    let begun = Instant::now();
    let (status, problem) = running.ask("hangs", "[1]").await;
    assert_eq!((status, &problem["detail"]), (504, &json!("the model did not answer within 300ms")));
    assert!(begun.elapsed() < Duration::from_millis(1300));
    assert_eq!(running.infer("hangs", 0.25).await.0, 200);
    assert_eq!(running.sessions(), [session]);
}

#[tokio::test]
async fn sessions_end_within_a_second_of_a_parent_that_was_killed_even_in_a_run_that_hangs() {
    let folder = hangs();
    let Some(mut running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let hanging =
        async { tokio::time::timeout(Duration::from_millis(300), running.ask("hangs", "[1]")).await.is_err() };
    let (hung, ()) = tokio::join!(hanging, runs(&running, 1.0));
    assert!(hung && is_alive(session));
    running.end("KILL").await;
    let begun = Instant::now();
    while is_alive(session) {
        assert!(begun.elapsed() < Duration::from_secs(1), "the session outlives its parent");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_ends_everything_with_code_0() {
    let folder = hangs();
    let Some(mut running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    assert_eq!(running.end("TERM").await.code(), Some(0), "{}", running.log());
    // It has been killed; on a busy machine the system takes a moment to do so.
    let begun = Instant::now();
    while is_alive(session) {
        assert!(begun.elapsed() < Duration::from_secs(1), "the session outlives its parent");
        sleep(Duration::from_millis(5)).await;
    }
}
