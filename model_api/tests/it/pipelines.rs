//! Pipelines: models that consist of other models.

use std::fs;
use std::time::Duration;

use model_api::registry::ModelRegistry;
use model_api::repository::Repository;
use model_api::repository::Selection;
use model_api::session::{Launcher, SessionConfig, SessionInfo, StartError};
use open_inference::{Datatype, ModelState, TensorMetadata};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::support::fake::{Fake, REJECT, session_info};
use crate::support::folder::Folder;
use crate::support::router::{Response, Service};
use crate::support::squares::png;

/// Fakes by model name: `cut` returns the four numbers of an image, `read` and others return the four numbers of their input.
#[derive(Clone)]
struct ByModel;

impl Launcher for ByModel {
    type Session = Fake;

    async fn launch(&self, session_config: &SessionConfig) -> Result<(SessionInfo, Fake), StartError> {
        let mut info = session_info();
        if session_config.model == "wide" {
            info.inputs = vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 1, 4, 1])];
        } else if session_config.model != "cut" {
            let datatype = if session_config.model == "counts" { Datatype::Int64 } else { Datatype::Fp32 };
            info.inputs = vec![TensorMetadata::new("x", datatype, &[-1, 4])];
        }
        Fake::default().with_info(info).launch(session_config).await
    }
}

/// A minimal graph: `ir_version` alone, so that each number is another model.
fn graph(number: u8) -> [u8; 2] {
    [8, number]
}

fn pipeline(steps: &Value) -> String {
    json!({ "implementation": "pipeline", "steps": steps }).to_string()
}

fn two_steps() -> String {
    pipeline(&json!([
        { "name": "cut", "model": "cut", "inputs": { "x": "image" } },
        { "name": "read", "model": "read", "inputs": { "x": "cut.y" } },
    ]))
}

fn folder() -> Folder {
    let image_settings = r#"{"inputs": [{"name": "x", "parameters": {"image": {"color": "gray", "scale": 1}}}]}"#;
    let labels = r#"{"outputs": [{"name": "y", "parameters": {"labels": ["a", "b", "c", "d"]}}],
                     "parameters": {"extra": {"notice": "A toy."}}}"#;
    Folder::new()
        .with("cut/model.onnx", graph(1))
        .with("cut/model-settings.json", image_settings)
        .with("read/model.onnx", graph(2))
        .with("read/model-settings.json", labels)
        .with("counts.onnx", graph(3))
}

/// All models of [`folder`] and a pipeline, `p`.
async fn serving(settings: &str) -> Service {
    Service::new(folder().with("p/model-settings.json", settings), &ByModel).warm().await
}

/// The state of `p`, and the reason why it is not available.
fn unready(models: &ModelRegistry) -> (ModelState, String) {
    let model = models.list().into_iter().find(|model| model.name == "p").unwrap();
    (model.state, model.reason.unwrap_or_default())
}

fn digest(models: &ModelRegistry) -> String {
    models.get("p", None).map_or_else(|error| error.to_string(), |model| model.digest.clone())
}

async fn until(what: impl Fn() -> bool) {
    let happened = async {
        while !what() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), happened).await.expect("the condition holds in time");
}

async fn infer(service: &Service, input: &str, data: [f32; 4]) -> Response {
    let input = json!({ "name": input, "datatype": "FP32", "shape": [1, 2, 2, 1], "data": data });
    service.post_json("/v2/models/p/infer", &json!({ "inputs": [input] }).to_string()).await
}

