//! Models are added, changed and removed while the service runs.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use model_api::error::Error;
use model_api::metrics::DeviceLabels;
use model_api::registry::ModelRegistry;
use model_api::scheduler::Priority;
use model_api::session::{Launcher, SessionConfig, SessionInfo, StartError};
use open_inference::{ModelIndex, ModelState};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::support::fake::{Fake, input};
use crate::support::folder::Folder;
use crate::support::router::Service;

/// A minimal graph: `ir_version` alone, so that each number is another model.
fn graph(number: u8) -> [u8; 2] {
    [8, number]
}

/// Starts a session only when the test permits it.
#[derive(Clone)]
struct Gated {
    fake: Fake,
    gate: Arc<Semaphore>,
}

impl Gated {
    fn open_for(starts: usize) -> Self {
        Self { fake: Fake::default(), gate: Arc::new(Semaphore::new(starts)) }
    }
}

impl Launcher for Gated {
    type Session = Fake;

    async fn launch(&self, session_config: &SessionConfig) -> Result<(SessionInfo, Fake), StartError> {
        self.gate.acquire().await.unwrap().forget();
        self.fake.launch(session_config).await
    }
}

fn write(service: &Service, name: &str, content: impl AsRef<[u8]>) {
    let path = service.folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn default_of(models: &ModelRegistry, name: &str) -> String {
    models.get(name, None).map_or_else(|error| error.to_string(), |model| model.version.clone())
}

fn failure(outcome: Result<(), Error>) -> (u16, String) {
    let error = outcome.unwrap_err();
    (error.status().0.as_u16(), error.to_string())
}

async fn index(models: &ModelRegistry) -> Vec<(String, String, ModelState, String)> {
    let line = |ModelIndex { name, version, state, reason, .. }| (name, version, state, reason);
    models.index().await.into_iter().map(line).collect()
}

async fn until(what: impl Fn() -> bool) {
    let happened = async {
        while !what() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(20), happened).await.expect("the condition holds in time");
}

// ---- Versions ----

#[tokio::test]
async fn every_version_is_served_and_the_largest_is_the_default() {
    let folder = Folder::new().with("m/2/model.onnx", graph(2)).with("m/10/model.onnx", graph(10));
    let service = Service::new(folder.with("n.onnx", ""), &Fake::default()).warm().await;
    let models = &service.models;
    assert_eq!(default_of(models, "m"), "10");
    assert_eq!(models.get("m", Some("2")).unwrap().version, "2");
    assert_eq!(models.versions("m"), ["2", "10"]);
    let listed: Vec<_> = models.list().into_iter().map(|model| (model.name, model.version, model.is_default)).collect();
    let line = |name: &str, version: &str, is_default| (name.to_owned(), version.to_owned(), is_default);
    assert_eq!(listed, [line("m", "2", false), line("m", "10", true), line("n", "1", true)]);
    let unknown = models.get("m", Some("3")).err().unwrap();
    assert_eq!(unknown.status().0, StatusCode::NOT_FOUND);
    assert_eq!(unknown.to_string(), "m has no version \"3\"; available versions: 2, 10.");
    let unknown = models.get("x", None).err().unwrap();
    assert_eq!(unknown.to_string(), "There is no model \"x\"; available models: m, n.");
}

#[tokio::test]
async fn a_new_version_is_warmed_up_beside_the_old_one_and_then_replaces_it() {
    let gated = Gated::open_for(1);
    let service = Service::new(Folder::new().with("m/1/model.onnx", graph(1)), &gated).warm().await;
    write(&service, "m/2/model.onnx", graph(2));
    let loading = tokio::spawn({
        let models = Arc::clone(&service.models);
        async move { models.load("m").await }
    });
    until(|| service.models.list().len() == 2).await;
    assert_eq!((default_of(&service.models, "m"), service.models.is_ready()), ("1".to_owned(), true));
    assert!(service.models.get("m", Some("2")).is_err(), "it has never been warm");
    assert_eq!(index(&service.models).await[1].2, ModelState::Loading);
    gated.gate.add_permits(1);
    loading.await.unwrap().unwrap();
    assert_eq!((default_of(&service.models, "m"), service.models.versions("m").len()), ("2".to_owned(), 2));
}

#[tokio::test]
async fn at_the_start_an_older_version_is_not_the_default_because_it_was_warm_sooner() {
    let gated = Gated::open_for(1);
    let folder = Folder::new().with("m/1/model.onnx", graph(1)).with("m/2/model.onnx", graph(2));
    let service = Service::new(folder, &gated);
    until(|| service.models.versions("m").len() == 1).await;
    let first = service.models.versions("m").remove(0);
    let default = service.models.get("m", None).map(|model| model.version.clone());
    assert_eq!((default.is_ok(), service.models.is_ready()), (first == "2", false));
    gated.gate.add_permits(1);
    assert_eq!(default_of(&service.warm().await.models, "m"), "2");
}

// ---- Changes ----

#[tokio::test]
async fn a_changed_version_replaces_the_old_one_and_requests_in_flight_finish_on_the_old_one() {
    let service = Service::new(Folder::new().with("m/model.onnx", graph(1)), &Fake::default()).warm().await;
    let old = service.models.get("m", None).unwrap();
    write(&service, "m/model.onnx", graph(2));
    service.models.load("m").await.unwrap();
    let new = service.models.get("m", None).unwrap();
    assert_ne!(old.digest, new.digest);
    assert!(
        old.run(input(0.5), Priority::Interactive).await.is_ok()
            && new.run(input(0.5), Priority::Interactive).await.is_ok()
    );
    let ended = old.stopped();
    drop(old);
    timeout(Duration::from_secs(5), ended).await.expect("its sessions end with the last request");
    assert!(new.run(input(0.5), Priority::Interactive).await.is_ok());
}

#[tokio::test]
async fn a_load_of_unchanged_files_starts_no_session() {
    let fake = Fake::default();
    let service = Service::new(Folder::new().with("m/model.onnx", graph(1)), &fake).warm().await;
    write(&service, "m/README.md", "words");
    write(&service, "m/model.onnx", graph(1));
    service.models.load("m").await.unwrap();
    assert_eq!(fake.launches(), 1);
    write(&service, "m/model-settings.json", r#"{"parameters": {"extra": {"title": "New"}}}"#);
    service.models.load("m").await.unwrap();
    assert_eq!((fake.launches(), &*service.models.list()[0].title), (2, "New"));
}

#[tokio::test]
async fn a_broken_change_keeps_the_last_working_version_and_reports_the_reason() {
    let fake = Fake::default();
    let service = Service::new(Folder::new().with("m/3/model.onnx", graph(1)), &fake).warm().await;
    let digest = service.models.get("m", None).unwrap().digest.clone();
    for (file, content, reason) in [
        ("m/3/model.onnx", "\u{7f}\u{7f}garbage", "the file is not an ONNX model, or it is damaged"),
        ("m/3/model-settings.json", "{", "model-settings.json: EOF while parsing an object at line 1 column 1"),
        (
            "m/3/model-settings.json",
            r#"{"inputs": [{"name": "z"}]}"#,
            "model-settings.json: inputs[0].name: \"z\" is not in the graph, which has: x",
        ),
    ] {
        write(&service, "m/3/model.onnx", graph(1));
        write(&service, file, content);
        let message = format!("m cannot be loaded: version 3: {reason}.");
        assert_eq!(failure(service.models.load("m").await), (422, message));
        let served = service.models.get("m", None).unwrap();
        assert!(served.digest == digest && served.run(input(0.5), Priority::Interactive).await.is_ok());
        let reason = format!(
            "version 3 on disk cannot be served: {reason}; the last working version ({digest}) is still served"
        );
        let line = ("m".to_owned(), "3".to_owned(), ModelState::Ready, reason);
        assert_eq!((index(&service.models).await, service.models.is_ready()), (vec![line], true));
    }
    fs::remove_file(service.folder.path().join("m/3/model-settings.json")).unwrap();
    service.models.load("m").await.unwrap();
    assert_eq!(index(&service.models).await[0].3, "", "fixed");
}

#[tokio::test]
async fn a_graph_that_does_not_run_is_tried_once_and_a_crash_three_times() {
    let fake = Fake::default();
    let service = Service::new(Folder::new().with("m/model.onnx", graph(1)), &fake).warm().await;
    write(&service, "m/model.onnx", graph(2));
    fake.failures.lock().unwrap().push_back(StartError::Model("no such operator".to_owned()));
    assert_eq!(failure(service.models.load("m").await).1, "m cannot be loaded: version 1: no such operator.");
    assert_eq!(fake.launches(), 2);
    fake.failures.lock().unwrap().extend([const { StartError::Crashed(String::new()) }; 2]);
    service.models.load("m").await.unwrap();
    assert_eq!(fake.launches(), 5, "two that died, and one that did not");
}

#[tokio::test]
async fn removed_versions_are_unloaded_except_the_last_working_one() {
    let folder = Folder::new().with("m/1/model.onnx", graph(1)).with("m/2/model.onnx", graph(2)).with("n.onnx", "");
    let service = Service::new(folder, &Fake::default()).warm().await;
    let path = service.folder.path().to_owned();
    fs::remove_dir_all(path.join("m/2")).unwrap();
    service.models.load("m").await.unwrap();
    assert_eq!(service.models.versions("m"), ["1"]);
    fs::remove_file(path.join("m/1/model.onnx")).unwrap();
    let (status, message) = failure(service.models.load("m").await);
    assert_eq!((status, service.models.versions("m")), (422, vec!["1".to_owned()]));
    assert!(message.starts_with("m cannot be loaded: its folder has no model.onnx"), "{message}");
    fs::remove_dir_all(path.join("m")).unwrap();
    let gone = (404, "There is no model \"m\" in the repository; available models: n.".to_owned());
    assert_eq!(failure(service.models.load("m").await), gone);
    let (_, version, state, reason) = index(&service.models).await.remove(0);
    assert_eq!((&*version, state), ("1", ModelState::Ready));
    assert!(reason.contains("it is gone from the repository; the last working version"), "{reason}");
    service.models.unload("m").await.unwrap();
    assert_eq!(service.models.get("m", None).err().unwrap().status().0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_models_in_the_repository_can_be_loaded_and_invalid_files_give_a_reason() {
    let folder = Folder::new().with("m.onnx", "").with("empty/README.md", "").with("two words/model.onnx", "");
    let service = Service::new(folder, &Fake::default()).warm().await;
    for name in ["x", "", ".", "..", "../m", "m/..", "/etc/passwd", "..%2fm", "m\0", &"m".repeat(300), "ｍ"] {
        let (status, message) = failure(service.models.load(name).await);
        let shown: String = name.chars().take(128).collect();
        let expected = format!("There is no model {shown:?} in the repository; available models: m.");
        assert_eq!((status, message), (404, expected), "{name:?}");
    }
    write(&service, "garbage/model.onnx", [0xff; 64]);
    let (status, message) = failure(service.models.load("garbage").await);
    assert_eq!(
        (status, &*message),
        (422, "garbage cannot be loaded: version 1: the file is not an ONNX model, or it is damaged.")
    );
    let (status, message) = failure(service.models.load("empty").await);
    assert!(status == 422 && message.starts_with("empty cannot be loaded: its folder has no model.onnx"), "{message}");
    let (status, message) = failure(service.models.load("two words").await);
    assert!(status == 422 && message.contains("a model's name consists of"), "{message}");
    let reasons: Vec<_> = index(&service.models).await.into_iter().map(|(name, _, state, _)| (name, state)).collect();
    let unavailable = |name: &str| (name.to_owned(), ModelState::Unavailable);
    assert_eq!(
        reasons,
        [unavailable("empty"), unavailable("garbage"), ("m".to_owned(), ModelState::Ready), unavailable("two words")]
    );
    assert!(service.models.is_ready(), "what is loaded later makes nothing unready");
    assert_eq!(service.models.get_only().unwrap().name, "m", "a broken one makes no request ambiguous");
}

#[tokio::test]
async fn concurrent_loads_load_once_and_continue_after_the_client_disconnects() {
    let gated = Gated::open_for(1);
    let service = Service::new(Folder::new().with("m/model.onnx", graph(1)), &gated).warm().await;
    write(&service, "m/model.onnx", graph(2));
    let impatient = timeout(Duration::from_millis(50), service.models.load("m")).await;
    assert!(impatient.is_err());
    let (first, second) = (service.models.load("m"), service.models.load("m"));
    gated.gate.add_permits(9);
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(gated.fake.launches(), 2);
}

// ---- Unloading ----

#[tokio::test]
async fn an_unloaded_model_is_gone_immediately_and_requests_in_flight_finish() {
    let folder = Folder::new().with("m/model.onnx", graph(1)).with("n.onnx", "");
    let service = Service::new(folder, &Fake::default()).warm().await;
    let models = Arc::clone(&service.models);
    let in_flight = models.get("m", None).unwrap();
    let unloading = tokio::spawn({
        let models = Arc::clone(&models);
        async move { models.unload("m").await }
    });
    until(|| models.get("m", None).is_err()).await;
    let line = |state, reason: &str| ("m".to_owned(), "1".to_owned(), state, reason.to_owned());
    let draining = line(ModelState::Unloading, "requests in flight are still being served");
    assert_eq!(index(&models).await[0], draining);
    assert!(in_flight.run(input(0.5), Priority::Interactive).await.is_ok() && !unloading.is_finished());
    drop(in_flight);
    unloading.await.unwrap().unwrap();
    assert_eq!(index(&models).await[0], line(ModelState::Unavailable, "it was unloaded"));
    assert_eq!(failure(models.unload("m").await), (404, "There is no model \"m\"; available models: n.".to_owned()));
    assert!(models.is_ready(), "it counts no longer");
    models.load("m").await.unwrap();
    assert!(models.get("m", None).unwrap().run(input(0.5), Priority::Interactive).await.is_ok());
}

#[tokio::test]
async fn a_service_without_models_is_not_ready() {
    let service = Service::new(Folder::new().with("m.onnx", ""), &Fake::default()).warm().await;
    service.models.unload("m").await.unwrap();
    let response = service.get("/health/ready").await;
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"no model is loaded".into())
    );
    assert_eq!(
        service.models.get("m", None).err().unwrap().to_string(),
        "There is no model \"m\"; available models: none."
    );
}

#[tokio::test]
async fn an_unload_cancels_a_load_in_progress() {
    let gated = Gated::open_for(1);
    let service = Service::new(Folder::new().with("m/model.onnx", graph(1)), &gated).warm().await;
    write(&service, "m/model.onnx", graph(2));
    let models = Arc::clone(&service.models);
    let loading = tokio::spawn({
        let models = Arc::clone(&models);
        async move { models.load("m").await }
    });
    sleep(Duration::from_millis(50)).await;
    models.unload("m").await.unwrap();
    assert_eq!(failure(loading.await.unwrap()).1, "m cannot be loaded: it was unloaded meanwhile.");
    gated.gate.add_permits(9);
    sleep(Duration::from_millis(50)).await;
    assert!(models.get("m", None).is_err());
    models.load("m").await.unwrap();
    assert_eq!(default_of(&models, "m"), "1");
}

#[tokio::test]
async fn a_model_that_is_loaded_again_while_its_unload_waits_keeps_its_metrics() {
    let gated = Gated::open_for(1);
    let service = Service::new(Folder::new().with("m.onnx", ""), &gated).warm().await;
    let in_flight = service.models.get("m", None).unwrap();
    let (unloading, loading) = (Arc::clone(&service.models), Arc::clone(&service.models));
    let unloading = tokio::spawn(async move { unloading.unload("m").await });
    until(|| service.models.get("m", None).is_err()).await;
    let loading = tokio::spawn(async move { loading.load("m").await });
    sleep(Duration::from_millis(50)).await;
    drop(in_flight);
    unloading.await.unwrap().unwrap();
    gated.gate.add_permits(1);
    loading.await.unwrap().unwrap();
    let labels = DeviceLabels { model: "m".to_owned(), device: "cpu".to_owned() };
    assert_eq!(service.metrics.devices.get_or_create(&labels).get(), 1);
}

// ---- Readiness ----

#[tokio::test]
async fn a_required_model_blocks_readiness_until_it_is_fixed() {
    let folder = Folder::new().with("broken/model.onnx", [0xff]).with("good.onnx", "");
    let service = Service::new(folder, &Fake::default());
    until(|| service.models.list().iter().all(|model| model.state != ModelState::Loading)).await;
    let reason = "broken: the file is not an ONNX model, or it is damaged";
    assert_eq!(service.models.not_ready_reason().as_deref(), Some(reason));
    write(&service, "broken/model.onnx", graph(1));
    service.models.load("broken").await.unwrap();
    assert_eq!(service.models.not_ready_reason(), None);
    write(&service, "broken/model.onnx", [0xff]);
    assert!(service.models.load("broken").await.is_err());
    assert_eq!(service.models.not_ready_reason(), None, "it has been warm once");
}

#[tokio::test]
async fn a_broken_newest_version_is_not_the_default_at_the_start() {
    let folder = Folder::new().with("m/1/model.onnx", graph(1)).with("m/2/model.onnx", [0xff]);
    let service = Service::new(folder, &Fake::default()).warm().await;
    assert_eq!(default_of(&service.models, "m"), "1");
    let lines = index(&service.models).await;
    assert_eq!(
        (lines[1].2, &*lines[1].3),
        (ModelState::Unavailable, "the file is not an ONNX model, or it is damaged")
    );
}

#[tokio::test]
async fn a_model_of_the_start_is_retried_until_it_starts() {
    let fake = Fake::failing([StartError::Model("no memory".to_owned())]);
    let service = Service::new(Folder::new().with("m.onnx", ""), &fake);
    until(|| service.models.not_ready_reason().as_deref() == Some("m: no memory")).await;
    service.warm().await;
}

#[tokio::test]
async fn a_failed_load_does_not_end_the_retries() {
    let fake = Fake::failing([const { StartError::DeviceUnavailable(String::new()) }; 4]);
    let service = Service::new(Folder::new().with("m.onnx", ""), &fake);
    until(|| service.models.not_ready_reason().is_some_and(|reason| reason.contains("DEVICE=cuda"))).await;
    assert_eq!(failure(service.models.load("m").await).0, 422);
    service.warm().await;
}
