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

use crate::support::fake::{Fake, REFUSE, hello};
use crate::support::folder::Folder;
use crate::support::router::{Answer, Service};
use crate::support::squares::png;

/// `cut` answers a picture with its four numbers, as all fakes do; `read` and others take four numbers and answer with them.
#[derive(Clone)]
struct Kinds;

impl Launcher for Kinds {
    type Session = Fake;

    async fn launch(&self, session_config: &SessionConfig) -> Result<(SessionInfo, Fake), StartError> {
        let mut hello = hello();
        if session_config.model == "wide" {
            hello.inputs = vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 1, 4, 1])];
        } else if session_config.model != "cut" {
            let datatype = if session_config.model == "counts" { Datatype::Int64 } else { Datatype::Fp32 };
            hello.inputs = vec![TensorMetadata::new("x", datatype, &[-1, 4])];
        }
        Fake::saying(hello).launch(session_config).await
    }
}

/// A graph of which ours reads nothing, so that each number is another model.
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
    let picture = r#"{"inputs": [{"name": "x", "parameters": {"image": {"color": "gray", "scale": 1}}}]}"#;
    let labels = r#"{"outputs": [{"name": "y", "parameters": {"labels": ["a", "b", "c", "d"]}}],
                     "parameters": {"extra": {"notice": "A toy."}}}"#;
    Folder::new()
        .with("cut/model.onnx", graph(1))
        .with("cut/model-settings.json", picture)
        .with("read/model.onnx", graph(2))
        .with("read/model-settings.json", labels)
        .with("counts.onnx", graph(3))
}

/// All models of [`folder`] and a pipeline, `p`.
async fn serving(settings: &str) -> Service {
    Service::new(folder().with("p/model-settings.json", settings), &Kinds).warm().await
}

/// Why `p` cannot be asked, and its state.
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
    timeout(Duration::from_secs(20), happened).await.expect("it happens");
}

async fn ask(service: &Service, input: &str, data: [f32; 4]) -> Answer {
    let input = json!({ "name": input, "datatype": "FP32", "shape": [1, 2, 2, 1], "data": data });
    service.post_json("/v2/models/p/infer", &json!({ "inputs": [input] }).to_string()).await
}

fn write(service: &Service, name: &str, content: impl AsRef<[u8]>) {
    let path = service.folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

// ---- What it is ----

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
    assert!(found["none"].rejection.as_deref().unwrap().starts_with("its folder has no model.onnx, and no folder"));
    let reason = "its folder has no model.onnx, and model-settings.json: EOF while parsing";
    assert!(found["broken"].rejection.as_deref().unwrap().starts_with(reason));
}

#[test]
fn whoever_wants_a_pipeline_gets_its_steps() {
    let outer = pipeline(&json!([{ "model": "p", "inputs": { "image": "image" } }]));
    let folder = folder().with("p/model-settings.json", two_steps()).with("outer/model-settings.json", outer);
    let selected = Repository::new(folder.path()).select_models(&Selection::Names(vec!["outer".to_owned()])).unwrap();
    assert_eq!(selected.into_keys().collect::<Vec<_>>(), ["cut", "outer", "p", "read"]);
}

#[tokio::test]
async fn it_is_described_as_what_its_steps_make_of_it() {
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
async fn its_settings_may_rename_and_add_outputs_narrow_shapes_and_say_words() {
    let settings = json!({
        "implementation": "pipeline",
        "steps": [{ "model": "cut", "inputs": { "x": "image" } }, { "model": "read", "inputs": { "x": "cut.y" } }],
        "inputs": [{ "name": "image", "shape": [1, 2, 2, 1] }],
        "outputs": [{ "name": "classes", "from": "read.y" }, { "name": "pixels", "from": "cut.y" }],
        "parameters": { "extra": { "title": "Both", "notice": "Both are toys." } },
    });
    let service = serving(&settings.to_string()).await;
    let model = service.models.get("p", None).unwrap();
    assert_eq!(
        model.texts.notice.as_deref(),
        Some("Both are toys. A toy."),
        "what is to be said of a step's answers is"
    );
    let names: Vec<_> = model.metadata.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!((names, &*model.metadata.inputs[0].shape), (vec!["classes", "pixels"], &[1, 2, 2, 1][..]));
    assert_eq!(model.signature.outputs[0].parameters.labels.len(), 4, "as the step has them");
    let answer = ask(&service, "image", [0.1, 0.2, 0.3, 0.4]).await.json();
    assert_eq!((&answer["outputs"][0]["name"], &answer["outputs"][1]["name"]), (&json!("classes"), &json!("pixels")));
}

#[tokio::test]
async fn models_that_see_a_picture_in_different_sizes_are_asked_with_one_file() {
    let settings = pipeline(&json!([
        { "model": "cut", "inputs": { "x": "image" } },
        { "model": "wide", "inputs": { "x": "image" } },
    ]));
    let picture = r#"{"inputs": [{"name": "x", "parameters": {"image": {"fit": "stretch", "scale": 1}}}]}"#;
    let folder = folder().with("wide/model.onnx", graph(5)).with("wide/model-settings.json", picture);
    let service = Service::new(folder.with("p/model-settings.json", settings), &Kinds).warm().await;
    let model = service.models.list().into_iter().find(|model| model.name == "p").unwrap();
    let input = &model.inputs[0];
    assert_eq!((input.datatype, &*input.shape, model.image.is_some()), (Datatype::Bytes, &[-1][..], true));
    let answer = service.post("/v2/models/p/infer", "image/png", png()).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([1, 4]), "{}", String::from_utf8_lossy(&answer.body));
}

