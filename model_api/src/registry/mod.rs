//! Model registry: all models that are served or are to be served, and their hot swap.
//!
//! A version is loaded beside the active one, warmed up, and then replaces it. Requests that have begun finish on the model
//! with which they began, because they hold a reference to it.

pub mod entry;
mod index;
mod load;
mod pipelines;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use contract::ModelDescription;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model::loader::{LoadSettings, Loader};
use crate::repository::version::Version;
use crate::repository::{Repository, RepositoryEntry};
use crate::session::Launcher;
use entry::{LoadState, ModelEntries, ModelEntry, VersionEntry, join_names, list_model_names};

/// All models by name, and the means to load and unload them.
pub struct ModelRegistry {
    repository: Repository,
    loader: Loader,
    entries: RwLock<ModelEntries>,
    /// Signals every update of the entries.
    changes: tokio::sync::watch::Sender<()>,
    /// Models of the repository that `MODEL_NAME` does not select, as of the last scan.
    unselected: Mutex<BTreeSet<String>>,
    stopping: CancellationToken,
    device_failure: tokio::sync::watch::Sender<Option<String>>,
    metrics: Metrics,
}

impl ModelRegistry {
    /// Loads `models` concurrently in the background. The service becomes ready when all of them have been warm.
    pub fn start<L: Launcher>(
        repository: Repository,
        models: BTreeMap<String, RepositoryEntry>,
        launcher: &L,
        settings: LoadSettings,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let entry = |found: &RepositoryEntry| {
            let reading = || VersionEntry { active: None, pending: Some(LoadState::Reading) };
            let versions = found.versions.iter().map(|files| (Version(files.version.clone()), reading()));
            ModelEntry { versions: versions.collect(), required_at_start: true, ..ModelEntry::default() }
        };
        let registry = Arc::new(Self {
            entries: RwLock::new(models.iter().map(|(name, found)| (name.clone(), entry(found))).collect()),
            repository,
            loader: Loader::new(launcher, settings, metrics.clone()),
            changes: tokio::sync::watch::Sender::new(()),
            unselected: Mutex::default(),
            stopping: CancellationToken::new(),
            device_failure: tokio::sync::watch::Sender::new(None),
            metrics: metrics.clone(),
        });
        let scanner = Arc::clone(&registry);
        tokio::spawn(async move { scanner.refresh_unselected().await });
        for name in models.into_keys() {
            let registry = Arc::clone(&registry);
            tokio::spawn(async move { registry.load_at_start(&name).await });
        }
        registry
    }

    /// The active model of a version, or of the default version.
    ///
    /// # Errors
    /// The model or the version is unknown, or it has never been warm.
    pub fn get(&self, name: &str, requested: Option<&str>) -> Result<Arc<Model>, Error> {
        let entries = self.entries();
        let entry = entries.get(name).filter(|entry| !entry.versions.is_empty());
        let entry = entry.ok_or_else(|| self.unknown_model(name, &entries))?;
        let version = requested.map(|version| Version(version.to_owned()));
        let version =
            version.as_ref().or_else(|| entry.default_version()).and_then(|version| entry.versions.get(version));
        let unknown = || {
            let available = join_names(entry.versions.keys().map(|version| &*version.0));
            let requested = requested.map(Error::truncated).unwrap_or_default();
            Error::UnknownVersion { model: name.to_owned(), requested, available }
        };
        version.ok_or_else(unknown)?.active_model(name)
    }

    fn unknown_model(&self, name: &str, entries: &ModelEntries) -> Error {
        let unselected = self.unselected.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        // A model that was unloaded keeps an entry without versions.
        match self.unselected_reason(name).filter(|_| unselected && !entries.contains_key(name)) {
            Some(reason) => Error::Unselected { model: name.to_owned(), reason },
            None => Error::UnknownModel { requested: Error::truncated(name), available: list_model_names(entries) },
        }
    }

