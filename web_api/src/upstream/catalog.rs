//! Catalog: the models that `model_api` and external workers serve, refreshed by polling.
//!
//! The catalog outlives `model_api`. Cache keys are made from the digests in it, so cached results are found while nothing can be
//! computed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use contract::ModelList;
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::external_workers::ExternalWorkers;
use super::model_client::ModelClient;
use crate::error::Error;

pub use super::catalog_snapshot::{CatalogEntry, CatalogSnapshot};

/// Upper bound of the age of the catalog.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Lower bound of the time between two requests for the list of models, however many refreshes are requested.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The current [`CatalogSnapshot`]. Clones share it.
#[derive(Clone, Default)]
pub struct Catalog {
    /// Readers share the snapshot instead of copying it: descriptions may have thousands of labels.
    snapshot: Arc<RwLock<Arc<CatalogSnapshot>>>,
    refresh_requested: Arc<Notify>,
    /// Serialises requests for the list, so that an older list never replaces a newer one.
    refreshing: Arc<Mutex<()>>,
}

impl Catalog {
    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<CatalogSnapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds the default version of the model `name`, or of the only model if there is no name.
    pub fn find(&self, name: Option<&str>) -> Result<CatalogEntry, Error> {
        self.snapshot().find(name)
    }

    /// Finds a version of the model `name`; its default version if `version` is `None`.
    pub fn find_version(&self, name: &str, version: Option<&str>) -> Result<CatalogEntry, Error> {
        self.snapshot().find_version(name, version)
    }

    /// Requests a refresh, after a result has come from a model that is not in the catalog.
    pub fn request_refresh(&self) {
        self.refresh_requested.notify_one();
    }

    /// Polls `model_api`. Never returns.
    pub async fn poll(self, client: ModelClient) {
        loop {
            self.refresh(&client).await;
            let _ = timeout(POLL_INTERVAL, self.refresh_requested.notified()).await;
            sleep(MIN_POLL_INTERVAL).await;
        }
    }

    /// Fetches the list from `model_api` now. Changes from before the call are in the catalog when it returns.
    pub async fn refresh(&self, client: &ModelClient) {
        let _refreshing = self.refreshing.lock().await;
        self.apply(client.models().await);
    }

