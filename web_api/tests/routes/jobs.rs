use std::io::{Cursor, Write};
use std::time::Duration;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::sleep;
use web_api::settings::AppType;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::fake_model_api::{cutter, model, pipeline};
use crate::stack::{Answer, Stack, form_request, get_request, image_request};

pub fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub fn post(path: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap()
}

pub fn with(mut request: Request<Body>, name: &'static str, value: &'static str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn bare(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

pub fn request_of(rows: &[&str]) -> Value {
    let data: Vec<String> = rows.iter().map(|row| STANDARD.encode(row)).collect();
    json!({ "id": rows[0], "inputs": [{ "name": "image", "datatype": "BYTES", "shape": [rows.len()], "data": data }] })
}

/// Path of the accepted job.
pub fn job_of(accepted: &Answer) -> String {
    assert!([StatusCode::ACCEPTED, StatusCode::OK].contains(&accepted.status), "{}", accepted.text());
    let path = accepted.header("location").to_owned();
    assert_eq!(path, format!("/jobs/{}", accepted.json()["id"].as_str().unwrap()));
    path
}

pub async fn ended(stack: &Stack, job: &str) -> Value {
    for _ in 0..500 {
        let body = stack.send(get_request(job)).await.json();
        if body["finished"].is_string() {
            return body;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{job} does not end: {}", stack.send(get_request(job)).await.text());
}

#[tokio::test]
async fn a_zip_of_images_becomes_a_job_with_one_result_per_image() {
    let stack = Stack::start(AppType::Cli, &["mnist", "other"]).await;
    let body = zip(&[("a.png", "a"), ("deep/b.png", "bb"), ("bad.png", "text")]);
    let accepted = stack.send(post("/jobs?model=mnist", "application/zip", body.clone())).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    let queued = accepted.json();
    assert_eq!((&queued["status"], &queued["total"], &queued["durable"]), (&json!("queued"), &json!(3), &json!(false)));
    let path = job_of(&accepted);
    let job = ended(&stack, &path).await;
    assert_eq!((&job["status"], &job["done"], &job["failed"]), (&json!("failed"), &json!(2), &json!(1)));
    let results = job["results"].as_array().unwrap();
    assert_eq!((&results[0]["name"], &results[0]["answer"]["label"]), (&json!("a.png"), &json!("one")));
    assert_eq!(results[1]["answer"]["probabilities"][2]["value"], 2e-6_f32);
    assert_eq!((&results[2]["status"], &results[2]["error"]["status"]), (&json!("failed"), &json!(415)));

    // The results are cached now, so only the failed input runs again.
    let again = stack.send(post("/jobs?model=mnist", "application/zip", body)).await;
    assert_eq!((again.status, &again.json()["done"]), (StatusCode::ACCEPTED, &json!(2)));
    ended(&stack, &job_of(&again)).await;
    let cached = zip(&[("b.png", "bb"), ("a.png", "a")]);
    let cached = stack.send(post("/jobs?model=mnist", "application/zip", cached)).await;
    assert_eq!((cached.status, &cached.json()["status"]), (StatusCode::OK, &json!("succeeded")));
    assert_eq!(cached.json()["runs"], 0);
}

#[tokio::test]
async fn an_equal_submission_is_deduplicated_until_its_model_is_invalidated() {
    let stack = Stack::start(AppType::Cli, &["mnist", "other"]).await;
    let submit = async |path: &str, files: &[(&str, &str)]| stack.send(post(path, "application/zip", zip(files))).await;
    let (path, files) = ("/jobs?model=mnist", [("a.png", "a"), ("b.png", "bb")]);
    let first = job_of(&submit(path, &files).await);
    let results = ended(&stack, &first).await["results"].clone();
    let again = submit(path, &files).await;
    assert_eq!((again.status, &again.json()["runs"]), (StatusCode::OK, &json!(0)));
    let second = job_of(&again);
    assert_ne!(second, first);
    // The results are copies. Results that were looked up individually would have `cached: true`.
    assert_eq!(ended(&stack, &second).await["results"], results);
    assert_eq!(results[0]["answer"]["cached"], false);
    let other_name = submit(path, &[("a.png", "a"), ("c.png", "bb")]).await;
    assert_eq!(ended(&stack, &job_of(&other_name)).await["results"][1]["answer"]["cached"], true);
    let other_model = submit("/jobs?model=other", &files).await;
    assert_eq!(other_model.status, StatusCode::ACCEPTED);

    // The boundary of a form does not matter.
    let form = |boundary: &str| {
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=f; filename=x.png\r\n\r\nabc\r\n--{boundary}--\r\n"
        );
        post(path, &format!("multipart/form-data; boundary={boundary}"), part)
    };
    let results = ended(&stack, &job_of(&stack.send(form("one")).await)).await["results"].clone();
    assert_eq!(ended(&stack, &job_of(&stack.send(form("two")).await)).await["results"], results);

    stack.send(bare("DELETE", "/cache/mnist")).await;
    assert_eq!(submit(path, &files).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn files_of_a_form_are_inputs() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let fields = [("file", Some("1.png"), "a"), ("model", None, "mnist"), ("other", Some("2.png"), "bb")];
    let job = ended(&stack, &job_of(&stack.send(form_request("/jobs", &fields)).await)).await;
    assert_eq!((&job["status"], &job["total"]), (&json!("succeeded"), &json!(2)));
    assert_eq!(job["results"][1]["name"], "2.png");
}

#[tokio::test]
async fn a_pipeline_accepts_jobs() {
    let (cut, mnist) = (cutter(), model("mnist"));
    let stack = Stack::serving(vec![cut.clone(), pipeline("digits", "s", &[&cut, &mnist]), mnist], |_| {}).await;
    let body = zip(&[("three.png", "abc"), ("two.png", "de")]);
    let path = job_of(&stack.send(post("/jobs?model=digits", "application/zip", body)).await);
    let job = ended(&stack, &path).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let rows: Vec<_> = (0..2).map(|at| job["results"][at]["answer"]["rows"].as_array().unwrap().len()).collect();
    assert_eq!(rows, [3, 2]);
}

#[tokio::test]
async fn protocol_requests_are_a_json_list_or_ndjson() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let (one, two, bad) = (request_of(&["a"]), request_of(&["b", "cc"]), json!({ "inputs": [] }));
    let list = json!([one, two, bad]).to_string();
    let lines = format!("{one}\n\n{two}\r\n{bad}\n");
    for (content_type, body) in [("application/json", list), ("application/x-ndjson", lines)] {
        let path = job_of(&stack.send(post("/jobs", content_type, body)).await);
        let job = ended(&stack, &path).await;
        let results = job["results"].as_array().unwrap();
        assert_eq!((&results[0]["name"], &results[0]["answer"]["id"]), (&json!("a"), &json!("a")));
        assert_eq!(results[1]["answer"]["outputs"][1]["data"], json!([1.0, 2.0]));
        assert_eq!((&results[2]["status"], &results[2]["error"]["status"]), (&json!("failed"), &json!(422)), "{job}");
    }
    for (body, message) in [
        ("[1]", "input 0 is not an inference request"),
        ("[", "the JSON list is not valid"),
        ("[]", "no inputs"),
        ("{]", "not an inference request"),
    ] {
        let refused = stack.send(post("/jobs", "application/json", body)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(refused.text().contains(message), "{body}: {}", refused.text());
    }
}

#[tokio::test]
async fn respond_async_returns_cached_results_synchronously() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let later = |image| with(image_request("/predict/mnist", image), "prefer", "respond-async, wait=5");
    let accepted = stack.send(later("seven")).await;
    assert_eq!((accepted.status, accepted.header("preference-applied")), (StatusCode::ACCEPTED, "respond-async"));
    let job = ended(&stack, &job_of(&accepted)).await;
    assert_eq!(job["results"][0]["answer"]["label"], "one");
    let at_once = stack.send(later("seven")).await;
    assert_eq!((at_once.status, &at_once.json()["cached"]), (StatusCode::OK, &json!(true)));
    // Invalid requests fail synchronously, too.
    assert_eq!(stack.send(later("")).await.status, StatusCode::BAD_REQUEST);

    let request = request_of(&["eight"]).to_string();
    let infer = |path: &str| with(post(path, "application/json", request.clone()), "prefer", "respond-async");
    let accepted = stack.send(infer("/v2/models/mnist/versions/1/infer")).await;
    let job = ended(&stack, &job_of(&accepted)).await;
    assert_eq!(job["results"][0]["answer"]["outputs"][1]["data"], json!([5.0]));
    let at_once = stack.send(infer("/v2/models/mnist/infer")).await;
    assert_eq!((at_once.status, &at_once.json()["model_name"]), (StatusCode::OK, &json!("mnist")));
    let wrong = with(post("/v2/models/mnist/infer", "application/json", "{}"), "prefer", "respond-async");
    assert_eq!(stack.send(wrong).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(stack.send(infer("/v2/models/none/infer")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_asynchronous_result_of_a_binary_request_is_json() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let head = r#"{"parameters":{"binary_data_output":true},"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":7}}]}"#;
    let body = [head.as_bytes(), &3_u32.to_le_bytes(), b"abc"].concat();
    let mut request = with(post("/v2/models/mnist/infer", "application/octet-stream", body), "prefer", "respond-async");
    request.headers_mut().insert("inference-header-content-length", head.len().into());
    let job = ended(&stack, &job_of(&stack.send(request).await)).await;
    assert_eq!(job["results"][0]["answer"]["outputs"][1]["data"], json!([3.0]));
}

#[tokio::test]
async fn an_idempotency_key_returns_the_same_job_or_a_conflict() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let submit = |image: &str| {
        with(post("/jobs", "application/zip", zip(&[("a.png", image)])), "idempotency-key", "\"order 7\"")
    };
    let first = stack.send(submit("slow")).await;
    let second = stack.send(submit("slow")).await;
    assert_eq!(job_of(&first), job_of(&second));
    let other = stack.send(submit("b")).await;
    assert_eq!((other.status, other.json()["status"].as_u64()), (StatusCode::CONFLICT, Some(409)));
    assert_eq!(ended(&stack, &job_of(&first)).await["runs"], 1);
    let long = with(post("/jobs", "application/zip", zip(&[("a.png", "b")])), "idempotency-key", "");
    assert_eq!(stack.send(long).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn cancellation_stops_inputs_that_have_not_started() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    // All different, so that no flight is shared. Four of the eight run concurrently.
    let names = ["1", "2", "3", "4", "5", "6", "7", "8"];
    let requests: Vec<Value> = names.iter().map(|name| request_of(&[*name, "slow"])).collect();
    let path = job_of(&stack.send(post("/jobs", "application/json", json!(requests).to_string())).await);
    while stack.runs() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let cancelled = stack.send(bare("DELETE", &path)).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (StatusCode::OK, &json!("cancelled")));
    sleep(Duration::from_millis(600)).await;
    let job = stack.send(get_request(&path)).await.json();
    assert_eq!((&job["status"], &job["done"]), (&json!("cancelled"), &json!(0)));
    assert!(job["runs"].as_u64().unwrap() <= 5, "{job}");
    let retried = stack.send(bare("POST", &format!("{path}/retry"))).await;
    assert_eq!(retried.status, StatusCode::CONFLICT);
    let deleted = stack.send(bare("DELETE", &path)).await;
    assert_eq!((deleted.status, &deleted.json()["status"]), (StatusCode::OK, &json!("cancelled")), "its last state");
    for method in ["GET", "DELETE"] {
        assert_eq!(stack.send(bare(method, &path)).await.status, StatusCode::GONE, "a job that has ended is deleted");
    }
}

#[tokio::test]
async fn retry_runs_failed_inputs_again() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "killer"), ("b.png", "b")]))).await);
    assert_eq!(ended(&stack, &path).await["status"], "failed");
    let retried = stack.send(bare("POST", &format!("{path}/retry"))).await;
    assert_eq!((retried.status, &retried.json()["failed"]), (StatusCode::ACCEPTED, &json!(0)));
    let job = ended(&stack, &path).await;
    assert_eq!((&job["failed"], &job["runs"]), (&json!(1), &json!(3)));
}

