use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use model_api::repository::Selection;
use model_api::session::{Launcher, SessionConfig, SessionInfo, StartError};
use open_inference::ModelState;
use serde_json::json;
use tokio::time::sleep;

use crate::support::fake::Fake;
use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::router::Service;

#[tokio::test]
async fn live_is_true_whatever_the_models_do() {
    let service =
        Service::new(Folder::new().with("m/model.onnx", "").with("m/model-settings.json", "{"), &Fake::default());
    let response = service.get("/health/live").await;
    assert_eq!((response.status, response.json()), (StatusCode::OK, json!({"live": true})));
}

#[tokio::test]
async fn ready_lists_every_model_and_its_device() {
    let service = Service::new(Folder::new().with("m.onnx", ""), &Fake::default()).warm().await;
    let response = service.get("/health/ready").await;
    assert_eq!(response.status, StatusCode::OK);
    let device = json!({"name": "cpu", "stepped_down": null, "runtime": "fake"});
    let model = json!({"name": "m", "version": "1", "state": "READY", "device": device, "reason": null});
    assert_eq!(response.json(), json!({"ready": true, "live": true, "reason": null, "models": [model]}));
}

#[tokio::test]
async fn the_service_is_not_ready_before_every_model_has_been_warm() {
    let fake = Fake::failing([StartError::Crashed("no memory".to_owned())]);
    let service = Service::new(Folder::new().with("a.onnx", ""), &fake);
    while fake.launches() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(20)).await;
    let response = service.get("/health/ready").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.json()["reason"], "a: no memory");
    assert_eq!(response.json()["models"][0]["state"], "UNAVAILABLE");
    let service = service.warm().await;
    assert_eq!(service.get("/health/ready").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_loading_model_is_described_by_its_files() {
    let settings = r#"{
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2, 1],
                    "parameters": {"image": {"fit": "stretch"}}}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4], "parameters": {"labels": ["a", "b", "c", "d"]}}],
        "parameters": {"extra": {"title": "Squares", "notice": "A toy."}}
    }"#;
    let fake = Fake::failing([StartError::Crashed("no memory".to_owned())]);
    let folder = Folder::new().with("m/model.onnx", onnx::of_one("x", "y")).with("m/model-settings.json", settings);
    let service = Service::new(folder, &fake);
    while fake.launches() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let early = service.models.list().remove(0);
    assert!(!early.is_ready());
    let warm = service.warm().await.models.list().remove(0);
    assert!(early.digest.starts_with("sha256:"));
    assert_eq!((&early.digest, &early.inputs), (&warm.digest, &warm.inputs), "what a remembered answer is found by");
    assert_eq!((&early.title, &early.notice), (&warm.title, &warm.notice));
    assert_eq!((&early.labels(), &early.image), (&warm.labels(), &warm.image));
}

