use std::ops::Deref;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use contract::{ModelDescription, ModelList, Step, Unselected};
use open_inference::{ModelMetadata, Platform};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::error::Error;
use crate::model_client::ModelClient;
use crate::queue_client::QueueClient;

/// How old the list of models may be.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// Which models there are, as `model_api` last said. It outlives `model_api`: keys are made from the digests in it,
/// so what is remembered is still found while nobody can compute.
#[derive(Clone, Default)]
pub struct Catalog {
    /// Shared and not copied by whoever looks: descriptions may have thousands of labels.
    known: Arc<RwLock<Arc<Known>>>,
    stale: Arc<Notify>,
    /// Lists are asked for one after the other, so that an older one never replaces a newer.
    asking: Arc<Mutex<()>>,
}

/// What is known at one moment.
#[derive(Clone, Default)]
pub struct Known {
    /// Every version of every model; the names in alphabetical order.
    pub models: Arc<Vec<ModelDescription>>,
    /// The same in the protocol's words, each at the same place.
    metadata: Arc<[Arc<ModelMetadata>]>,
    /// Of those the ones that `model_api` serves.
    of_model_api: Vec<ModelDescription>,
    /// Of those the ones that only a queue serves.
    of_queue: Vec<ModelDescription>,
    /// Whether `model_api` gave the last list it was asked for.
    pub reachable: bool,
    /// Whether it said in that list that it is ready.
    pub ready: bool,
    /// What its `MODEL_NAME` does not select.
    unselected: Unselected,
}

/// A model version in the list as it was at one moment. Thousands of labels are not copied for each question.
#[derive(Clone, Debug)]
pub struct Listed {
    list: Arc<Vec<ModelDescription>>,
    metadata: Arc<[Arc<ModelMetadata>]>,
    at: usize,
}

impl Listed {
    /// In the protocol's words.
    pub fn metadata(&self) -> Arc<ModelMetadata> {
        Arc::clone(&self.metadata[self.at])
    }
}

impl Deref for Listed {
    type Target = ModelDescription;

    fn deref(&self) -> &ModelDescription {
        &self.list[self.at]
    }
}

impl From<ModelDescription> for Listed {
    fn from(model: ModelDescription) -> Self {
        Self { metadata: [Arc::new(model.metadata())].into(), list: Arc::new(vec![model]), at: 0 }
    }
}

impl Known {
    /// Of each model the version that answers where none is named.
    pub fn defaults(&self) -> impl Iterator<Item = &ModelDescription> {
        self.models.iter().filter(|model| model.is_default)
    }

    /// Of every version whose files have been read, what the protocol says of it.
    pub fn metadata(&self) -> Vec<Arc<ModelMetadata>> {
        let read = self.metadata.iter().filter(|model| !model.inputs.is_empty() || !model.outputs.is_empty());
        read.cloned().collect()
    }