#[tokio::test]
async fn a_job_waits_for_an_overloaded_model() {
    let stack = Stack::start(AppType::Cli, &["busy"]).await;
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "a")]))).await);
    while stack.runs() < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let waiting = stack.send(get_request(&path)).await.json();
    assert_eq!((&waiting["status"], &waiting["failed"]), (&json!("running"), &json!(0)));
    // The concurrency limit is per model, so jobs of other models continue.
    stack.change(|models| models.push(model("mnist"))).await;
    let other = job_of(&stack.send(post("/jobs?model=mnist", "application/zip", zip(&[("a.png", "a")]))).await);
    assert_eq!(ended(&stack, &other).await["status"], "succeeded");
}

#[tokio::test]
async fn events_are_sent_once_and_continue_after_the_last_event_id() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "a"), ("b.png", "slow")]))).await);
    // The stream ends with the job.
    let events = stack.send(get_request(&format!("{path}/events"))).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let blocks =
        |text: &str| text.split("\n\n").filter(|block| block.contains("data:")).map(str::to_owned).collect::<Vec<_>>();
    let all = blocks(&events.text());
    let kinds: Vec<_> = all.iter().map(|block| block.contains("event: result")).collect();
    assert_eq!(kinds, [false, false, true, true, false], "{all:#?}");
    assert!(all[2].contains(r#""name":"a.png""#) && all[4].contains(r#""status":"succeeded""#));
    let last = all[2].lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    let mut rest = get_request(&format!("{path}/events"));
    rest.headers_mut().insert("last-event-id", last.parse().unwrap());
    assert_eq!(blocks(&stack.send(rest).await.text()), all[3..]);
}

#[tokio::test]
async fn results_are_ndjson_or_csv() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path =
        job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a,b.png", "a"), ("=1.png", "text")]))).await);
    ended(&stack, &path).await;
    let table = stack.send(get_request(&format!("{path}/results?format=csv"))).await;
    assert!(table.header("content-disposition").starts_with("attachment; filename=\"mnist-"));
    let rows: Vec<_> = table.text().lines().map(str::to_owned).collect();
    assert_eq!(rows[..2], ["index,name,status,label,value,answer,error", "0,\"a,b.png\",succeeded,\"one\",0.75,,"]);
    assert!(rows[2].starts_with("1,\"'=1.png\",failed,,,,"), "{}", rows[2]);
    let lines = stack.send(get_request(&format!("{path}/results"))).await;
    let first: Value = serde_json::from_str(lines.text().lines().next().unwrap()).unwrap();
    assert_eq!((&first["index"], &first["answer"]["label"]), (&json!(0), &json!("one")));
    assert_eq!(stack.send(get_request(&format!("{path}/results?format=xml"))).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn large_jobs_are_paginated() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let names = ["a.png", "b.png", "c.png", "d.png", "e.png"];
    let files: Vec<_> = names.iter().map(|name| (*name, *name)).collect();
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&files))).await);
    ended(&stack, &path).await;
    let mut next = format!("{path}?limit=2");
    let mut listed = Vec::new();
    loop {
        let page = stack.send(get_request(&next)).await.json();
        listed.extend(
            page["results"].as_array().unwrap().iter().map(|result| result["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(path) => path.clone_into(&mut next),
            None => break,
        }
    }
    assert_eq!(listed, names);
}

#[tokio::test]
async fn long_poll_returns_when_the_job_changes() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("a.png", "slow")]))).await);
    let wait = || with(get_request(&path), "prefer", "wait=10");
    let mut status = String::new();
    while status != "succeeded" {
        let now = stack.send(wait()).await.json()["status"].as_str().unwrap().to_owned();
        assert_ne!(now, status);
        status = now;
    }
}