#[tokio::test]
async fn a_loading_model_has_no_signature_if_its_settings_are_incomplete() {
    let settings = r#"{"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]}"#;
    let fake = Fake::failing(std::iter::repeat_n(StartError::Model("no such operator".to_owned()), 9));
    let folder = Folder::new()
        .with("m/model.onnx", onnx::of_one("x", "y"))
        .with("m/model-settings.json", settings)
        .with("m/config.pbtxt", "input { name: \"x\" } instance_group { count: 2 }");
    let service = Service::new(folder, &fake);
    while fake.launches() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let early = service.models.list().remove(0);
    assert!(early.inputs.is_empty() && early.outputs.is_empty(), "{early:?}");
    let response = service.get("/v2/models/m").await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn unused_fields_of_tritons_configuration_are_in_the_index_and_labels_come_from_their_file() {
    let config = r#"max_batch_size: 4 input { name: "x" dims: [2, 2, 1] } instance_group { count: 2 }
                    output { name: "y" dims: 4 label_filename: "labels.txt" }"#;
    let folder = Folder::new()
        .with("m/1/model.onnx", onnx::of_one("x", "y"))
        .with("m/labels.txt", "cat\r\ndog\nbird\nfish\n\n")
        .with("m/config.pbtxt", config);
    let service = Service::new(folder, &Fake::default()).warm().await;
    let before = service.models.list().remove(0);
    assert_eq!(before.labels(), ["cat", "dog", "bird", "fish"]);
    assert_eq!(before.max_batch_size, 4);
    let index = service.models.index().await;
    assert_eq!(
        (index[0].state, index[0].reason.as_str()),
        (ModelState::Ready, "config.pbtxt: not used: instance_group")
    );
    std::fs::write(service.folder.path().join("m/labels.txt"), "a\nb\nc\nd").unwrap();
    service.models.load("m").await.unwrap();
    let after = service.models.list().remove(0);
    assert_eq!(after.labels(), ["a", "b", "c", "d"]);
    assert_ne!(after.digest, before.digest, "labels belong to the digest");
}

#[tokio::test]
async fn a_model_that_model_name_does_not_select_is_reported_and_can_be_loaded() {
    let folder = Folder::new().with("a.onnx", "").with("b.onnx", "");
    let selection = Selection::Names(vec!["a".to_owned()]);
    let service = Service::with_selection(folder, &Fake::default(), &selection).warm().await;
    let index = service.models.index().await;
    assert_eq!(index[1].reason, "MODEL_NAME=a does not select it");
    let list = service.get("/models").await.json();
    assert_eq!(list["unselected"], json!({"model_name": "a", "models": ["b"]}));
    let response = service.get("/v2/models/b").await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert_eq!(
        response.json()["error"],
        "b is not served: MODEL_NAME=a does not select it. Add it there and restart, or load it with POST \
         /v2/repository/models/b/load."
    );
    service.models.load("b").await.unwrap();
    assert_eq!(service.get("/v2/models/b").await.status, StatusCode::OK);
    assert_eq!(service.get("/models").await.json()["unselected"]["models"], json!([]));
}

#[tokio::test]
async fn a_loader_that_panics_leaves_no_model_loading_for_ever() {
    /// Panics when it is cloned for the second time: by the loader, for the pool.
    struct Broken(Arc<AtomicUsize>);

    impl Clone for Broken {
        fn clone(&self) -> Self {
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "as this test wants it");
            Self(Arc::clone(&self.0))
        }
    }

    impl Launcher for Broken {
        type Session = Fake;

        async fn launch(&self, _: &SessionConfig) -> Result<(SessionInfo, Fake), StartError> {
            unreachable!("it is never started")
        }
    }

    let service = Service::new(Folder::new().with("m.onnx", ""), &Broken(Arc::default()));
    while service.models.list()[0].state == ModelState::Loading {
        sleep(Duration::from_millis(1)).await;
    }
    let response = service.get("/health/ready").await;
    assert_eq!(response.json()["reason"], "m: internal error; see the server log");
}

#[tokio::test]
async fn a_broken_model_is_reported_and_does_not_affect_others() {
    let settings = r#"{"inputs": [{"name": "y"}]}"#;
    let folder = Folder::new()
        .with("contradicts/model.onnx", "")
        .with("contradicts/model-settings.json", settings)
        .with("garbage.onnx", "\u{7f}\u{7f}garbage")
        .with("good.onnx", "");
    let service = Service::new(folder, &Fake::default());
    let mut models = service.get("/models").await.json();
    while models["models"].as_array().unwrap().iter().any(|model| model["state"] == "LOADING") {
        sleep(Duration::from_millis(5)).await;
        models = service.get("/models").await.json();
    }
    let reasons: Vec<_> = models["models"].as_array().unwrap().iter().map(|model| model["reason"].clone()).collect();
    assert_eq!(
        reasons,
        [
            json!("model-settings.json: inputs[0].name: \"y\" is not in the graph, which has: x"),
            json!("the file is not an ONNX model, or it is damaged"),
            json!(null)
        ]
    );
    let body = r#"{"image_arr": [[0.5, 0], [0, 0]]}"#;
    assert_eq!(service.post_json("/predict_array/good", body).await.status, StatusCode::OK);
    assert_eq!(service.post_json("/predict_array/garbage", body).await.problem().0, 503);
}

#[tokio::test]
async fn a_model_that_breaks_later_makes_the_service_unready_only_if_it_was_the_last() {
    let fake = Fake::default();
    let service = Service::new(Folder::new().with("m.onnx", ""), &fake).warm().await;
    fake.failures.lock().unwrap().push_back(StartError::Crashed("no memory".to_owned()));
    fake.kill.notify_one();
    while service.get("/health/ready").await.status == StatusCode::OK {
        sleep(Duration::from_millis(1)).await;
    }
    assert_ne!(service.get("/health/ready").await.json()["models"][0]["state"], "READY");
    service.warm().await;
}

#[tokio::test]
async fn a_readiness_hold_makes_the_service_unready() {
    let service = Service::new(Folder::new().with("m.onnx", ""), &Fake::default()).warm().await;
    let stopping = service.readiness.hold("stopping");
    let response = service.get("/health/ready").await;
    assert_eq!((response.status, &response.json()["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("stopping")));
    drop(stopping);
    assert_eq!(service.get("/health/ready").await.status, StatusCode::OK);
}