fn write(service: &Service, name: &str, content: impl AsRef<[u8]>) {
    let path = service.folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

// ---- Definition ----

#[test]
fn a_folder_without_a_graph_is_a_pipeline_if_its_settings_say_so() {
    let folder = folder()
        .with("p/model-settings.json", two_steps())
        .with("q/1/model-settings.json", two_steps())
        .with("q/2/model-settings.json", "{}")
        .with("none/model-settings.json", "{}")
        .with("broken/model-settings.json", "{");
    let found = Repository::new(folder.path()).scan().unwrap();
    let versions = |name: &str| found[name].versions.iter().map(|files| &*files.version).collect::<Vec<_>>();
    assert_eq!((versions("p"), versions("q"), versions("none")), (vec!["1"], vec!["1"], vec![]));
    assert!(
        found["none"].rejection.as_deref().unwrap().starts_with("its folder has no model.onnx, and no version folder")
    );
    let reason = "its folder has no model.onnx, and model-settings.json: EOF while parsing";
    assert!(found["broken"].rejection.as_deref().unwrap().starts_with(reason));
}

#[test]
fn selecting_a_pipeline_selects_the_models_of_its_steps() {
    let outer = pipeline(&json!([{ "model": "p", "inputs": { "image": "image" } }]));
    let folder = folder().with("p/model-settings.json", two_steps()).with("outer/model-settings.json", outer);
    let selected = Repository::new(folder.path()).select_models(&Selection::Names(vec!["outer".to_owned()])).unwrap();
    assert_eq!(selected.into_keys().collect::<Vec<_>>(), ["cut", "outer", "p", "read"]);
}

#[tokio::test]
async fn a_pipeline_is_described_by_its_steps() {
    let service = serving(&two_steps()).await;
    let list = service.get("/models").await.json();
    let model = list["models"].as_array().unwrap().iter().find(|model| model["name"] == "p").unwrap();
    assert_eq!((&model["state"], &model["device"]["name"]), (&json!("READY"), &json!("cpu")));
    assert_eq!(
        model["inputs"],
        json!([{ "name": "image", "datatype": "FP32", "shape": [-1, 2, 2, 1], "parameters": { "content_type": "image" } }])
    );
    assert_eq!(
        model["outputs"],
        json!([{ "name": "y", "datatype": "FP32", "shape": [-1, 4], "parameters": { "task": "classification", "labels": ["a", "b", "c", "d"] } }])
    );
    assert_eq!((&model["image"]["width"], &model["image"]["fit"]), (&json!(2), &json!("contain")));
    assert_eq!(model["pipeline"]["steps"][1]["inputs"], json!([{ "name": "x", "from": "cut.y" }]));
    assert_eq!(model["pipeline"]["outputs"], json!([{ "name": "y", "from": "read.y" }]));
    let others: Vec<_> = service.models.list().into_iter().filter(|model| model.name != "p").collect();
    assert!(others.iter().all(|model| model.pipeline.is_none() && model.is_ready()));
    let metadata = service.get("/v2/models/p").await.json();
    assert_eq!((&metadata["versions"], &metadata["inputs"][0]["name"]), (&json!(["1"]), &json!("image")));
    assert_eq!(metadata["platform"], "ensemble");
}

#[tokio::test]
async fn its_settings_may_rename_and_add_outputs_narrow_shapes_and_add_texts() {
    let settings = json!({
        "implementation": "pipeline",
        "steps": [{ "model": "cut", "inputs": { "x": "image" } }, { "model": "read", "inputs": { "x": "cut.y" } }],
        "inputs": [{ "name": "image", "shape": [1, 2, 2, 1] }],
        "outputs": [{ "name": "classes", "from": "read.y" }, { "name": "pixels", "from": "cut.y" }],
        "parameters": { "extra": { "title": "Both", "notice": "Both are toys." } },
    });
    let service = serving(&settings.to_string()).await;
    let model = service.models.get("p", None).unwrap();
    assert_eq!(model.texts.notice.as_deref(), Some("Both are toys. A toy."), "it has the notices of its steps");
    let names: Vec<_> = model.metadata.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!((names, &*model.metadata.inputs[0].shape), (vec!["classes", "pixels"], &[1, 2, 2, 1][..]));
    assert_eq!(model.signature.outputs[0].parameters.labels.len(), 4, "those of the step");
    let response = infer(&service, "image", [0.1, 0.2, 0.3, 0.4]).await.json();
    assert_eq!(
        (&response["outputs"][0]["name"], &response["outputs"][1]["name"]),
        (&json!("classes"), &json!("pixels"))
    );
}

#[tokio::test]
async fn models_with_different_image_sizes_share_one_image_input() {
    let settings = pipeline(&json!([
        { "model": "cut", "inputs": { "x": "image" } },
        { "model": "wide", "inputs": { "x": "image" } },
    ]));
    let image_settings = r#"{"inputs": [{"name": "x", "parameters": {"image": {"fit": "stretch", "scale": 1}}}]}"#;
    let folder = folder().with("wide/model.onnx", graph(5)).with("wide/model-settings.json", image_settings);
    let service = Service::new(folder.with("p/model-settings.json", settings), &ByModel).warm().await;
    let model = service.models.list().into_iter().find(|model| model.name == "p").unwrap();
    let input = &model.inputs[0];
    assert_eq!((input.datatype, &*input.shape, model.image.is_some()), (Datatype::Bytes, &[-1][..], true));
    let response = service.post("/v2/models/p/infer", "image/png", png()).await;
    assert_eq!(response.json()["outputs"][0]["shape"], json!([1, 4]), "{}", String::from_utf8_lossy(&response.body));
}

// ---- Validation ----

#[tokio::test]
async fn an_inconsistent_pipeline_is_unavailable_with_step_and_field_and_does_not_affect_others() {
    let cut = json!({ "model": "cut", "inputs": { "x": "image" } });
    let service = Service::new(folder(), &ByModel).warm().await;
    for (settings, reason) in [
        (pipeline(&json!([{ "model": "nonesuch", "inputs": {} }])), "step \"nonesuch\": model: nonesuch is not loaded"),
        (
            pipeline(&json!([{ "model": "cut", "version": "7", "inputs": { "x": "image" } }])),
            "step \"cut\": version: cut has no version \"7\"; available versions: 1",
        ),
        (
            pipeline(&json!([{ "model": "cut", "inputs": {} }])),
            "step \"cut\": inputs: the input \"x\" of cut has no source",
        ),
        (
            pipeline(&json!([{ "model": "cut", "inputs": { "x": "image", "z": "image" } }])),
            "step \"cut\": inputs.z: cut has no such input; it takes: x",
        ),
        (
            pipeline(&json!([cut, { "model": "read", "inputs": { "x": "cut.crops" } }])),
            "step \"read\": inputs.x: \"cut.crops\": cut has no such output; it gives: y",
        ),
        (
            pipeline(&json!([cut, { "model": "counts", "inputs": { "x": "cut.y" } }])),
            "step \"counts\": inputs.x: \"cut.y\" is FP32, and counts takes INT64",
        ),
        (
            pipeline(
                &json!([{ "model": "read", "inputs": { "x": "n" } }, { "model": "cut", "inputs": { "x": "read.y" } }]),
            ),
            "step \"cut\": inputs.x: \"read.y\" has the shape [-1, 4], and cut takes [-1, 2, 2, 1] (-1: any length)",
        ),
        (
            pipeline(&json!([cut, { "model": "read", "inputs": { "x": "image" } }])),
            "step \"read\": inputs.x: \"image\" cannot feed it and step \"cut\": inputs.x: it takes [-1, 4], and that",
        ),
        (
            json!({ "implementation": "pipeline", "steps": [cut], "outputs": [{ "name": "z" }] }).to_string(),
            "outputs[0].from: \"cut.z\": cut has no such output; it gives: y",
        ),
        (
            json!({ "implementation": "pipeline", "steps": [cut], "inputs": [{ "name": "x" }] }).to_string(),
            "inputs[0].name: \"x\" is not in the pipeline, which has: image",
        ),
        (
            json!({ "implementation": "pipeline", "steps": [cut], "inputs": [{ "name": "image", "shape": [2] }] })
                .to_string(),
            "inputs[0].shape: [2] does not fit the pipeline's [-1, 2, 2, 1]",
        ),
        (pipeline(&json!([])), "steps: a pipeline has at least one step"),
    ] {
        write(&service, "p/model-settings.json", &settings);
        let message = service.models.load("p").await.unwrap_err().to_string();
        let reason = format!("model-settings.json: {reason}");
        assert!(message.starts_with(&format!("p cannot be loaded: version 1: {reason}")), "{settings}: {message}");
        let (state, why) = unready(&service.models);
        assert!(state == ModelState::Unavailable && why.starts_with(&reason), "{settings}: {state:?}: {why}");
        let index = service.models.index().await.into_iter().find(|line| line.name == "p").unwrap();
        assert_eq!((index.state, index.reason), (ModelState::Unavailable, why));
        assert!(service.models.get("read", None).is_ok() && service.models.is_ready());
    }
    write(&service, "p/model-settings.json", two_steps());
    service.models.load("p").await.unwrap();
    assert_eq!(unready(&service.models), (ModelState::Ready, String::new()));
}

#[tokio::test]
async fn cyclic_pipelines_are_rejected_in_any_order_of_loading() {
    let of = |model: &str| pipeline(&json!([{ "model": model, "inputs": { "image": "image" } }]));
    let folder = folder()
        .with("p/model-settings.json", of("q"))
        .with("q/model-settings.json", of("r"))
        .with("r/model-settings.json", of("q"));
    let service = Service::new(folder, &ByModel);
    let reason = |name: &str| {
        let model = service.models.list().into_iter().find(|model| model.name == name).unwrap();
        model.reason.unwrap_or_default()
    };
    until(|| reason("q").contains("form a cycle") && reason("r").contains("form a cycle")).await;
    assert_eq!(reason("q"), "model-settings.json: step \"r\": model: the pipelines form a cycle: q → r → q");
    until(|| reason("p").starts_with("model-settings.json: step \"q\": model: q is not available: model-settings"))
        .await;
    // Mended: `r` is two steps now, and all of them come by themselves.
    write(&service, "r/model-settings.json", two_steps());
    service.models.load("r").await.unwrap();
    until(|| service.models.is_ready()).await;
    // One that is served goes on when another would lead back to it.
    write(&service, "r/model-settings.json", of("p"));
    let message = service.models.load("r").await.unwrap_err().to_string();
    assert!(message.ends_with("step \"p\": model: the pipelines form a cycle: r → p → q → r."), "{message}");
    assert!(["p", "q", "r"].iter().all(|name| service.models.get(name, None).is_ok()));
}

#[tokio::test]
async fn a_pipeline_with_a_graph_is_rejected() {
    let service = Service::new(folder(), &ByModel).warm().await;
    write(&service, "p/model.onnx", graph(4));
    write(&service, "p/model-settings.json", two_steps());
    let message = service.models.load("p").await.unwrap_err().to_string();
    assert!(message.ends_with("steps: a pipeline has no graph of its own, and there is a model.onnx."), "{message}");
}

// ---- Changes ----

#[tokio::test]
async fn a_changed_step_changes_the_digest_and_an_unchanged_one_does_not() {
    let service = serving(&two_steps()).await;
    let first = digest(&service.models);
    service.models.load("read").await.unwrap();
    service.models.load("p").await.unwrap();
    assert_eq!(digest(&service.models), first);
    write(&service, "read/model.onnx", graph(9));
    service.models.load("read").await.unwrap();
    let second = digest(&service.models);
    assert!(second != first && second.starts_with("sha256:"), "{second}");
    write(&service, "p/model-settings.json", two_steps() + " ");
    service.models.load("p").await.unwrap();
    assert!(![first, second].contains(&digest(&service.models)));
}

#[tokio::test]
async fn a_pipeline_waits_for_a_missing_step_and_for_an_unloaded_one() {
    let folder = Folder::new().with("cut/model.onnx", graph(1)).with("p/model-settings.json", two_steps());
    let service = Service::new(folder, &ByModel);
    let missing = "model-settings.json: step \"read\": model: read is not loaded".to_owned();
    until(|| unready(&service.models) == (ModelState::Unavailable, missing.clone())).await;
    assert_eq!(service.models.not_ready_reason(), Some(format!("p: {missing}")));
    write(&service, "read/model.onnx", graph(2));
    service.models.load("read").await.unwrap();
    assert_eq!(unready(&service.models).0, ModelState::Ready, "without being loaded again");
    let first = digest(&service.models);
    service.models.unload("read").await.unwrap();
    assert_eq!(unready(&service.models), (ModelState::Unavailable, missing));
    assert!(service.models.is_ready(), "it has been ready once");
    assert_eq!(infer(&service, "image", [0.; 4]).await.error().0, 503);
    service.models.load("read").await.unwrap();
    assert_eq!(digest(&service.models), first);
}

#[tokio::test]
async fn a_broken_change_keeps_the_last_working_steps() {
    let service = serving(&two_steps()).await;
    let first = digest(&service.models);
    for broken in ["{", &pipeline(&json!([{ "model": "nonesuch", "inputs": {} }]))] {
        write(&service, "p/model-settings.json", broken);
        assert!(service.models.load("p").await.is_err());
        assert_eq!(digest(&service.models), first);
        let index = service.models.index().await.into_iter().find(|line| line.name == "p").unwrap();
        assert_eq!(index.state, ModelState::Ready);
        assert!(index.reason.contains("on disk cannot be served"), "{}", index.reason);
    }
}

#[tokio::test]
async fn an_unload_of_a_step_does_not_wait_for_the_pipeline() {
    let service = serving(&two_steps()).await;
    timeout(Duration::from_secs(2), service.models.unload("read")).await.unwrap().unwrap();
}

// ---- Inference ----

#[tokio::test]
async fn model_api_itself_runs_the_steps_one_after_the_other() {
    let service = serving(&two_steps()).await;
    let response = infer(&service, "image", [0.1, 0.2, 0.7, 0.4]).await.json();
    assert_eq!(response["outputs"][0]["data"], json!([0.1, 0.2, 0.7, 0.4]), "{response}");
    assert_eq!((&response["model_name"], &response["outputs"].as_array().unwrap().len()), (&json!("p"), &1));
    assert_eq!(response["parameters"]["model_digest"], digest(&service.models));
    let array = service.post_json("/predict_array/p", r#"{"image_arr": [[0.1, 0.2], [0.7, 0.4]]}"#).await.json();
    assert_eq!(array["cls"], 2);
    let stats = service.get("/v2/models/read/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 2, "a step counts as a request to its model");
}

#[tokio::test]
async fn an_error_of_a_step_names_it_and_keeps_its_status() {
    let service = serving(&two_steps()).await;
    let (status, words) = infer(&service, "image", [REJECT, 0., 0., 0.]).await.error();
    assert_eq!((status, &*words), (422, "step \"cut\": no such input"));
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": ["bm90IGEgcGljdHVyZQ=="] });
    let response = service.post_json("/v2/models/p/infer", &json!({ "inputs": [input] }).to_string()).await;
    let (status, words) = response.error();
    assert!(status == 415 && words.starts_with("step \"cut\": "), "{words}");
}
