//! Immutable snapshot of the catalog: lookups by name and version, and the merge of its sources.

use std::ops::Deref;
use std::sync::Arc;

use contract::{ModelDescription, ModelList, Step, Unselected};
use open_inference::{ModelMetadata, Platform};

use crate::error::Error;

/// Characters of a name that an error repeats.
const MAX_NAME_IN_ERROR: usize = 128;

/// The models at one moment.
#[derive(Clone, Default)]
pub struct CatalogSnapshot {
    /// All versions of all models, in alphabetical order of the names.
    pub models: Arc<Vec<ModelDescription>>,
    /// Protocol metadata of `models`, with the same indices.
    metadata: Arc<[Arc<ModelMetadata>]>,
    /// Models of `model_api`.
    model_api_models: Vec<ModelDescription>,
    /// Models of external workers.
    external_models: Vec<ModelDescription>,
    /// Whether `model_api` returned the last list that was requested.
    pub reachable: bool,
    /// Whether `model_api` was ready according to that list.
    pub ready: bool,
    /// Models that `MODEL_NAME` of `model_api` does not select.
    unselected: Unselected,
}

/// A model version in a snapshot. Shares the snapshot's descriptions, so that no labels are copied per request.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    models: Arc<Vec<ModelDescription>>,
    metadata: Arc<[Arc<ModelMetadata>]>,
    index: usize,
}

impl CatalogEntry {
    /// Protocol metadata.
    pub fn metadata(&self) -> Arc<ModelMetadata> {
        Arc::clone(&self.metadata[self.index])
    }

    /// Fails if only the name of the model is known.
    pub fn require_loaded(self) -> Result<Self, Error> {
        if self.inputs.is_empty() && self.outputs.is_empty() {
            let reason = self.reason.clone().unwrap_or_else(|| "it is being loaded".to_owned());
            return Err(Error::ModelNotReady { model: self.name.clone(), reason });
        }
        Ok(self)
    }
}

impl Deref for CatalogEntry {
    type Target = ModelDescription;

    fn deref(&self) -> &ModelDescription {
        &self.models[self.index]
    }
}

impl From<ModelDescription> for CatalogEntry {
    fn from(model: ModelDescription) -> Self {
        Self { metadata: [Arc::new(model.metadata())].into(), models: Arc::new(vec![model]), index: 0 }
    }
}

impl CatalogSnapshot {
    /// The default version of each model.
    pub fn defaults(&self) -> impl Iterator<Item = &ModelDescription> {
        self.models.iter().filter(|model| model.is_default)
    }

    /// Protocol metadata of all versions whose files have been read.
    pub fn metadata(&self) -> Vec<Arc<ModelMetadata>> {
        let read = self.metadata.iter().filter(|model| !model.inputs.is_empty() || !model.outputs.is_empty());
        read.cloned().collect()
    }