    /// The default version of the only model.
    ///
    /// If any model has been warm, only such models count. A broken model that is added later must not make requests
    /// without a model name ambiguous.
    pub fn get_only(&self) -> Result<Arc<Model>, Error> {
        let only = {
            let entries = self.entries();
            let all: Vec<_> = entries.iter().filter(|(_, entry)| !entry.versions.is_empty()).collect();
            let is_warm = |(_, entry): &&(&String, &ModelEntry)| entry.active_versions().next().is_some();
            let warm: Vec<_> = all.iter().filter(is_warm).copied().collect();
            match (warm.as_slice(), all.as_slice()) {
                ([(only, _)], _) | ([], [(only, _)]) => (*only).clone(),
                _ => return Err(Error::ModelNotNamed { available: list_model_names(&entries) }),
            }
        };
        self.get(&only, None)
    }

    /// Describes every version of every model, with the reason for those that are not available.
    pub fn list(&self) -> Vec<ModelDescription> {
        let entries = self.entries();
        let versions = entries.iter().flat_map(|(name, entry)| {
            let default = entry.default_version();
            entry.versions.iter().map(move |(version, version_entry)| ModelDescription {
                is_default: Some(version) == default,
                ..version_entry.describe(name, version)
            })
        });
        versions.collect()
    }

    /// The versions of a model that have been warm, from the smallest to the largest.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let entries = self.entries();
        let active = entries.get(name).into_iter().flat_map(ModelEntry::active_versions);
        active.map(|(version, _)| version.0.clone()).collect()
    }

    /// Whether the model has an entry. A model that was unloaded on request has one.
    pub fn contains(&self, name: &str) -> bool {
        self.entries().contains_key(name)
    }

    /// The names of all models that have an entry.
    pub fn names(&self) -> Vec<String> {
        self.entries().keys().cloned().collect()
    }

    /// Whether the model was unloaded on request.
    pub fn is_unloaded(&self, name: &str) -> bool {
        self.entries().get(name).is_some_and(|entry| entry.unloaded)
    }

    /// Whether the service can take traffic.
    pub fn is_ready(&self) -> bool {
        self.not_ready_reason().is_none()
    }

    /// Why the service is not ready: a model of the start has not been warm yet, or no model is available.
    ///
    /// A model that fails later, or is loaded later, does not make the service unready.
    pub fn not_ready_reason(&self) -> Option<String> {
        let blocking = self.entries().iter().find(|(_, entry)| entry.blocks_readiness()).map(|(name, _)| name.clone());
        let models = self.list();
        if blocking.is_none() && models.iter().any(ModelDescription::is_ready) {
            return None;
        }
        let blamed = models
            .iter()
            .rev()
            .find(|model| !model.is_ready() && blocking.as_ref().is_none_or(|blocking| *blocking == model.name));
        let reason =
            |model: &ModelDescription| format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("not ready"));
        Some(blamed.map_or_else(|| "no model is loaded".to_owned(), reason))
    }

    /// Resolves when CUDA is mandatory (`DEVICE=cuda`) and does not work for a model of the start. Returns the reason.
    pub async fn device_failure(&self) -> String {
        match self.device_failure.subscribe().wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Kills all sessions. Returns when every waiting request has got its error.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let models: Vec<Arc<Model>> = {
            let entries = self.entries();
            entries.values().for_each(|entry| entry.cancel.cancel());
            entries.values().flat_map(ModelEntry::models).cloned().collect()
        };
        join_all(models.iter().map(|model| model.stop())).await;
    }

    fn entries(&self) -> RwLockReadGuard<'_, ModelEntries> {
        // A poisoned lock is safe to use: no code panics between two changes that belong together.
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries_mut(&self) -> RwLockWriteGuard<'_, ModelEntries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the entries and, under the same lock, re-resolves the pipelines that depend on them.
    fn update<T>(&self, change: impl FnOnce(&mut ModelEntries) -> T) -> T {
        let mut entries = self.entries_mut();
        let changed = change(&mut entries);
        pipelines::reresolve_all(&mut entries);
        drop(entries);
        self.changes.send_replace(());
        changed
    }
}
