//! Requests that crash, exhaust or block a real session: only they fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use open_inference::Datatype;
use serde_json::{Value, json};
use tokio::time::{interval, sleep};

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::{Running, signal};

/// A restart without backoff takes less than this, even on a busy machine.
const MAX_RESTART_TIME: Duration = Duration::from_secs(5);

/// A model that batches concurrent requests up to `rows` rows, however slow the machine is.
fn folder(graph: Vec<u8>, rows: usize) -> Folder {
    // Batching stays on, whatever these graphs do to a batch.
    let parameters = json!({"independent_rows": true});
    let settings = json!({"max_batch_size": rows, "max_batch_time": 5.0, "parameters": parameters});
    Folder::new().with("m/model.onnx", graph).with("m/model-settings.json", settings.to_string())
}

/// `x` as the only input.
fn number(x: f64) -> Value {
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [x]}]})
}

/// `a / b`.
fn division(a: i64, b: i64) -> Value {
    let input = |name: &str, value: i64| json!({"name": name, "datatype": "INT64", "shape": [1], "data": [value]});
    json!({"inputs": [input("a", a), input("b", b)]})
}

/// The integer division that overflows. The exception of the CPU ends the process, even with this ONNX Runtime, which checks for
/// divisors of zero. There is a different request for each `number`.
fn poison(number: i64) -> Value {
    let input = |name: &str, values: [i64; 2]| json!({"name": name, "datatype": "INT64", "shape": [2], "data": values});
    json!({"inputs": [input("a", [number, i64::MIN]), input("b", [1, -1])]})
}

async fn send(running: &Running, request: &Value) -> (u16, Value) {
    running.post("/v2/models/m/infer", "application/json", request.to_string().into_bytes()).await
}

/// The only number of a successful response.
fn result((status, body): &(u16, Value)) -> Option<f64> {
    (*status == 200).then(|| body["outputs"][0]["data"][0].as_f64().unwrap())
}

/// Sends all requests concurrently and returns the responses.
async fn send_together(running: &Running, requests: &[Value]) -> Vec<(u16, Value)> {
    join_all(requests.iter().map(|request| send(running, request))).await
}