#[tokio::test]
async fn jobs_are_listed_unless_the_list_is_disabled() {
    let stack = Stack::start(AppType::Cli, &["mnist"]).await;
    for image in ["a", "text"] {
        let path = job_of(&stack.send(post("/jobs", "application/zip", zip(&[("x.png", image)]))).await);
        ended(&stack, &path).await;
    }
    let count = async |query: &str| {
        let list = stack.send(get_request(&format!("/jobs{query}"))).await.json();
        list["jobs"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("?status=failed").await, count("?limit=1").await), (2, 1, 1));
    assert_eq!((count("?status=dead").await, count("?status=running").await), (0, 0));
    assert_eq!(stack.send(get_request("/jobs?status=lost")).await.status, StatusCode::BAD_REQUEST);
    let closed = Stack::serving(vec![model("mnist")], |settings| settings.jobs.list = false).await;
    assert_eq!(closed.send(get_request("/jobs")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn invalid_submissions_and_unknown_jobs_are_rejected() {
    let stack = Stack::start(AppType::Cli, &["mnist", "other"]).await;
    let unknown = format!("/jobs/{}", "0".repeat(32));
    for path in [unknown.as_str(), "/jobs/x", "/jobs/..%2f..", "/jobs/x/events"] {
        assert_eq!(stack.send(get_request(path)).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let many: Vec<_> = (0..11).map(|number| format!("{number}.png")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "a")).collect();
    for (request, status) in [
        (post("/jobs?model=mnist", "text/plain", "hello"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post("/jobs?model=mnist", "application/zip", "PK\x03\x04 no zip"), StatusCode::BAD_REQUEST),
        (post("/jobs?model=mnist", "application/zip", zip(&[])), StatusCode::BAD_REQUEST),
        (post("/jobs?model=mnist", "application/zip", zip(&[("../a", "a")])), StatusCode::BAD_REQUEST),
        (post("/jobs?model=mnist", "application/zip", zip(&many)), StatusCode::PAYLOAD_TOO_LARGE),
        (post("/jobs?model=none", "application/zip", zip(&[("a.png", "a")])), StatusCode::NOT_FOUND),
        (post("/jobs", "application/zip", zip(&[("a.png", "a")])), StatusCode::UNPROCESSABLE_ENTITY),
        (post("/jobs?model=mnist&version=9", "application/json", "[{}]"), StatusCode::NOT_FOUND),
        (post("/jobs?model=mnist", "application/octet-stream", vec![0; 2 << 20]), StatusCode::PAYLOAD_TOO_LARGE),
        (bare("PUT", "/jobs"), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = stack.send(request).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_full_queue_rejects_submissions() {
    let stack = Stack::start(AppType::Cli, &["busy"]).await;
    let names: Vec<_> = (0..10).map(|number| format!("{number}.png")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    let mut last = None;
    for _ in 0..4 {
        last = Some(stack.send(post("/jobs", "application/zip", zip(&files))).await);
    }
    let last = last.unwrap();
    assert_eq!((last.status, last.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert!(last.text().contains("inputs already wait for this model"), "{}", last.text());
}
