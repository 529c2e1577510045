//! Loads, changes and unloads of models in the real binary with the real ONNX Runtime.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::Running;

/// Number of loads and unloads.
const ROUNDS: u32 = 100;
/// Rounds after which all one-time allocations have been made.
const SETTLED: u32 = 20;
/// Maximum growth in a debug build. A leaked pipe, queue or settings object is larger.
const MAX_GROWTH_KIB_PER_ROUND: f64 = 4.0;

async fn post_repository(running: &Running, model: &str, verb: &str) -> (u16, Value) {
    running.post(&format!("/v2/repository/models/{model}/{verb}"), "application/json", b"{}".to_vec()).await
}

/// Replaces the weights of `y = x + w` atomically, by renaming a complete file.
fn write_weights(folder: &Path, first: f32) {
    let weights: Vec<u8> = [first, 0.0, 0.0].iter().flat_map(|weight| weight.to_le_bytes()).collect();
    fs::write(folder.join(".w.bin"), weights).unwrap();
    fs::rename(folder.join(".w.bin"), folder.join("m/w.bin")).unwrap();
}

fn folder_with_weight(first: f32) -> Folder {
    let folder =
        Folder::new().with("m/model.onnx", onnx::with_external_data("w.bin")).with("other.onnx", onnx::identity());
    write_weights(folder.path(), first);
    folder
}