    /// Polls the announcements of external workers. Never returns.
    pub async fn poll_external_workers(self, workers: ExternalWorkers) {
        loop {
            // If the queue is unreachable, its models stay in the catalog. A request to one of them reports the reason.
            if let Ok(models) = workers.models().await {
                self.update(|snapshot| snapshot.set_external_models(models));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Replaces the models of `model_api`. An error keeps them and marks them as unreachable.
    pub fn apply(&self, list: Result<ModelList, Error>) {
        self.update(|snapshot| {
            let was_reachable = snapshot.reachable;
            snapshot.apply(list.ok());
            match (was_reachable, snapshot.reachable) {
                (false, true) => info!("model_api is reachable"),
                (true, false) => warn!("model_api is unreachable; only cached results are served"),
                _ => {}
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut CatalogSnapshot)) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut snapshot));
    }
}

#[cfg(test)]
mod tests {
    use contract::{Device, ModelDescription, Pipeline, Step, Unselected};
    use open_inference::{Datatype, ModelState, NotCached, Task, TensorMetadata};

    use super::*;

    fn list(digest: &str, state: ModelState) -> ModelList {
        let model = ModelDescription {
            title: format!("Title with {digest:?}"),
            digest: digest.to_owned(),
            ..ModelDescription::placeholder("mnist", "1", state, None)
        };
        ModelList { models: vec![model], ready: state == ModelState::Ready, unselected: Unselected::default() }
    }

    #[test]
    fn a_model_whose_files_are_read_again_keeps_its_digest() {
        let catalog = Catalog::default();
        catalog.apply(Ok(list("sha256:1", ModelState::Ready)));
        catalog.apply(Ok(list("", ModelState::Loading)));
        let model = catalog.find(None).unwrap();
        assert_eq!((model.digest.as_str(), model.state), ("sha256:1", ModelState::Loading));
        assert_eq!(catalog.snapshot().reason().unwrap(), "mnist: is being loaded");
        catalog.apply(Ok(list("sha256:2", ModelState::Ready)));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
        catalog.apply(Err(Error::ModelUnreachable));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
    }

    #[test]
    fn a_model_that_is_loaded_again_keeps_the_metadata_from_its_graph() {
        let catalog = Catalog::default();
        let apply = |state, task| {
            let mut models = list("sha256:1", state);
            let mut output = TensorMetadata::new("y", Datatype::Fp32, &[-1, 2]);
            output.parameters.task = task;
            models.models[0].outputs = vec![output];
            let device = Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1".to_owned() };
            models.models[0].device = (state == ModelState::Ready).then_some(device);
            catalog.apply(Ok(models));
        };
        apply(ModelState::Ready, Some(Task::Classification));
        apply(ModelState::Loading, None);
        let model = catalog.find(None).unwrap();
        assert_eq!((model.outputs[0].parameters.task, model.state), (Some(Task::Classification), ModelState::Loading));
    }

    #[test]
    fn a_name_without_a_version_selects_the_default_version() {
        let catalog = Catalog::default();
        let version = |name: &str, version: &str, is_default| ModelDescription {
            is_default,
            device: Some(Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1".to_owned() }),
            ..ModelDescription::placeholder(name, version, ModelState::Ready, None)
        };
        let broken =
            ModelDescription::placeholder("broken", "1", ModelState::Unavailable, Some("is no graph".to_owned()));
        let all = vec![broken, version("mnist", "1", false), version("mnist", "2", true)];
        let models = ["left", "out"].map(str::to_owned).into();
        let unselected = Unselected { model_name: "mnist".to_owned(), models };
        catalog.apply(Ok(ModelList { models: all, ready: true, unselected }));
        assert_eq!(catalog.find(None).unwrap().version, "2");
        assert_eq!(catalog.find_version("mnist", None).unwrap().version, "2");
        assert_eq!(catalog.find_version("mnist", Some("1")).unwrap().version, "1");
        let error = catalog.find_version("mnist", Some("3")).unwrap_err().to_string();
        assert_eq!(error, "mnist has no version \"3\"; available versions: 1, 2.");
        assert!(
            catalog
                .find_version("leukemia", Some("1"))
                .unwrap_err()
                .to_string()
                .contains("available models: broken, mnist")
        );
        assert_eq!(
            catalog.find(Some("left")).unwrap_err().to_string(),
            "left is not served: MODEL_NAME=mnist does not select it. Add it there and restart, or load it with \
             POST /v2/repository/models/left/load."
        );
    }

    #[test]
    fn a_pipeline_is_not_cached_if_a_step_at_any_depth_is_not_cached() {
        let model = |name: &str, version: &str, is_default, not_cached| ModelDescription {
            is_default,
            not_cached,
            ..ModelDescription::placeholder(name, version, ModelState::Ready, None)
        };
        let pipeline = |name: &str, steps: &[(&str, Option<&str>)]| {
            let step = |&(model, version): &(&str, Option<&str>)| Step {
                name: model.to_owned(),
                model: model.to_owned(),
                version: version.map(str::to_owned),
                inputs: Vec::new(),
            };
            let steps = steps.iter().map(step).collect();
            let pipeline = Pipeline { settings_digest: String::new(), steps, outputs: Vec::new() };
            ModelDescription { pipeline: Some(pipeline), ..model(name, "1", true, None) }
        };
        let models = vec![
            pipeline("outer", &[("stable", None), ("inner", None)]),
            pipeline("inner", &[("random", Some("2"))]),
            pipeline("other-version", &[("random", None), ("missing", None)]),
            model("random", "1", true, None),
            model("random", "2", false, Some(NotCached::Random)),
            model("stable", "1", true, None),
        ];
        let catalog = Catalog::default();
        catalog.apply(Ok(ModelList { models, ready: true, unselected: Unselected::default() }));
        let snapshot = catalog.snapshot();
        let not_cached: Vec<_> = snapshot.models.iter().filter(|model| model.not_cached.is_some()).collect();
        let names: Vec<_> = not_cached.iter().map(|model| (&*model.name, &*model.version)).collect();
        assert_eq!(names, [("inner", "1"), ("outer", "1"), ("random", "2")]);
        assert_eq!(catalog.find(Some("outer")).unwrap().metadata().not_cached, Some(NotCached::Random));
    }
}