// ---- What contradicts ----

#[tokio::test]
async fn what_does_not_fit_is_unavailable_and_names_the_step_and_the_field_and_others_go_on() {
    let cut = json!({ "model": "cut", "inputs": { "x": "image" } });
    let service = Service::new(folder(), &Kinds).warm().await;
    for (settings, reason) in [
        (pipeline(&json!([{ "model": "nonesuch", "inputs": {} }])), "step \"nonesuch\": model: nonesuch is not loaded"),
        (
            pipeline(&json!([{ "model": "cut", "version": "7", "inputs": { "x": "image" } }])),
            "step \"cut\": version: cut has no such version; there are: 1",
        ),
        (pipeline(&json!([{ "model": "cut", "inputs": {} }])), "step \"cut\": inputs: nothing feeds \"x\" of cut"),
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
        (pipeline(&json!([])), "steps: a pipeline has one step at least"),
    ] {
        write(&service, "p/model-settings.json", &settings);
        let told = service.models.load("p").await.unwrap_err().to_string();
        let reason = format!("model-settings.json: {reason}");
        assert!(told.starts_with(&format!("p cannot be loaded: version 1: {reason}")), "{settings}: {told}");
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
async fn pipelines_that_lead_back_to_each_other_are_refused_whichever_comes_first() {
    let of = |model: &str| pipeline(&json!([{ "model": model, "inputs": { "image": "image" } }]));
    let folder = folder()
        .with("p/model-settings.json", of("q"))
        .with("q/model-settings.json", of("r"))
        .with("r/model-settings.json", of("q"));
    let service = Service::new(folder, &Kinds);
    let reason = |name: &str| {
        let model = service.models.list().into_iter().find(|model| model.name == name).unwrap();
        model.reason.unwrap_or_default()
    };
    until(|| reason("q").contains("leads back") && reason("r").contains("leads back")).await;
    assert_eq!(reason("q"), "model-settings.json: step \"r\": model: it leads back: q → r → q");
    until(|| reason("p").starts_with("model-settings.json: step \"q\": model: q cannot be asked now: model-settings"))
        .await;
    // Mended: `r` is two steps now, and all of them come by themselves.
    write(&service, "r/model-settings.json", two_steps());
    service.models.load("r").await.unwrap();
    until(|| service.models.is_ready()).await;
    // One that is served goes on when another would lead back to it.
    write(&service, "r/model-settings.json", of("p"));
    let told = service.models.load("r").await.unwrap_err().to_string();
    assert!(told.ends_with("step \"p\": model: it leads back: r → p → q → r"), "{told}");
    assert!(["p", "q", "r"].iter().all(|name| service.models.get(name, None).is_ok()));
}

#[tokio::test]
async fn a_graph_beside_the_steps_is_one_too_many() {
    let service = Service::new(folder(), &Kinds).warm().await;
    write(&service, "p/model.onnx", graph(4));
    write(&service, "p/model-settings.json", two_steps());
    let told = service.models.load("p").await.unwrap_err().to_string();
    assert!(told.ends_with("steps: a pipeline has no graph of its own, and there is a model.onnx"), "{told}");
}

// ---- What changes ----

#[tokio::test]
async fn a_changed_step_makes_another_digest_and_an_unchanged_one_does_not() {
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
async fn a_pipeline_waits_for_a_step_that_comes_later_and_for_one_that_goes_and_comes_back() {
    let folder = Folder::new().with("cut/model.onnx", graph(1)).with("p/model-settings.json", two_steps());
    let service = Service::new(folder, &Kinds);
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
    assert_eq!(ask(&service, "image", [0.; 4]).await.error().0, 503);
    service.models.load("read").await.unwrap();
    assert_eq!(digest(&service.models), first);
}

#[tokio::test]
async fn a_broken_change_leaves_the_last_good_steps_in_service() {
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
async fn an_unloaded_step_does_not_wait_for_the_pipeline_to_let_go_of_it() {
    let service = serving(&two_steps()).await;
    timeout(Duration::from_secs(2), service.models.unload("read")).await.unwrap().unwrap();
}

// ---- What it answers ----

#[tokio::test]
async fn model_api_itself_runs_the_steps_one_after_the_other() {
    let service = serving(&two_steps()).await;
    let answer = ask(&service, "image", [0.1, 0.2, 0.7, 0.4]).await.json();
    assert_eq!(answer["outputs"][0]["data"], json!([0.1, 0.2, 0.7, 0.4]), "{answer}");
    assert_eq!((&answer["model_name"], &answer["outputs"].as_array().unwrap().len()), (&json!("p"), &1));
    assert_eq!(answer["parameters"]["model_digest"], digest(&service.models));
    let array = service.post_json("/predict_array/p", r#"{"image_arr": [[0.1, 0.2], [0.7, 0.4]]}"#).await.json();
    assert_eq!(array["cls"], 2);
    let stats = service.get("/v2/models/read/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 2, "a step counts as its model's");
}

#[tokio::test]
async fn an_error_of_a_step_names_it_and_keeps_its_status() {
    let service = serving(&two_steps()).await;
    let (status, words) = ask(&service, "image", [REFUSE, 0., 0., 0.]).await.error();
    assert_eq!((status, &*words), (422, "step \"cut\": no such input"));
    let input = json!({ "name": "image", "datatype": "BYTES", "shape": [1], "data": ["bm90IGEgcGljdHVyZQ=="] });
    let answer = service.post_json("/v2/models/p/infer", &json!({ "inputs": [input] }).to_string()).await;
    let (status, words) = answer.error();
    assert!(status == 415 && words.starts_with("step \"cut\": "), "{words}");
}
