//! The real binary with the real ONNX Runtime.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::{Running, command, library, output};

#[tokio::test]
async fn an_onnx_file_is_served_and_its_device_is_reported() {
    let folder = Folder::new().with("identity.onnx", onnx::identity());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    assert_eq!(
        running.predict_array("identity", "[[0.1, 0.7, 0.2], [1, 0, 0]]").await,
        (200, json!({"cls": 1, "value": 0.7}))
    );
    let (_, ready) = running.get("/health/ready").await.unwrap();
    let device = &ready["models"][0]["device"];
    assert_eq!(device["name"], "cpu", "the tests' library has no CUDA provider");
    let has_card = Path::new("/dev/nvidiactl").exists() || Path::new("/proc/driver/nvidia/gpus").exists();
    let why = has_card.then_some("this ONNX Runtime library has no CUDA provider");
    assert_eq!(device["stepped_down"], json!(why), "only a card that is there can be missed");
    assert!(device["runtime"].as_str().unwrap().starts_with("1."), "{device}");
    assert_eq!(running.metric(r#"model_api_runs_total{model="identity"}"#).await, Some(1.0));
    assert_eq!(running.metric(r#"model_api_device_info{model="identity",device="cpu"}"#).await, Some(1.0));
    let log = running.log();
    assert!(log.lines().next().unwrap().contains("identity"), "{log}");
    assert!(log.lines().nth(1).unwrap().contains("device=\"cpu\""), "{log}");
}

#[tokio::test]
async fn a_session_sends_no_telemetry_and_the_parent_loads_no_library() {
    let folder = Folder::new().with("identity.onnx", onnx::identity());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let environment = fs::read_to_string(format!("/proc/{session}/environ")).unwrap();
    assert!(environment.split('\0').any(|variable| variable == "ORT_DISABLE_TELEMETRY=1"), "{environment}");
    let loads_it = |process| fs::read_to_string(format!("/proc/{process}/maps")).unwrap().contains("onnxruntime");
    assert!(loads_it(session));
    assert!(!loads_it(running.id()));
}

#[tokio::test]
async fn a_graph_may_keep_its_weights_in_a_file_beside_it() {
    let weights: Vec<u8> = [1.0_f32, 2.0, 3.0].iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let folder = Folder::new().with("m/2/model.onnx", onnx::with_external_data("w.bin")).with("m/2/w.bin", &weights);
    let folder = folder.with("m/10/model.onnx", onnx::with_external_data("w.bin")).with("m/10/w.bin", weights);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    assert_eq!(running.predict_array("m", "[5, 0, 0]").await, (200, json!({"cls": 0, "value": 6.0})));
    let (_, models) = running.get("/models").await.unwrap();
    let defaults = models["models"].as_array().unwrap().iter().filter(|model| model["is_default"] == true);
    assert_eq!(defaults.map(|model| model["version"].clone()).collect::<Vec<_>>(), ["10"]);
}

#[tokio::test]
async fn a_model_that_cannot_be_served_gives_a_reason_without_a_path_and_does_not_affect_others() {
    let mut truncated = onnx::hangs();
    truncated.truncate(truncated.len() / 2);
    let folder = Folder::new()
        .with("good.onnx", onnx::identity())
        .with("outside.onnx", onnx::with_external_data("../w.bin"))
        .with("sequence.onnx", onnx::first_of_sequence())
        .with("truncated.onnx", truncated)
        .with("weightless.onnx", onnx::with_external_data("w.bin"));
    let Some(running) = Running::start(folder.path(), &[]) else { return };
    let models = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Some((_, models)) = running.get("/models").await else { continue };
        if models["models"].as_array().unwrap().iter().all(|model| model["state"] != "LOADING") {
            break models;
        }
    };
    for (model, reason) in models["models"].as_array().unwrap().iter().zip([
        None,
        Some("the graph names a data file outside its own folder"),
        Some("input \"tensors\" is a sequence (a tensor of f32), and only tensors are served"),
        Some("the file is not an ONNX model, or it is damaged"),
        Some("data of the graph: w.bin cannot be read: No such file or directory"),
    ]) {
        let found = model["reason"].as_str();
        assert_eq!(found.is_some(), reason.is_some(), "{model}");
        assert!(found.unwrap_or_default().contains(reason.unwrap_or_default()), "{model}");
        assert!(!found.unwrap_or_default().contains(folder.path().to_str().unwrap()), "{model}");
    }
    assert_eq!(running.predict_array("good", "[0, 0, 1]").await.0, 200);
    assert_eq!(running.predict_array("sequence", "[0]").await.0, 503);
    assert_eq!(running.get("/health/ready").await.unwrap().0, 503);
}

#[tokio::test]
async fn an_input_that_the_model_rejects_is_a_client_error() {
    let folder = Folder::new().with("picks.onnx", onnx::picks());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let session = running.session_other_than(0).await;
    let (status, problem) = running.predict_array("picks", "[7]").await;
    assert_eq!(status, 422, "{problem}");
    assert!(!problem["detail"].as_str().unwrap().contains('/'), "{problem}");
    assert_eq!(running.infer("picks", 2.0).await, (200, json!([0.75])));
    assert_eq!(running.sessions(), [session], "no session was lost on it");
}

#[tokio::test]
async fn two_workers_are_two_sessions() {
    let folder = Folder::new()
        .with("m/model.onnx", onnx::identity())
        .with("m/model-settings.json", r#"{"parallel_workers": 2}"#);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    while running.sessions().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn device_cuda_ends_the_service_if_cuda_does_not_work() {
    let folder = Folder::new().with("identity.onnx", onnx::identity());
    let Some(mut running) = Running::start(folder.path(), &[("DEVICE", "cuda")]) else { return };
    assert_eq!(running.ended().await.code(), Some(1));
    let log = running.log();
    assert!(log.contains("identity: DEVICE=cuda, but this ONNX Runtime library has no CUDA provider"), "{log}");
}

#[tokio::test]
async fn device_cpu_is_not_a_fallback() {
    let folder = Folder::new().with("identity.onnx", onnx::identity());
    let Some(running) = Running::ready(folder.path(), &[("DEVICE", "cpu")]).await else { return };
    let (_, ready) = running.get("/health/ready").await.unwrap();
    assert_eq!(ready["models"][0]["device"]["stepped_down"], json!(null));
}

#[tokio::test]
async fn the_health_command_reports_readiness() {
    let folder = Folder::new().with("identity.onnx", onnx::identity());
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let healthy = output(&["health"], &[("PORT", running.port())]);
    assert_eq!(healthy.status.code(), Some(0));
    assert!(String::from_utf8(healthy.stdout).unwrap().contains("\"ready\":true"));
    let port = running.port().to_owned();
    drop(running);
    assert_eq!(output(&["health"], &[("PORT", &port)]).status.code(), Some(1));
}

#[test]
fn an_unknown_model_stops_the_start_with_the_available_names() {
    let Some(library) = library() else { return };
    let folder =
        Folder::new().with("b.onnx", "").with("a/1/model.onnx", "").with("c/readme.txt", "").with("no name.onnx", "");
    let variables = [
        ("MODELS_DIR", folder.path().to_str().unwrap()),
        ("MODEL_NAME", "a,nobody"),
        ("ORT_DYLIB_PATH", library.to_str().unwrap()),
    ];
    let ended = output(&[], &variables);
    assert_eq!(ended.status.code(), Some(64));
    let words = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(words, "MODEL_NAME: there is no model \"nobody\"; available models: a, b\n");
}

#[test]
fn models_lists_the_names_and_needs_no_library() {
    let folder = Folder::new().with("b.onnx", "").with("a/1/model.onnx", "");
    let listed = output(&["models"], &[("MODELS_DIR", folder.path().to_str().unwrap())]);
    assert_eq!((listed.status.code(), listed.stdout.as_slice()), (Some(0), &b"a\nb\n"[..]));
}

#[test]
fn a_bad_setting_is_named_on_one_line() {
    let folder = Folder::new().with("a.onnx", "");
    let dir = folder.path().to_str().unwrap();
    for (variables, words) in [
        (&[("MODELS_DIR", dir)][..], "MODEL_NAME: must name the models"),
        (&[("MODELS_DIR", dir), ("MODEL_NAME", "a"), ("DEVICE", "gpu")], "DEVICE: \"gpu\" is none of"),
        (&[("MODELS_DIR", dir), ("MODEL_NAME", "a")], "ORT_DYLIB_PATH: must name"),
        (&[("MODELS_DIR", "/nowhere"), ("MODEL_NAME", "a")], "MODELS_DIR: /nowhere is not a folder"),
    ] {
        let ended = output(&[], variables);
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), stderr.lines().count()), (Some(64), 1), "{stderr}");
        assert!(stderr.starts_with(words), "{stderr}");
    }
}

#[test]
fn the_session_command_cannot_be_run_by_hand() {
    let ended = command(&["session"], &[]).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(ended.status.code(), Some(64));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("never by hand"));
}