    /// The versions of `name` that have been warm, as `model_api` orders them.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let is_served = |model: &&ModelDescription| has_been_warm(model) || model.platform == Platform::Queue;
        let served = self.models.iter().filter(|model| model.name == name).filter(is_served);
        served.map(|model| model.version.clone()).collect()
    }

    /// Where the default version of the model `name` stands, or of the only one when there is no name.
    fn default_of(&self, name: Option<&str>) -> Result<usize, Error> {
        let names = || self.defaults().map(|model| model.name.clone()).collect::<Vec<_>>();
        if let Some(name) = name {
            return match self.models.iter().position(|model| model.is_default && model.name == name) {
                Some(at) => Ok(at),
                None if self.defaults().next().is_none() && !self.reachable => Err(Error::ModelUnreachable),
                None if self.unselected.models.contains(name) => {
                    let model_name = self.unselected.model_name.clone();
                    Err(Error::Unselected { model: name.to_owned(), model_name })
                }
                None => Err(Error::UnknownModel { asked: shortened(name), known: names() }),
            };
        }
        let defaults: Vec<_> = self.models.iter().enumerate().filter(|(_, model)| model.is_default).collect();
        // A broken model that is put beside another must not make the other's requests ambiguous.
        let warm: Vec<_> = defaults.iter().filter(|(_, model)| has_been_warm(model)).collect();
        match (warm.as_slice(), defaults.as_slice()) {
            ([(only, _)], _) | ([], [(only, _)]) => Ok(*only),
            (_, []) if !self.reachable => Err(Error::ModelUnreachable),
            (_, []) => Err(Error::UnknownModel { asked: String::new(), known: Vec::new() }),
            _ => Err(Error::NameAModel(names())),
        }
    }

    /// Where this version of the model `name` stands.
    fn version_of(&self, name: &str, version: &str) -> Result<usize, Error> {
        let of_this_name = || self.models.iter().filter(|model| model.name == name);
        let found = self.models.iter().position(|model| model.name == name && model.version == version);
        found.ok_or_else(|| Error::UnknownVersion {
            model: shortened(name),
            asked: shortened(version),
            known: of_this_name().map(|model| model.version.clone()).collect(),
        })
    }

    fn listed(&self, at: usize) -> Listed {
        Listed { list: Arc::clone(&self.models), metadata: Arc::clone(&self.metadata), at }
    }

    /// A model whose files are still being read has no digest yet: its answers are found under the one it had. One that is being
    /// started again has not been opened, and what its graph shows of its outputs is missing: that is as it was as well.
    fn remembering(&self, model: ModelDescription) -> ModelDescription {
        let before = self.models.iter().find(|before| before.name == model.name && before.version == model.version);
        match before {
            Some(before) if model.digest.is_empty() || model.digest == before.digest && !has_been_warm(&model) => {
                let ModelDescription { state, reason, device, .. } = model;
                ModelDescription { state, reason, device, ..before.clone() }
            }
            _ => model,
        }
    }

    /// A name that both have is `model_api`'s.
    fn put_together(&mut self) {
        let is_new = |model: &&ModelDescription| self.of_model_api.iter().all(|other| other.name != model.name);
        let mut models: Vec<_> = self.of_model_api.iter().chain(self.of_queue.iter().filter(is_new)).cloned().collect();
        // Stable: the versions of a model stay in their order.
        models.sort_by(|a, b| a.name.cmp(&b.name));
        spread_not_cached(&mut models);
        if *self.models != models {
            self.metadata = models.iter().map(|model| Arc::new(model.metadata())).collect();
            self.models = Arc::new(models);
        }
    }

    /// Why no traffic should come; `None` when it may.
    pub fn reason(&self) -> Option<String> {
        if !self.reachable {
            return Some("model_api does not answer".to_owned());
        }
        if self.ready {
            return None;
        }
        if self.models.is_empty() {
            return Some("no model is served".to_owned());
        }
        let unready = self.of_model_api.iter().find(|model| !model.is_ready());
        Some(unready.map_or("model_api is not ready".to_owned(), |model| {
            format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("is being loaded"))
        }))
    }
}

impl Catalog {
    /// What is known now.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The default version of the model `name`, or of the only one when there is no name.
    pub fn find(&self, name: Option<&str>) -> Result<Listed, Error> {
        let known = self.known();
        let at = known.default_of(name)?;
        Ok(known.listed(at))
    }

    /// This version of the model `name`; the default one where none is named.
    pub fn find_version(&self, name: &str, version: Option<&str>) -> Result<Listed, Error> {
        let known = self.known();
        let default = known.default_of(Some(name))?;
        let at = match version {
            Some(version) => known.version_of(name, version)?,
            None => default,
        };
        Ok(known.listed(at))
    }

    /// Says that an answer came from a model that is not in the list.
    pub fn refresh_soon(&self) {
        self.stale.notify_one();
    }

    /// Asks `model_api` for ever.
    pub async fn follow(self, client: ModelClient) {
        loop {
            self.refresh(&client).await;
            let _ = timeout(REFRESH_EVERY, self.stale.notified()).await;
            // However many answers say that the list is old, it is asked for at most ten times a second.
            sleep(REFRESH_EVERY / 10).await;
        }
    }

    /// Asks `model_api` now. What was true before this was called is known when it comes back.
    pub async fn refresh(&self, client: &ModelClient) {
        let _asking = self.asking.lock().await;
        self.learn(client.models().await);
    }

    /// Asks the queue for ever which models it serves.
    pub async fn follow_queue(self, client: QueueClient) {
        loop {
            // What cannot be asked for has not changed as far as is known; who asks such a model is told of the queue.
            if let Ok(models) = client.models().await {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                let known = Arc::make_mut(&mut known);
                known.of_queue = models;
                known.put_together();
            }
            sleep(REFRESH_EVERY).await;
        }
    }

    /// Replaces what is known; an error keeps the models and marks them as not reachable.
    pub fn learn(&self, list: Result<ModelList, Error>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let known = Arc::make_mut(&mut known);
        let was_reachable = known.reachable;
        known.reachable = list.is_ok();
        if let Ok(list) = list {
            known.ready = list.ready;
            known.unselected = list.unselected;
            known.of_model_api = list.models.into_iter().map(|model| known.remembering(model)).collect();
            known.put_together();
        }
        match (was_reachable, known.reachable) {
            (false, true) => info!("model_api answers"),
            (true, false) => warn!("model_api does not answer; giving remembered answers only"),
            _ => {}
        }
    }
}

