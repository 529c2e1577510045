//! Hot swap: loads, replaces and unloads model versions.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::ModelRegistry;
use super::entry::{ActiveVersion, LoadState, ModelEntry, Unready, VersionEntry, list_model_names};
use crate::error::Error;
use crate::model::Model;
use crate::model::loader::{LoadFailure, PendingLoad};
use crate::model::pipeline::PipelineDefinition;
use crate::repository::manifest::read_manifest;
use crate::repository::version::Version;
use crate::repository::{ModelFiles, RepositoryEntry};
use crate::scheduler::{PoolState, RunError};
use crate::session::StartError;

/// Interval at which a pipeline that waits for its steps is resolved again, beside every update of the registry: the sessions
/// of its steps come and go without an update.
const STEP_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// One load of one model.
struct Load {
    name: String,
    /// Retry when no session can be started, because the service is not ready without this model.
    retries_forever: bool,
    /// Cancelled when the model is unloaded during the load.
    cancel: CancellationToken,
}

impl ModelRegistry {
    /// Reads the model's folder again. New and changed versions are loaded beside the active ones, warmed up, and replace
    /// them. Removed versions are unloaded, except the last one that works.
    ///
    /// Returns when every version has been decided. Any model of the repository may be loaded, whatever `MODEL_NAME` is.
    /// Loads of one model run one after the other.
    ///
    /// # Errors
    /// A version cannot be loaded. The last version that works stays active.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let (registry, name) = (Arc::clone(self), name.to_owned());
        // In a task of its own, so that the load completes when the client disconnects.
        let load = tokio::spawn(async move { registry.load_from_repository(&name).await });
        load.await.unwrap_or(Err(Error::Internal))
    }

    /// Unloads a model. New requests fail immediately; requests that have begun finish. Returns when the model's sessions
    /// have ended, at the latest after the run timeout.
    pub async fn unload(&self, name: &str) -> Result<(), Error> {
        let models = self.update(|entries| {
            let available = list_model_names(entries);
            let entry = entries.get_mut(name).filter(|entry| !entry.versions.is_empty());
            let entry = entry.ok_or_else(|| Error::UnknownModel { requested: Error::truncated(name), available })?;
            entry.unloaded = true;
            Ok::<_, Error>(entry.clear())
        })?;
        info!(model = name, "model unloaded");
        self.wait_for_drain(name, models).await;
        Ok(())
    }

    /// Unloads a model whose folder was removed.
    pub async fn remove(&self, name: &str) {
        // In one step, so that a load in progress cannot find the entry of a later load.
        let models = self.update(|entries| entries.remove(name).map(|mut entry| entry.clear()));
        let models = models.unwrap_or_default();
        if !models.is_empty() {
            warn!(model = name, "model removed from the repository, unloading");
            self.wait_for_drain(name, models).await;
        }
    }

    pub(super) async fn load_at_start(self: Arc<Self>, name: &str) {
        // The error is already in the entry and in the log.
        let _ = self.load_from_repository(name).await;
    }

    async fn load_from_repository(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let found = self.find_in_repository(name).await;
        if !found.is_some_and(|found| !found.versions.is_empty() || self.contains(name)) {
            return self.report_missing(name).await;
        }
        let (load_lock, cancel, retries_forever) = {
            let mut entries = self.entries_mut();
            let entry = entries.entry(name.to_owned()).or_default();
            entry.unloaded = false;
            // A model that has been ready once does not make the service unready with its next version.
            entry.required_at_start = entry.blocks_readiness();
            (Arc::clone(&entry.load_lock), entry.cancel.clone(), entry.required_at_start)
        };
        let _guard = load_lock.lock().await;
        let load = Load { name: name.to_owned(), retries_forever, cancel: cancel.clone() };
        let loaded = cancel.run_until_cancelled(self.load_all(&load)).await;
        loaded.unwrap_or_else(|| Err(load.failed("it was unloaded meanwhile".to_owned())))
    }

    /// The error for a model that is missing or rejected.
    async fn report_missing(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        if let Some(reason) = self.find_in_repository(name).await.and_then(|found| found.rejection) {
            return Err(Error::LoadFailed { model: name.to_owned(), reason });
        }
        // The active versions stay: the disk may be unavailable only for a moment. The watcher or an unload removes them.
        if let Some(entry) = self.entries_mut().get_mut(name) {
            for version in entry.versions.values_mut().filter(|version| version.active.is_some()) {
                version.pending = Some(LoadState::Failed("it is gone from the repository".to_owned()));
            }
        }
        let available = self.list_repository().await;
        Err(Error::NotInRepository { requested: Error::truncated(name), available })
    }

    async fn load_all(self: &Arc<Self>, load: &Load) -> Result<(), Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::Run(RunError::Stopped));
        }
        // Read again under the load lock: the load before this one may have taken long.
        let Some(found) = self.find_in_repository(&load.name).await else {
            return self.report_missing(&load.name).await;
        };
        let RepositoryEntry { versions, rejection, skipped } = found;
        for reason in skipped {
            info!(model = load.name, reason, "file skipped");
        }
        let outcomes = join_all(versions.iter().map(|files| self.load_version(load, files))).await;
        let mut failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        failures.extend(rejection.clone());
        self.update_entry(load, |entry| retain_versions(entry, &versions, rejection));
        if failures.is_empty() { Ok(()) } else { Err(load.failed(failures.join("; "))) }
    }

    /// Loads one version unless the same files are already active, and records the outcome.
    async fn load_version(self: &Arc<Self>, load: &Load, files: &ModelFiles) -> Result<(), String> {
        // A panic would otherwise leave the version in the loading state for ever.
        let loaded = AssertUnwindSafe(self.try_load(load, files)).catch_unwind().await;
        let loaded = loaded.unwrap_or_else(|_| Err("internal error; see the server log".to_owned()));
        let outcome = match &loaded {
            Ok(None) => return Ok(()),
            Ok(Some(())) => "ok",
            Err(_) => "failed",
        };
        self.metrics.record_load(&load.name, outcome);
        loaded.map(|_| ()).map_err(|reason| {
            error!(model = load.name, version = files.version, reason, "model cannot be loaded");
            self.update_version(load, files, |version| {
                // A load that is retried reports its own reason.
                let is_retried = matches!(
                    &version.pending,
                    Some(LoadState::Starting { retries: Some(_), .. } | LoadState::WaitingForSteps { .. })
                );
                if !is_retried {
                    version.pending = Some(LoadState::Failed(reason.clone()));
                }
            });
            format!("version {}: {reason}", files.version)
        })
    }

    /// Returns `None` when the same files are already active.
    async fn try_load(self: &Arc<Self>, load: &Load, files: &ModelFiles) -> Result<Option<()>, String> {
        self.update_version(load, files, |version| version.pending = Some(LoadState::Reading));
        if files.graph.is_none() {
            return self.try_load_pipeline(load, files).await;
        }
        let reading = files.clone();
        let manifest = spawn_blocking(move || read_manifest(&reading)).await;
        let manifest = manifest.map_err(|_| "its files could not be read".to_owned())??;
        let is_unchanged = |version: &mut VersionEntry| {
            let same = version.active.as_ref().is_some_and(|ActiveVersion { model, files: from }| {
                let works = !matches!(model.state(), PoolState::Unavailable(_));
                works && from == files && model.digest == manifest.digest
            });
            if same {
                version.pending = None;
            }
            same
        };
        if self.update_version(load, files, is_unchanged) == Some(true) {
            return Ok(None);
        }
        let pending = self.loader.start(files, manifest);
        let preliminary = Arc::clone(&pending.preliminary);
        self.update_version(load, files, |version| {
            version.pending = Some(LoadState::Starting { preliminary, retries: None });
        });
        match pending.warm().await {
            Ok(model) => self.activate(load, files, model),
            Err(LoadFailure::NoSession(error)) if load.retries_forever => {
                let reason = error.to_string();
                self.retry_until_loaded(load, files, pending, &error);
                return Err(reason);
            }
            Err(failure) => return Err(failure.into()),
        }
        Ok(Some(()))
    }

    /// Returns when the steps of the pipeline are available and fit each other, or when waiting cannot help.
    async fn try_load_pipeline(&self, load: &Load, files: &ModelFiles) -> Result<Option<()>, String> {
        let reading = files.clone();
        let definition = spawn_blocking(move || PipelineDefinition::read(&reading)).await;
        let definition = definition.map_err(|_| "its settings could not be read".to_owned())??;
        let is_unchanged = |version: &mut VersionEntry| {
            let steps = version.active.as_ref().and_then(|active| active.model.steps());
            let same = steps.is_some_and(|steps| *steps.definition == definition);
            if same {
                version.pending = None;
            }
            same
        };
        if self.update_version(load, files, is_unchanged) == Some(true) {
            return Ok(None);
        }
        let mut changes = self.changes.subscribe();
        let unready = Unready { is_transient: true, ..Unready::default() };
        let waiting = LoadState::WaitingForSteps { definition: Arc::new(definition), unready };
        self.update_version(load, files, |version| version.pending = Some(waiting));
        loop {
            changes.mark_unchanged();
            match self.unready_reason(load, files) {
                None => return Ok(Some(())),
                Some(Unready { is_transient: false, reason }) => return Err(reason),
                Some(_) => {}
            }
            if timeout(STEP_POLL_INTERVAL, changes.changed()).await.is_err() {
                self.update_entry(load, |_| ());
            }
        }
    }

    /// Why a pipeline is not active yet; `None` when it is.
    fn unready_reason(&self, load: &Load, files: &ModelFiles) -> Option<Unready> {
        let entries = self.entries();
        match &entries.get(&load.name)?.versions.get(&Version(files.version.clone()))?.pending {
            Some(LoadState::WaitingForSteps { unready, .. }) => Some(unready.clone()),
            _ => None,
        }
    }

    fn activate(&self, load: &Load, files: &ModelFiles, model: Arc<Model>) {
        let active = ActiveVersion { model, files: files.clone() };
        let activated = VersionEntry { active: Some(active), pending: None };
        self.update_version(load, files, |version| *version = activated);
    }

    /// Retries in the background until a session starts, another load replaces this one, or the model is unloaded.
    fn retry_until_loaded(self: &Arc<Self>, load: &Load, files: &ModelFiles, pending: PendingLoad, error: &StartError) {
        if matches!(error, StartError::DeviceUnavailable(_)) {
            self.device_failure.send_replace(Some(format!("{}: {error}", load.name)));
        }
        let retrying = CancellationToken::new();
        let preliminary = Arc::clone(&pending.preliminary);
        let retries = Some(retrying.clone().drop_guard());
        self.update_version(load, files, |version| {
            version.pending = Some(LoadState::Starting { preliminary, retries });
        });
        let registry = Arc::clone(self);
        let load = Load { name: load.name.clone(), retries_forever: true, cancel: load.cancel.clone() };
        let files = files.clone();
        let attempts = async move {
            match pending.wait_until_warm(|_| ()).await {
                Ok(model) => {
                    registry.metrics.record_load(&load.name, "ok");
                    registry.activate(&load, &files, model);
                }
                Err(failure) => {
                    let reason = String::from(failure);
                    let failed = LoadState::Failed(reason);
                    registry.update_version(&load, &files, |version| version.pending = Some(failed));
                }
            }
        };
        tokio::spawn(retrying.run_until_cancelled_owned(attempts));
    }

    /// Changes the model's entry, unless the model was unloaded since the load began.
    fn update_entry<T>(&self, load: &Load, change: impl FnOnce(&mut ModelEntry) -> T) -> Option<T> {
        self.update(|entries| {
            // Checked under the lock, since an unload cancels under the lock.
            if load.cancel.is_cancelled() { None } else { entries.get_mut(&load.name).map(change) }
        })
    }

    fn update_version<T>(
        &self,
        load: &Load,
        files: &ModelFiles,
        change: impl FnOnce(&mut VersionEntry) -> T,
    ) -> Option<T> {
        self.update_entry(load, |entry| change(entry.versions.entry(Version(files.version.clone())).or_default()))
    }

    async fn wait_for_drain(&self, name: &str, models: Vec<Arc<Model>>) {
        let stopped: Vec<_> = models.iter().map(|model| model.stopped()).collect();
        drop(models);
        let drain_timeout = self.loader.settings.run_timeout;
        if timeout(drain_timeout, join_all(stopped)).await.is_err() {
            warn!(model = name, ?drain_timeout, "unloaded model still serves requests");
        }
        let entries = self.entries();
        // Under the lock: the metrics of a model that is being loaded again must stay.
        if entries.get(name).is_none_or(|entry| entry.versions.is_empty()) {
            self.metrics.clear_model(name);
        }
    }
}

impl Load {
    fn failed(&self, reason: String) -> Error {
        Error::LoadFailed { model: self.name.clone(), reason }
    }
}

/// Removes versions that are no longer in the repository.
///
/// If that would leave nothing active while the folder still exists, the active versions stay and get the reason: a broken
/// folder must not take a working model out of service.
fn retain_versions(entry: &mut ModelEntry, found: &[ModelFiles], rejection: Option<String>) {
    let exists = |version: &Version| found.iter().any(|files| files.version == version.0);
    if entry.active_versions().any(|(version, _)| exists(version)) {
        entry.versions.retain(|version, _| exists(version));
    } else {
        let reason = rejection.unwrap_or_else(|| "its files are gone".to_owned());
        entry.versions.retain(|version, version_entry| version_entry.active.is_some() || exists(version));
        let removed = entry.versions.iter_mut().filter(|(version, _)| !exists(version));
        removed.for_each(|(_, version_entry)| version_entry.pending = Some(LoadState::Failed(reason.clone())));
    }
}
