//! Requests that take a session down with them, or would like to: nobody but the killer pays.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use open_inference::Datatype;
use serde_json::{Value, json};
use tokio::time::{interval, sleep};

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::{Running, signal};

/// A new session is there long before this, also on a busy machine; after a pause between restarts it is not.
const SOON: Duration = Duration::from_secs(5);

/// A model whose requests are one batch when they come together and have so many rows, however slow the machine is.
fn folder(graph: Vec<u8>, rows: usize) -> Folder {
    // What these graphs do to a batch is no reason to run its requests alone here.
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

/// The one division of whole numbers whose result is none: the processor's exception is the end of the process, also with
/// this ONNX Runtime, which looks for divisors of zero. There is one for each `number`.
fn killer(number: i64) -> Value {
    let input = |name: &str, values: [i64; 2]| json!({"name": name, "datatype": "INT64", "shape": [2], "data": values});
    json!({"inputs": [input("a", [number, i64::MIN]), input("b", [1, -1])]})
}

async fn ask(running: &Running, question: &Value) -> (u16, Value) {
    running.post("/v2/models/m/infer", "application/json", question.to_string().into_bytes()).await
}

/// The answer's only number.
fn answer((status, body): &(u16, Value)) -> Option<f64> {
    (*status == 200).then(|| body["outputs"][0]["data"][0].as_f64().unwrap())
}

/// Asks all at once; gives what became of each.
async fn ask_together(running: &Running, questions: &[Value]) -> Vec<(u16, Value)> {
    join_all(questions.iter().map(|question| ask(running, question))).await
}

#[tokio::test]
async fn a_crash_costs_none_of_seven_neighbours_their_answers() {
    let folder = folder(onnx::of_two("Div", Datatype::Int64), 9);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let mut questions: Vec<Value> = (1..9).map(|number| division(number * 10, 10)).collect();
    questions[3] = killer(1);
    let answers = ask_together(&running, &questions).await;
    for (place, asked) in answers.iter().enumerate() {
        let expected = if place == 3 { None } else { Some((place + 1) as f64) };
        assert_eq!(answer(asked), expected, "{place}: {asked:?}\n{}", running.log());
    }
    assert_eq!((answers[3].0, &answers[3].1["error"]), (500, &json!("the model crashed on this request")));
    // The batch, and then each alone.
    assert_eq!(running.metric(r#"model_api_runs_total{model="m"}"#).await, Some(9.0));
    let begun = Instant::now();
    assert_eq!(ask(&running, &killer(1)).await.0, 500);
    assert!(begun.elapsed() < Duration::from_secs(1), "it is not run again");
    assert_eq!(running.metric(r#"model_api_runs_total{model="m"}"#).await, Some(9.0));
}

#[tokio::test]
async fn an_allocation_that_fails_costs_none_of_seven_neighbours_their_answers() {
    let folder = folder(onnx::allocates(), 8);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let mut questions: Vec<Value> = (0..8).map(|place| number(f64::from(place) / 8.0)).collect();
    questions[6] = number(1e13);
    let answers = ask_together(&running, &questions).await;
    for (place, asked) in answers.iter().enumerate() {
        let expected = if place == 6 { None } else { Some(place as f64 / 8.0) };
        assert_eq!(answer(asked), expected, "{place}: {asked:?}\n{}", running.log());
    }
    assert_eq!(answers[6].0, 422, "{:?}", answers[6]);
    assert_eq!(running.sessions(), [session], "by halves, on the same session");
}

#[tokio::test]
async fn an_endless_loop_costs_none_of_seven_neighbours_their_answers() {
    let folder = folder(onnx::hangs_in_batches(), 8);
    let Some(running) = Running::ready(folder.path(), &[("RUN_TIMEOUT_MS", "8000")]).await else { return };
    let session = running.session_other_than(0).await;
    let mut questions: Vec<Value> = (0..8).map(|place| number(f64::from(place) / 8.0)).collect();
    questions[0] = number(3.0);
    let begun = Instant::now();
    let answers = ask_together(&running, &questions).await;
    assert!(begun.elapsed() < Duration::from_secs(9 + 2), "as long as a run may take, and the time to come together");
    for (place, asked) in answers.iter().enumerate() {
        let expected = if place == 0 { None } else { Some(place as f64 / 8.0) };
        assert_eq!(answer(asked), expected, "{place}: {asked:?}\n{}", running.log());
    }
    assert_eq!((answers[0].0, &answers[0].1["error"]), (504, &json!("the model did not answer within 8s")));
    assert_eq!(running.sessions(), [session], "ONNX Runtime ends the run when it is told to");
}

#[tokio::test]
async fn a_caller_whose_time_is_over_frees_the_session() {
    let folder = Folder::new().with("m.onnx", onnx::hangs_in_batches());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let mut question = number(3.0);
    question["parameters"] = json!({"timeout": 200_000});
    let begun = Instant::now();
    assert_eq!(ask(&running, &question).await.0, 504);
    assert_eq!(answer(&ask(&running, &number(0.5)).await), Some(0.5));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(running.sessions(), [session]);
}

#[tokio::test]
async fn a_model_whose_rows_meddle_with_each_other_answers_each_request_alone() {
    let folder = Folder::new()
        .with("m.onnx", onnx::centres_its_batch())
        .with("claims/model-settings.json", r#"{"parameters": {"independent_rows": true}}"#);
    let folder = folder.with("claims/model.onnx", onnx::centres_its_batch());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let question =
        |x: f64| json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [x, x, x + 3.0]}]});
    let questions: Vec<Value> = (0..16).map(|place| question(f64::from(place * 100))).collect();
    for asked in ask_together(&running, &questions).await {
        assert_eq!(asked.1["outputs"][0]["data"], json!([-1.0, -1.0, 2.0]), "{asked:?}");
    }
    let (_, index) = running.post("/v2/repository/index", "application/json", vec![]).await;
    let batching = |name: &str| {
        let line = index.as_array().unwrap().iter().find(|line| line["name"] == name).unwrap();
        line["batching"].clone()
    };
    assert_eq!((&batching("m")["rows"], &batching("m")["enabled"]), (&json!("dependent"), &json!(false)), "{index}");
    // The settings have the last word, and the log says what speaks against them.
    let claimed = batching("claims");
    let expected = (&json!("independent_by_settings"), &json!(true));
    assert_eq!((&claimed["rows"], &claimed["enabled"]), expected, "{index}");
    assert!(claimed["reason"].as_str().unwrap().contains("although the probe found that output \"y\""), "{index}");
    let log = running.log();
    let warned =
        |line: &str| line.contains("WARN") && line.contains("independent_rows: true in the settings is obeyed");
    assert!(log.lines().any(warned), "{log}");
    let warm = |line: &&str| line.contains("a session is warm") && line.contains("model=\"m\"");
    let warm = log.lines().find(warm).unwrap();
    assert!(warm.contains("batching=\"off\" rows=\"dependent\" reason=") && !warm.contains("Some("), "{warm}");
    let metric = r#"model_api_batching_info{model="m",rows="dependent",enabled="false"}"#;
    assert_eq!(running.metric(metric).await, Some(1.0));
    let (_, metadata) = running.get("/v2/models/m").await.unwrap();
    assert_eq!(metadata["parameters"]["batching"], batching("m"));
}

/// Asks 200 times a second for so long; gives how many there were, and what became of those that got no answer.
async fn ask_steadily(running: &Arc<Running>, long: Duration) -> (usize, Vec<(u16, Value)>) {
    let mut ticks = interval(Duration::from_millis(5));
    let begun = Instant::now();
    let mut asked = Vec::new();
    while begun.elapsed() < long {
        ticks.tick().await;
        let running = Arc::clone(running);
        asked.push(tokio::spawn(async move { ask(&running, &division(60, 10)).await }));
    }
    let count = asked.len();
    let answers = join_all(asked).await.into_iter().map(Result::unwrap);
    (count, answers.filter(|asked| answer(asked) != Some(6.0)).collect())
}

async fn divides() -> Option<(Arc<Running>, Folder)> {
    let folder = Folder::new().with("m.onnx", onnx::of_two("Div", Datatype::Int64));
    let running = Running::ready(folder.path(), &[]).await?;
    Some((Arc::new(running), folder))
}

#[tokio::test]
async fn two_hundred_requests_a_second_lose_none_to_the_killers_beside_them() {
    let Some((running, _folder)) = divides().await else { return };
    let killers = async {
        for number in 1..5 {
            sleep(Duration::from_millis(700)).await;
            assert_eq!(ask(&running, &killer(number)).await.0, 500);
            let begun = Instant::now();
            assert_eq!(answer(&ask(&running, &division(60, 10)).await), Some(6.0));
            assert!(begun.elapsed() < SOON, "the session is back: {:?}", begun.elapsed());
        }
    };
    let ((count, lost), ()) = tokio::join!(ask_steadily(&running, Duration::from_secs(4)), killers);
    assert!(count >= 500 && lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
}

#[tokio::test]
async fn two_hundred_requests_a_second_lose_none_to_kills_from_outside() {
    let Some((running, _folder)) = divides().await else { return };
    let executioner = async {
        let mut session = running.session_other_than(0).await;
        for _ in 0..4 {
            sleep(Duration::from_millis(700)).await;
            signal(session, "KILL");
            let begun = Instant::now();
            session = running.session_other_than(session).await;
            assert_eq!(answer(&ask(&running, &division(60, 10)).await), Some(6.0));
            assert!(begun.elapsed() < SOON, "the session is back: {:?}", begun.elapsed());
        }
    };
    let ((count, lost), ()) = tokio::join!(ask_steadily(&running, Duration::from_secs(4)), executioner);
    assert!(count >= 500 && lost.is_empty(), "{} of {count}: {lost:?}", lost.len());
}

#[tokio::test]
async fn files_with_flipped_bits_disturb_nobody() {
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
        let place = number * 7919 % broken.len();
        broken[place] ^= 1 << (number % 8);
        let name = format!("broken-{number}");
        folder = folder.with(&format!("{name}.onnx"), broken);
        let path = format!("/v2/repository/models/{name}/load");
        let (status, body) = running.post(&path, "application/json", vec![]).await;
        assert!(status == 200 || status == 422, "{number}: {status} {body}");
        if status == 200 {
            let path = format!("/v2/models/{name}/infer");
            let question = division(60, 10).to_string().into_bytes();
            let (status, body) = running.post(&path, "application/json", question).await;
            assert!([200, 422, 500].contains(&status), "{number}: {status} {body}");
            let path = format!("/v2/repository/models/{name}/unload");
            assert_eq!(running.post(&path, "application/json", vec![]).await.0, 200);
        }
        assert_eq!(answer(&ask(&running, &division(60, 10)).await), Some(6.0), "after number {number}");
    }
    // The last one's has been killed; on a busy machine the system takes a moment to do so.
    while running.sessions() != [session] {
        sleep(Duration::from_millis(5)).await;
    }
}