/// Marks each pipeline with a step that is not cached: its results are not cached either, for the reason of the first such
/// step. A step may be a pipeline itself.
fn spread_not_cached(models: &mut [ModelDescription]) {
    loop {
        let reason_of = |step: &Step| {
            let answers = |model: &&ModelDescription| match &step.version {
                Some(version) => model.version == *version,
                None => model.is_default,
            };
            models.iter().filter(|model| model.name == step.model).find(answers)?.not_cached
        };
        let inherited =
            models.iter().enumerate().filter(|(_, model)| model.not_cached.is_none()).find_map(|(at, model)| {
                let reason = model.pipeline.as_ref()?.steps.iter().find_map(reason_of)?;
                Some((at, reason))
            });
        let Some((at, reason)) = inherited else { return };
        models[at].not_cached = Some(reason);
    }
}

/// Whether a session of it has ever answered.
fn has_been_warm(model: &ModelDescription) -> bool {
    model.device.is_some()
}

/// What is said again in an error.
fn shortened(name: &str) -> String {
    name.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use contract::{Device, Pipeline};
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
    fn a_model_that_is_being_read_again_keeps_the_digest_it_had() {
        let catalog = Catalog::default();
        catalog.learn(Ok(list("sha256:1", ModelState::Ready)));
        catalog.learn(Ok(list("", ModelState::Loading)));
        let model = catalog.find(None).unwrap();
        assert_eq!((model.digest.as_str(), model.state), ("sha256:1", ModelState::Loading));
        assert_eq!(catalog.known().reason().unwrap(), "mnist: is being loaded");
        catalog.learn(Ok(list("sha256:2", ModelState::Ready)));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
        catalog.learn(Err(Error::ModelUnreachable));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
    }

    #[test]
    fn a_model_that_is_being_started_again_keeps_what_its_graph_has_shown() {
        let catalog = Catalog::default();
        let learn = |state, task| {
            let mut models = list("sha256:1", state);
            let mut output = TensorMetadata::new("y", Datatype::Fp32, &[-1, 2]);
            output.parameters.task = task;
            models.models[0].outputs = vec![output];
            let device = Device { name: "cpu".to_owned(), fallback_reason: None, runtime: "1".to_owned() };
            models.models[0].device = (state == ModelState::Ready).then_some(device);
            catalog.learn(Ok(models));
        };
        learn(ModelState::Ready, Some(Task::Classification));
        learn(ModelState::Loading, None);
        let model = catalog.find(None).unwrap();
        assert_eq!((model.outputs[0].parameters.task, model.state), (Some(Task::Classification), ModelState::Loading));
    }

    #[test]
    fn a_name_alone_is_the_default_version() {
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
        catalog.learn(Ok(ModelList { models: all, ready: true, unselected }));
        assert_eq!(catalog.find(None).unwrap().version, "2");
        assert_eq!(catalog.find_version("mnist", None).unwrap().version, "2");
        assert_eq!(catalog.find_version("mnist", Some("1")).unwrap().version, "1");
        let error = catalog.find_version("mnist", Some("3")).unwrap_err().to_string();
        assert_eq!(error, "mnist has no version \"3\"; there are 1, 2.");
        assert!(
            catalog.find_version("leukemia", Some("1")).unwrap_err().to_string().contains("there are broken, mnist")
        );
        assert_eq!(
            catalog.find(Some("left")).unwrap_err().to_string(),
            "left is not served: MODEL_NAME=mnist does not select it. Add it there and restart, or load it with \
             POST /v2/repository/models/left/load."
        );
    }

    #[test]
    fn a_pipeline_is_not_cached_where_a_step_at_any_depth_is_not() {
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
        catalog.learn(Ok(ModelList { models, ready: true, unselected: Unselected::default() }));
        let known = catalog.known();
        let not_cached: Vec<_> = known.models.iter().filter(|model| model.not_cached.is_some()).collect();
        let names: Vec<_> = not_cached.iter().map(|model| (&*model.name, &*model.version)).collect();
        assert_eq!(names, [("inner", "1"), ("outer", "1"), ("random", "2")]);
        assert_eq!(catalog.find(Some("outer")).unwrap().metadata().not_cached, Some(NotCached::Random));
    }
}