    /// The versions of `name` that have been warm, in the order of `model_api`.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let is_served = |model: &&ModelDescription| has_been_warm(model) || model.platform == Platform::Queue;
        let served = self.models.iter().filter(|model| model.name == name).filter(is_served);
        served.map(|model| model.version.clone()).collect()
    }

    /// Finds the default version of the model `name`, or of the only model if there is no name.
    pub fn find(&self, name: Option<&str>) -> Result<CatalogEntry, Error> {
        let index = self.index_of_default(name)?;
        Ok(self.entry(index))
    }

    /// Finds a version of the model `name`; its default version if `version` is `None`.
    pub fn find_version(&self, name: &str, version: Option<&str>) -> Result<CatalogEntry, Error> {
        let default = self.index_of_default(Some(name))?;
        let index = match version {
            Some(version) => self.index_of_version(name, version)?,
            None => default,
        };
        Ok(self.entry(index))
    }

    fn entry(&self, index: usize) -> CatalogEntry {
        CatalogEntry { models: Arc::clone(&self.models), metadata: Arc::clone(&self.metadata), index }
    }

    fn index_of_default(&self, name: Option<&str>) -> Result<usize, Error> {
        let names = || self.defaults().map(|model| model.name.clone()).collect::<Vec<_>>();
        if let Some(name) = name {
            return match self.models.iter().position(|model| model.is_default && model.name == name) {
                Some(index) => Ok(index),
                None if self.defaults().next().is_none() && !self.reachable => Err(Error::ModelUnreachable),
                None if self.unselected.models.contains(name) => {
                    let model_name = self.unselected.model_name.clone();
                    Err(Error::ModelNotSelected { model: name.to_owned(), model_name })
                }
                None => Err(Error::UnknownModel { requested: truncated(name), available: names() }),
            };
        }
        let defaults: Vec<_> = self.models.iter().enumerate().filter(|(_, model)| model.is_default).collect();
        // A broken model that is added beside another must not make requests without a name ambiguous.
        let warm: Vec<_> = defaults.iter().filter(|(_, model)| has_been_warm(model)).collect();
        match (warm.as_slice(), defaults.as_slice()) {
            ([(only, _)], _) | ([], [(only, _)]) => Ok(*only),
            (_, []) if !self.reachable => Err(Error::ModelUnreachable),
            (_, []) => Err(Error::UnknownModel { requested: String::new(), available: Vec::new() }),
            _ => Err(Error::ModelNameRequired(names())),
        }
    }

    fn index_of_version(&self, name: &str, version: &str) -> Result<usize, Error> {
        let same_name = || self.models.iter().filter(|model| model.name == name);
        let found = self.models.iter().position(|model| model.name == name && model.version == version);
        found.ok_or_else(|| Error::UnknownVersion {
            model: truncated(name),
            requested: truncated(version),
            available: same_name().map(|model| model.version.clone()).collect(),
        })
    }

    /// Why the service is not ready; `None` if it is.
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
        let unready = self.model_api_models.iter().find(|model| !model.is_ready());
        Some(unready.map_or("model_api is not ready".to_owned(), |model| {
            format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("is being loaded"))
        }))
    }

    /// Why inputs of `model` wait; `None` while the model is ready.
    pub fn why_waiting(&self, model: &str) -> Option<String> {
        let listed = self.defaults().find(|listed| listed.name == model);
        match listed {
            Some(listed) if listed.platform == Platform::Queue => None,
            _ if !self.reachable => Some("model_api does not answer".to_owned()),
            Some(listed) if listed.is_ready() => None,
            Some(listed) => Some(format!("{model}: {}", listed.reason.as_deref().unwrap_or("is being loaded"))),
            None => Some(format!("{model} is not served")),
        }
    }

    /// Replaces the models of `model_api`; `None` marks them as unreachable.
    pub(super) fn apply(&mut self, list: Option<ModelList>) {
        self.reachable = list.is_some();
        if let Some(list) = list {
            self.ready = list.ready;
            self.unselected = list.unselected;
            self.model_api_models = list.models.into_iter().map(|model| self.with_last_known(model)).collect();
            self.merge();
        }
    }

    /// Replaces the models of external workers.
    pub(super) fn set_external_models(&mut self, models: Vec<ModelDescription>) {
        self.external_models = models;
        self.merge();
    }

    /// Fills in what the last description of the model had.
    ///
    /// A model whose files are being read has no digest yet; its cached results are found under the last digest. A model that is
    /// being loaded again lacks the metadata that comes from its graph; that has not changed while the digest is the same.
    fn with_last_known(&self, model: ModelDescription) -> ModelDescription {
        let before = self.models.iter().find(|before| before.name == model.name && before.version == model.version);
        match before {
            Some(before) if model.digest.is_empty() || model.digest == before.digest && !has_been_warm(&model) => {
                let ModelDescription { state, reason, device, .. } = model;
                ModelDescription { state, reason, device, ..before.clone() }
            }
            _ => model,
        }
    }

    /// Merges both sources. If both have a model of the same name, that of `model_api` takes precedence.
    fn merge(&mut self) {
        let is_new = |model: &&ModelDescription| self.model_api_models.iter().all(|other| other.name != model.name);
        let external = self.external_models.iter().filter(is_new);
        let mut models: Vec<_> = self.model_api_models.iter().chain(external).cloned().collect();
        // A stable sort keeps the order of the versions of a model.
        models.sort_by(|a, b| a.name.cmp(&b.name));
        propagate_not_cached(&mut models);
        if *self.models != models {
            self.metadata = models.iter().map(|model| Arc::new(model.metadata())).collect();
            self.models = Arc::new(models);
        }
    }
}

/// Marks each pipeline with a step that is not cached as not cached, with the reason of its first such step. A step may be a pipeline
/// itself.
fn propagate_not_cached(models: &mut [ModelDescription]) {
    loop {
        let reason_of = |step: &Step| {
            let is_of_step = |model: &&ModelDescription| match &step.version {
                Some(version) => model.version == *version,
                None => model.is_default,
            };
            models.iter().filter(|model| model.name == step.model).find(is_of_step)?.not_cached
        };
        let inherited =
            models.iter().enumerate().filter(|(_, model)| model.not_cached.is_none()).find_map(|(index, model)| {
                let reason = model.pipeline.as_ref()?.steps.iter().find_map(reason_of)?;
                Some((index, reason))
            });
        let Some((index, reason)) = inherited else { return };
        models[index].not_cached = Some(reason);
    }
}

/// Whether one of its sessions has ever been ready.
fn has_been_warm(model: &ModelDescription) -> bool {
    model.device.is_some()
}

/// A name as errors repeat it.
fn truncated(name: &str) -> String {
    name.chars().take(MAX_NAME_IN_ERROR).collect()
}