/// A line of `/proc/PID/status`, in KiB or a plain number.
fn status(process: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn open_files(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

async fn until_sessions(running: &Running, count: usize) {
    let started_at = Instant::now();
    while running.sessions().len() != count {
        assert!(
            started_at.elapsed() < Duration::from_secs(20),
            "{:?} sessions:\n{}",
            running.sessions(),
            running.log()
        );
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_hundred_loads_and_unloads_leave_neither_memory_nor_processes_nor_files_behind() {
    let folder = folder_with_weight(1.0);
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH", "off")]).await else { return };
    let (mut memory, mut files) = (Vec::new(), 0);
    for round in 0..ROUNDS {
        assert_eq!(post_repository(&running, "m", "unload").await.0, 200, "{}", running.log());
        until_sessions(&running, 1).await;
        assert_eq!(running.predict_array("m", "[0, 0, 0]").await.0, 404);
        assert_eq!(post_repository(&running, "m", "load").await.0, 200, "{}", running.log());
        assert_eq!(running.predict_array("m", "[0, 0, 0]").await, (200, json!({"cls": 0, "value": 1.0})));
        memory.push(status(running.id(), "VmRSS"));
        if round == SETTLED {
            files = open_files(running.id());
        }
    }
    let slope = slope(&memory[SETTLED as usize..]);
    let (first, last) = (memory[SETTLED as usize], memory[memory.len() - 1]);
    println!("parent: {first} KiB after {SETTLED} rounds, {last} after {ROUNDS}: {slope:+.2} KiB a round");
    assert!(slope < MAX_GROWTH_KIB_PER_ROUND, "{memory:?}");
    assert!(open_files(running.id()) <= files + 2, "{files} open files became {}", open_files(running.id()));
    until_sessions(&running, 2).await;
    let loads = running.metric(r#"model_api_model_loads_total{model="m",outcome="ok"}"#).await;
    assert_eq!(loads, Some(f64::from(ROUNDS) + 1.0));
}

/// Slope of the regression line.
fn slope(values: &[f64]) -> f64 {
    let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count as f64;
    let x = mean(&mut (0..values.len()).map(|x| x as f64), values.len());
    let y = mean(&mut values.iter().copied(), values.len());
    let pairs = || values.iter().enumerate().map(|(index, value)| (index as f64 - x, value - y));
    pairs().map(|(x, y)| x * y).sum::<f64>() / pairs().map(|(x, _)| x * x).sum::<f64>()
}

#[tokio::test]
async fn every_request_gets_the_old_or_the_new_model_during_a_hot_swap() {
    let folder = folder_with_weight(1.0);
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH", "off")]).await else { return };
    let swapping = AtomicBool::new(true);
    let requests = async {
        let mut responses = 0;
        while swapping.load(Ordering::Relaxed) {
            let (status, response) = running.predict_array("m", "[0, 0, 0]").await;
            assert!(status == 200 && [1.0, 2.0].map(|value| json!(value)).contains(&response["value"]), "{response}");
            responses += 1;
        }
        responses
    };
    let swaps = async {
        for round in 0_u8..50 {
            let weight = f32::from(round % 2 + 1);
            write_weights(folder.path(), weight);
            assert_eq!(post_repository(&running, "m", "load").await.0, 200, "{}", running.log());
            assert_eq!(
                running.predict_array("m", "[0, 0, 0]").await.1["value"],
                json!(weight),
                "the new version is served when the load has ended"
            );
        }
        swapping.store(false, Ordering::Relaxed);
    };
    let (responses, ()) = tokio::join!(requests, swaps);
    assert!(responses > 50, "{responses}");
    until_sessions(&running, 2).await;
}

#[tokio::test]
async fn a_file_that_is_overwritten_in_place_does_not_change_the_model_that_was_loaded() {
    let folder = folder_with_weight(1.0);
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH", "off")]).await else { return };
    let weights = folder.path().join("m/w.bin");
    for content in [[2.0_f32, 0.0, 0.0].map(f32::to_le_bytes).as_flattened(), b""] {
        fs::write(&weights, content).unwrap();
        assert_eq!(
            running.predict_array("m", "[0, 0, 0]").await,
            (200, json!({"cls": 0, "value": 1.0})),
            "{}",
            running.log()
        );
    }
    write_weights(folder.path(), 2.0);
    assert_eq!(post_repository(&running, "m", "load").await.0, 200, "{}", running.log());
    assert_eq!(running.predict_array("m", "[0, 0, 0]").await.1["value"], 2.0);
}

#[tokio::test]
async fn a_model_is_served_when_added_changed_or_broken_and_unloaded_when_removed() {
    let folder = Folder::new().with("other.onnx", onnx::identity());
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH_INTERVAL_MS", "20")]).await else { return };
    let wait_for = async |expected: (u16, Option<f64>)| {
        let started_at = Instant::now();
        loop {
            let (status, response) = running.predict_array("m", "[0, 0, 0]").await;
            if (status, response["value"].as_f64()) == expected {
                return;
            }
            assert!(started_at.elapsed() < Duration::from_secs(20), "{response}, not {expected:?}:\n{}", running.log());
            sleep(Duration::from_millis(10)).await;
        }
    };
    fs::create_dir(folder.path().join("m")).unwrap();
    write_weights(folder.path(), 1.0);
    fs::write(folder.path().join("m/model.onnx"), onnx::with_external_data("w.bin")).unwrap();
    wait_for((200, Some(1.0))).await;
    write_weights(folder.path(), 2.0);
    wait_for((200, Some(2.0))).await;
    fs::write(folder.path().join("m/model-settings.json"), r#"{"inputs": [{"name": "z"}]}"#).unwrap();
    while running.metric(r#"model_api_model_loads_total{model="m",outcome="failed"}"#).await != Some(1.0) {
        sleep(Duration::from_millis(10)).await;
    }
    wait_for((200, Some(2.0))).await;
    let (_, index) = running.post("/v2/repository/index", "application/json", b"{}".to_vec()).await;
    let reason = index[0]["reason"].as_str().unwrap();
    assert!(reason.contains("inputs[0].name") && reason.ends_with("is still served"), "{reason}");
    assert!(!index.to_string().contains(folder.path().to_str().unwrap()), "{index}");
    fs::remove_dir_all(folder.path().join("m")).unwrap();
    wait_for((404, None)).await;
    until_sessions(&running, 1).await;
    assert_eq!(running.get("/health/ready").await.unwrap().0, 200);
}

#[tokio::test]
async fn a_watch_that_is_off_loads_nothing_by_itself() {
    let folder = folder_with_weight(1.0);
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH", "off"), ("MODEL_NAME", "other")]).await else {
        return;
    };
    sleep(Duration::from_millis(200)).await;
    assert_eq!(running.predict_array("m", "[0, 0, 0]").await.0, 404);
    assert_eq!(post_repository(&running, "m", "load").await.0, 200, "a model that MODEL_NAME does not select");
    assert_eq!(running.predict_array("m", "[0, 0, 0]").await.0, 200);
}
