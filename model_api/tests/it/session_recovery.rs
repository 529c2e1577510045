//! Recovery from crashes and hangs of real session processes.

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

/// Waits until `count` runs have started.
async fn wait_for_runs(running: &Running, count: f64) {
    while running.metric(RUNS).await < Some(count) {
        sleep(Duration::from_millis(5)).await;
    }
    // The parent has started the run. This gives the child time to receive it.
    sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_session_killed_while_idle_is_replaced() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    signal(session, "KILL");
    assert_eq!(running.infer("hangs", 0.25).await, (200, json!([0.25])));
    assert_ne!(running.session_other_than(session).await, session);
    assert!(running.log().contains("ended by signal 9"));
}

#[tokio::test]
async fn a_request_fails_after_two_sessions_were_killed_during_its_run() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let request = running.predict_array("hangs", "[1]");
    let kills = async {
        let first = running.session_other_than(0).await;
        wait_for_runs(&running, 1.0).await;
        signal(first, "KILL");
        wait_for_runs(&running, 2.0).await;
        signal(running.session_other_than(first).await, "KILL");
    };
    let ((status, problem), ()) = tokio::join!(request, kills);
    assert_eq!((status, &problem["detail"]), (500, &json!("The model crashed on this request.")));
    assert_eq!(running.infer("hangs", 0.25).await, (200, json!([0.25])));
}

#[tokio::test]
async fn a_hanging_run_is_cancelled_with_504_and_its_session_survives() {
    let folder = hangs();
    let Some(running) = Running::ready(folder.path(), &[("RUN_TIMEOUT_MS", "300")]).await else { return };
    let session = running.session_other_than(0).await;
    let started_at = Instant::now();
    let (status, problem) = running.predict_array("hangs", "[1]").await;
    assert_eq!((status, &problem["detail"]), (504, &json!("The model did not respond within 300ms.")));
    assert!(started_at.elapsed() < Duration::from_millis(1300));
    assert_eq!(running.infer("hangs", 0.25).await.0, 200);
    assert_eq!(running.sessions(), [session]);
}

#[tokio::test]
async fn sessions_end_within_a_second_after_their_parent_is_killed_even_during_a_hanging_run() {
    let folder = hangs();
    let Some(mut running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let hanging = async {
        tokio::time::timeout(Duration::from_millis(300), running.predict_array("hangs", "[1]")).await.is_err()
    };
    let (hung, ()) = tokio::join!(hanging, wait_for_runs(&running, 1.0));
    assert!(hung && is_alive(session));
    running.end("KILL").await;
    let started_at = Instant::now();
    while is_alive(session) {
        assert!(started_at.elapsed() < Duration::from_secs(1), "the session outlives its parent");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn sigterm_ends_service_and_sessions_with_code_0() {
    let folder = hangs();
    let Some(mut running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    assert_eq!(running.end("TERM").await.code(), Some(0), "{}", running.log());
    // It has been killed, but on a busy machine the kernel takes a moment.
    let started_at = Instant::now();
    while is_alive(session) {
        assert!(started_at.elapsed() < Duration::from_secs(1), "the session outlives its parent");
        sleep(Duration::from_millis(5)).await;
    }
}
