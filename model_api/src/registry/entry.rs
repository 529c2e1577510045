//! Registry entry: load state of one model and of each of its versions.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use contract::ModelDescription;
use open_inference::{ModelIndex, ModelState};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;
use crate::model::pipeline::PipelineDefinition;
use crate::model::{Model, describe_state};
use crate::repository::ModelFiles;
use crate::repository::version::Version;
use crate::scheduler::PoolState;
use crate::session::StartError;

/// All models that are served or are to be served, by name.
pub type ModelEntries = BTreeMap<String, ModelEntry>;

/// One model with all its versions.
#[derive(Default)]
pub struct ModelEntry {
    /// By version.
    pub versions: BTreeMap<Version, VersionEntry>,
    /// The model was selected at the start, and the service is not ready before the model has been.
    pub required_at_start: bool,
    /// The model was unloaded on request, and is not loaded again before the next request to load it.
    pub unloaded: bool,
    /// Versions that were unloaded. While one can be upgraded, a request still uses it.
    pub draining: Vec<(Version, Weak<Model>)>,
    /// Serialises the loads of this model.
    pub load_lock: Arc<Mutex<()>>,
    /// Cancelled when the model is unloaded, which aborts its loads.
    pub cancel: CancellationToken,
}

/// One version: what serves requests now, and what is being loaded.
#[derive(Default)]
pub struct VersionEntry {
    /// Serves requests.
    pub active: Option<ActiveVersion>,
    /// Replaces the active version when it is ready, or holds the reason why it cannot.
    pub pending: Option<LoadState>,
}

/// A version that has been warm.
pub struct ActiveVersion {
    /// The model and its sessions.
    pub model: Arc<Model>,
    /// The files that it was loaded from.
    pub files: ModelFiles,
}

/// The state of a version that has not been warm yet.
pub enum LoadState {
    /// Its files are being read.
    Reading,
    /// Its first session is being started.
    Starting {
        /// The model as its files alone describe it, and its sessions.
        preliminary: Arc<Model>,
        /// Aborts the retries when it is dropped.
        retries: Option<DropGuard>,
    },
    /// A pipeline whose steps are not available or do not fit each other. It becomes active when they are and do.
    WaitingForSteps {
        /// Its settings.
        definition: Arc<PipelineDefinition>,
        /// Why it is not active.
        unready: Unready,
    },
    /// It cannot be loaded, for this reason.
    Failed(String),
}

/// Why a pipeline is not active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unready {
    /// Names the step and the field.
    pub reason: String,
    /// The model of a step is still being loaded, so waiting may help.
    pub is_transient: bool,
}

impl ModelEntry {
    /// The version for requests that name none: the largest that has been warm.
    ///
    /// At the start it is the largest of all, so that an older version does not become the default because it was warm sooner.
    /// A version that cannot be started is left out.
    pub fn default_version(&self) -> Option<&Version> {
        let counts =
            |version: &VersionEntry| version.active.is_some() || (self.required_at_start && version.may_become_ready());
        let best = self.versions.iter().rev().find(|(_, version)| counts(version));
        best.or_else(|| self.versions.last_key_value()).map(|(version, _)| version)
    }

    /// Whether the service has to wait for this model: until the load of each version has ended and one version is active.
    pub fn blocks_readiness(&self) -> bool {
        let mut versions = self.versions.values();
        self.required_at_start
            && (versions.clone().any(VersionEntry::may_become_ready)
                || versions.all(|version| version.active.is_none()))
    }

    /// The versions that have been warm, from the smallest to the largest.
    pub fn active_versions(&self) -> impl Iterator<Item = (&Version, &ActiveVersion)> {
        self.versions.iter().filter_map(|(version, entry)| Some((version, entry.active.as_ref()?)))
    }

    /// Every model that has sessions.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.versions.values().flat_map(|version| {
            let pending = version.pending.as_ref().and_then(|pending| match pending {
                LoadState::Starting { preliminary, .. } => Some(preliminary),
                LoadState::Reading | LoadState::WaitingForSteps { .. } | LoadState::Failed(_) => None,
            });
            version.active.iter().map(|active| &active.model).chain(pending)
        })
    }

    /// Removes all versions and aborts their loads. The sessions of a returned model end when its last reference is dropped.
    pub fn clear(&mut self) -> Vec<Arc<Model>> {
        self.cancel.cancel();
        self.cancel = CancellationToken::new();
        self.required_at_start = false;
        let removed = self.active_versions().map(|(version, active)| (version.clone(), Arc::downgrade(&active.model)));
        self.draining = removed.collect();
        let models = self.models().cloned().collect();
        self.versions.clear();
        models
    }
}