#[tokio::test]
async fn a_crash_fails_none_of_the_seven_other_requests() {
    let folder = folder(onnx::of_two("Div", Datatype::Int64), 9);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let mut requests: Vec<Value> = (1..9).map(|number| division(number * 10, 10)).collect();
    requests[3] = poison(1);
    let responses = send_together(&running, &requests).await;
    for (index, response) in responses.iter().enumerate() {
        let expected = if index == 3 { None } else { Some((index + 1) as f64) };
        assert_eq!(result(response), expected, "{index}: {response:?}\n{}", running.log());
    }
    assert_eq!((responses[3].0, &responses[3].1["error"]), (500, &json!("The model crashed on this request.")));
    // The batch, and then each request alone.
    assert_eq!(running.metric(r#"model_api_runs_total{model="m"}"#).await, Some(9.0));
    let started_at = Instant::now();
    assert_eq!(send(&running, &poison(1)).await.0, 500);
    assert!(started_at.elapsed() < Duration::from_secs(1), "it is quarantined");
    assert_eq!(running.metric(r#"model_api_runs_total{model="m"}"#).await, Some(9.0));
}

#[tokio::test]
async fn a_failed_allocation_fails_none_of_the_seven_other_requests() {
    let folder = folder(onnx::allocates(), 8);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let mut requests: Vec<Value> = (0..8).map(|index| number(f64::from(index) / 8.0)).collect();
    requests[6] = number(1e13);
    let responses = send_together(&running, &requests).await;
    for (index, response) in responses.iter().enumerate() {
        let expected = if index == 6 { None } else { Some(index as f64 / 8.0) };
        assert_eq!(result(response), expected, "{index}: {response:?}\n{}", running.log());
    }
    assert_eq!(responses[6].0, 422, "{:?}", responses[6]);
    assert_eq!(running.sessions(), [session], "bisected, on the same session");
}

#[tokio::test]
async fn an_endless_loop_fails_none_of_the_seven_other_requests() {
    let folder = folder(onnx::hangs_in_batches(), 8);
    let Some(running) = Running::ready(folder.path(), &[("RUN_TIMEOUT_MS", "8000")]).await else { return };
    let session = running.session_other_than(0).await;
    let mut requests: Vec<Value> = (0..8).map(|index| number(f64::from(index) / 8.0)).collect();
    requests[0] = number(3.0);
    let started_at = Instant::now();
    let responses = send_together(&running, &requests).await;
    assert!(started_at.elapsed() < Duration::from_secs(9 + 2), "the run timeout, and the time to form the batch");
    for (index, response) in responses.iter().enumerate() {
        let expected = if index == 0 { None } else { Some(index as f64 / 8.0) };
        assert_eq!(result(response), expected, "{index}: {response:?}\n{}", running.log());
    }
    assert_eq!((responses[0].0, &responses[0].1["error"]), (504, &json!("The model did not respond within 8s.")));
    assert_eq!(running.sessions(), [session], "the run was cancelled");
}

#[tokio::test]
async fn a_request_timeout_frees_the_session() {
    let folder = Folder::new().with("m.onnx", onnx::hangs_in_batches());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let mut request = number(3.0);
    request["parameters"] = json!({"timeout": 200_000});
    let started_at = Instant::now();
    assert_eq!(send(&running, &request).await.0, 504);
    assert_eq!(result(&send(&running, &number(0.5)).await), Some(0.5));
    assert!(started_at.elapsed() < Duration::from_secs(5), "{:?}", started_at.elapsed());
    assert_eq!(running.sessions(), [session]);
}

#[tokio::test]
async fn a_model_with_dependent_rows_runs_each_request_alone() {
    let folder = Folder::new()
        .with("m.onnx", onnx::subtracts_batch_mean())
        .with("claims/model-settings.json", r#"{"parameters": {"independent_rows": true}}"#);
    let folder = folder.with("claims/model.onnx", onnx::subtracts_batch_mean());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let request =
        |x: f64| json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [x, x, x + 3.0]}]});
    let requests: Vec<Value> = (0..16).map(|index| request(f64::from(index * 100))).collect();
    for response in send_together(&running, &requests).await {
        assert_eq!(response.1["outputs"][0]["data"], json!([-1.0, -1.0, 2.0]), "{response:?}");
    }
    let (_, index) = running.post("/v2/repository/index", "application/json", vec![]).await;
    let batching = |name: &str| {
        let line = index.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
        line["batching"].clone()
    };
    assert_eq!((&batching("m")["rows"], &batching("m")["enabled"]), (&json!("dependent"), &json!(false)), "{index}");
    // The settings override the evidence, and the log has a warning.
    let claimed = batching("claims");
    let expected = (&json!("independent_by_settings"), &json!(true));
    assert_eq!((&claimed["rows"], &claimed["enabled"]), expected, "{index}");
    assert!(claimed["reason"].as_str().unwrap().contains("although the probe found that output \"y\""), "{index}");
    let log = running.log();
    let warned = |line: &str| {
        line.contains("WARN") && line.contains("batching stays enabled because the settings say independent_rows: true")
    };
    assert!(log.lines().any(warned), "{log}");
    let warm = |line: &&str| line.contains("a session is warm") && line.contains("model=\"m\"");
    let warm = log.lines().find(warm).unwrap();
    assert!(warm.contains("batching=\"off\" rows=\"dependent\" reason=") && !warm.contains("Some("), "{warm}");
    let metric = r#"model_api_batching_info{model="m",rows="dependent",enabled="false"}"#;
    assert_eq!(running.metric(metric).await, Some(1.0));
    let (_, metadata) = running.get("/v2/models/m").await.unwrap();
    assert_eq!(metadata["parameters"]["batching"], batching("m"));
}

/// Sends 200 requests per second for `duration`. Returns their number and the failed responses.
async fn send_steadily(running: &Arc<Running>, duration: Duration) -> (usize, Vec<(u16, Value)>) {
    let mut ticks = interval(Duration::from_millis(5));
    let started_at = Instant::now();
    let mut sent = Vec::new();
    while started_at.elapsed() < duration {
        ticks.tick().await;
        let running = Arc::clone(running);
        sent.push(tokio::spawn(async move { send(&running, &division(60, 10)).await }));
    }
    let count = sent.len();
    let responses = join_all(sent).await.into_iter().map(Result::unwrap);
    (count, responses.filter(|response| result(response) != Some(6.0)).collect())
}

async fn divides() -> Option<(Arc<Running>, Folder)> {
    let folder = Folder::new().with("m.onnx", onnx::of_two("Div", Datatype::Int64));
    let running = Running::ready(folder.path(), &[]).await?;
    Some((Arc::new(running), folder))
}

#[tokio::test]
async fn poison_requests_fail_no_other_request_at_200_per_second() {
    let Some((running, _folder)) = divides().await else { return };
    let poison_requests = async {
        for number in 1..5 {
            sleep(Duration::from_millis(700)).await;
            assert_eq!(send(&running, &poison(number)).await.0, 500);
            let started_at = Instant::now();
            assert_eq!(result(&send(&running, &division(60, 10)).await), Some(6.0));
            assert!(started_at.elapsed() < MAX_RESTART_TIME, "the session is back: {:?}", started_at.elapsed());
        }
    };
    let ((count, lost), ()) = tokio::join!(send_steadily(&running, Duration::from_secs(4)), poison_requests);
    assert!(count >= 500 && lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
}

#[tokio::test]
async fn killed_sessions_fail_no_request_at_200_per_second() {
    let Some((running, _folder)) = divides().await else { return };
    let kills = async {
        let mut session = running.session_other_than(0).await;
        for _ in 0..4 {
            sleep(Duration::from_millis(700)).await;
            signal(session, "KILL");
            let started_at = Instant::now();
            session = running.session_other_than(session).await;
            assert_eq!(result(&send(&running, &division(60, 10)).await), Some(6.0));
            assert!(started_at.elapsed() < MAX_RESTART_TIME, "the session is back: {:?}", started_at.elapsed());
        }
    };
    let ((count, lost), ()) = tokio::join!(send_steadily(&running, Duration::from_secs(4)), kills);
    assert!(count >= 500 && lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
}

#[tokio::test]
async fn files_with_flipped_bits_do_not_affect_other_models() {
    let graph = onnx::of_two("Div", Datatype::Int64);
    let folder = Folder::new().with("m.onnx", &graph);
    let Some(running) = Running::ready(folder.path(), &[("MODEL_WATCH", "off"), ("START_TIMEOUT_MS", "10000")]).await
    else {
        return;
    };
    let session = running.session_other_than(0).await;
    let mut folder = folder;
    for number in 0..40_usize {
        let mut broken = graph.clone();
        let index = number * 7919 % broken.len();
        broken[index] ^= 1 << (number % 8);
        let name = format!("broken-{number}");
        folder = folder.with(&format!("{name}.onnx"), broken);
        let path = format!("/v2/repository/models/{name}/load");
        let (status, body) = running.post(&path, "application/json", vec![]).await;
        assert!(status == 200 || status == 422, "{number}: {status} {body}");
        if status == 200 {
            let path = format!("/v2/models/{name}/infer");
            let request = division(60, 10).to_string().into_bytes();
            let (status, body) = running.post(&path, "application/json", request).await;
            assert!([200, 422, 500].contains(&status), "{number}: {status} {body}");
            let path = format!("/v2/repository/models/{name}/unload");
            assert_eq!(running.post(&path, "application/json", vec![]).await.0, 200);
        }
        assert_eq!(result(&send(&running, &division(60, 10)).await), Some(6.0), "after number {number}");
    }
    // The last session has been killed, but on a busy machine the kernel takes a moment.
    while running.sessions() != [session] {
        sleep(Duration::from_millis(5)).await;
    }
}