impl VersionEntry {
    /// The active model. An error gives the reason why there is none.
    pub fn active_model(&self, name: &str) -> Result<Arc<Model>, Error> {
        if let Some(active) = &self.active {
            return Ok(Arc::clone(&active.model));
        }
        let reason = self.describe_pending(name, &Version::default()).reason.unwrap_or_default();
        Err(Error::Unavailable { model: name.to_owned(), reason })
    }

    /// Describes the active model, or else the pending one.
    pub fn describe(&self, name: &str, version: &Version) -> ModelDescription {
        match &self.active {
            Some(ActiveVersion { model, .. }) => model.describe(model.state()),
            None => self.describe_pending(name, version),
        }
    }

    /// Its line in the repository index.
    pub fn index(&self, name: &str, version: &Version) -> ModelIndex {
        let ModelDescription { state, reason, left_out, notes, batching, .. } = self.describe(name, version);
        let reason = match (&self.active, &self.pending) {
            // The session crashed after the files had changed, and cannot be started from them.
            (Some(_), Some(LoadState::Failed(why))) if state != ModelState::Ready => {
                format!(
                    "version {} on disk cannot be served: {why}; the last working version is not ready either",
                    version.0
                )
            }
            (
                Some(ActiveVersion { model, .. }),
                Some(LoadState::Failed(why) | LoadState::WaitingForSteps { unready: Unready { reason: why, .. }, .. }),
            ) => format!(
                "version {} on disk cannot be served: {why}; the last working version ({}) is still served",
                version.0, model.digest
            ),
            (Some(_), Some(_)) if reason.is_none() => "a changed version is being loaded".to_owned(),
            // A ready model may still omit outputs of its graph, or ignore some of its files.
            _ => reason.unwrap_or_else(|| [left_out, notes].concat().join("; ")),
        };
        ModelIndex { name: name.to_owned(), version: version.0.clone(), state, reason, batching }
    }

    /// Whether waiting for the pending version may help.
    fn may_become_ready(&self) -> bool {
        match &self.pending {
            Some(LoadState::Reading) => true,
            Some(LoadState::Starting { preliminary, .. }) => !matches!(preliminary.state(), PoolState::Unavailable(_)),
            Some(LoadState::WaitingForSteps { unready, .. }) => unready.is_transient,
            Some(LoadState::Failed(_)) | None => false,
        }
    }

    fn describe_pending(&self, name: &str, version: &Version) -> ModelDescription {
        match &self.pending {
            Some(LoadState::Starting { preliminary, .. }) => preliminary.describe(match preliminary.state() {
                // The first session may be warm before its settings have been validated against the graph.
                PoolState::Ready(_) => PoolState::Starting,
                other => other,
            }),
            Some(LoadState::WaitingForSteps { unready: Unready { reason, is_transient: true }, .. }) => {
                let reason = Some(reason.clone());
                ModelDescription { reason, ..describe_state(name, &version.0, PoolState::Starting) }
            }
            Some(LoadState::Failed(reason) | LoadState::WaitingForSteps { unready: Unready { reason, .. }, .. }) => {
                describe_state(name, &version.0, PoolState::Unavailable(StartError::Model(reason.clone())))
            }
            Some(LoadState::Reading) | None => describe_state(name, &version.0, PoolState::Starting),
        }
    }
}

/// The index line of a version that is in the repository and not in the registry. `unselected` is the reason for one that
/// `MODEL_NAME` does not select.
pub fn index_inactive(name: &str, version: &str, entry: Option<&ModelEntry>, unselected: Option<&str>) -> ModelIndex {
    let is_draining = entry.is_some_and(|entry| {
        entry.draining.iter().any(|(draining, model)| draining.0 == version && model.strong_count() > 0)
    });
    let is_unloaded = entry.is_some_and(|entry| entry.unloaded);
    let (state, reason) = if is_draining {
        (ModelState::Unloading, "requests in flight are still being served")
    } else if is_unloaded {
        (ModelState::Unavailable, "it was unloaded")
    } else {
        (ModelState::Unavailable, unselected.unwrap_or("it is not loaded"))
    };
    let (name, version) = (name.to_owned(), version.to_owned());
    ModelIndex { name, version, state, reason: reason.to_owned(), batching: None }
}

/// The names of the models that have versions, for error texts.
pub fn list_model_names(entries: &ModelEntries) -> String {
    join_names(entries.iter().filter(|(_, entry)| !entry.versions.is_empty()).map(|(name, _)| name.as_str()))
}

/// The names with commas between them, or `none`.
pub fn join_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names = names.collect::<Vec<_>>().join(", ");
    if names.is_empty() { "none".to_owned() } else { names }
}
