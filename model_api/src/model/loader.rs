//! Loader: starts the sessions of a model version and waits until the first one is warm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use super::Model;
use crate::metrics::Metrics;
use crate::repository::ModelFiles;
use crate::repository::manifest::{ModelManifest, read_manifest};
use crate::repository::model_settings::BatchingMode;
use crate::scheduler::{BatchSettings, Pool, PoolSettings, QueueLimits};
use crate::session::{Launcher, SessionConfig, StartError};

/// Settings for loading and running models.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Threads of all sessions of one model together.
    pub threads: usize,
    /// Limits of each model's queue.
    pub queue: QueueLimits,
    /// Time limit of one run, after which its session is killed.
    pub run_timeout: Duration,
}

/// Starts the sessions of model versions.
pub struct Loader {
    /// Settings of all models.
    pub settings: LoadSettings,
    start: StartPool,
    metrics: Metrics,
}

/// Starts a pool. It hides the launcher's type.
type StartPool = Box<dyn Fn(&SessionConfig, &PoolSettings) -> Pool + Send + Sync>;

/// A model version whose sessions are being started.
pub struct PendingLoad {
    /// The model as its files alone describe it, with its sessions.
    pub preliminary: Arc<Model>,
    files: ModelFiles,
    manifest: ModelManifest,
    pool: Arc<Pool>,
}

/// Why a load failed.
#[derive(Debug)]
pub enum LoadFailure {
    /// No session could be started. A retry may succeed.
    NoSession(StartError),
    /// The settings contradict the graph. A retry cannot succeed.
    Invalid(String),
}

/// How many crashes in a row while a session starts make a load fail. One crash may have a passing cause, such as a shortage
/// of memory.
const MAX_START_CRASHES: u32 = 3;

impl Loader {
    /// Starts sessions with this launcher.
    pub fn new<L: Launcher>(launcher: &L, settings: LoadSettings, metrics: Metrics) -> Self {
        let launcher = launcher.clone();
        let start = Box::new(move |session: &SessionConfig, pool: &PoolSettings| Pool::start(&launcher, session, pool));
        Self { settings, start, metrics }
    }

    /// Starts the sessions of a model version and returns immediately.
    pub fn start(&self, files: &ModelFiles, manifest: ModelManifest) -> PendingLoad {
        let session = self.session_config(files, &manifest);
        let pool = Arc::new((self.start)(&session, &self.pool_settings(files, &manifest)));
        for note in &manifest.notes {
            info!(model = files.name, version = files.version, note, "model files are used in part");
        }
        let preliminary = Model::preliminary(files, &manifest, Arc::clone(&pool));
        PendingLoad { preliminary: Arc::new(preliminary), files: files.clone(), manifest, pool }
    }

    fn session_config(&self, files: &ModelFiles, manifest: &ModelManifest) -> SessionConfig {
        let settings = &manifest.settings;
        let shapes = settings.inputs.iter().filter_map(|input| Some((input.name.clone(), input.shape.clone()?)));
        let (digest, unchanged) = (manifest.digest.clone(), files.clone());
        SessionConfig {
            model: files.name.clone(),
            graph: manifest.graph.clone(),
            threads: (self.settings.threads / self.session_count(manifest)).max(1),
            shapes: shapes.collect(),
            unchanged: Arc::new(move || read_manifest(&unchanged).is_ok_and(|now| now.digest == digest)),
        }
    }

    fn pool_settings(&self, files: &ModelFiles, manifest: &ModelManifest) -> PoolSettings {
        let settings = &manifest.settings;
        let batch = BatchSettings::new(
            settings.max_batch_size as usize,
            Duration::from_secs_f64(settings.max_batch_time),
            settings.parameters.independent_rows,
            self.settings.run_timeout,
        );
        let off = settings.batching == Some(BatchingMode::Off);
        PoolSettings {
            model_bytes: manifest.bytes,
            sessions: self.session_count(manifest),
            queue: self.settings.queue,
            batch: if off { batch.without_batching() } else { batch },
            metrics: self.metrics.pool_metrics(&files.name),
        }
    }

    fn session_count(&self, manifest: &ModelManifest) -> usize {
        manifest.settings.session_count(manifest.bytes, self.settings.threads)
    }
}

impl PendingLoad {
    /// Waits until the first session is warm, then merges the settings with the graph.
    ///
    /// # Errors
    /// The session failed to start in a way that waiting cannot help, or crashed [`MAX_START_CRASHES`] times.
    pub async fn warm(&self) -> Result<Arc<Model>, LoadFailure> {
        let (fail, mut failure) = watch::channel(None);
        let mut crashes = 0;
        let note = |error: &StartError| {
            crashes += 1;
            if !matches!(error, StartError::Crashed(_)) || crashes >= MAX_START_CRASHES {
                fail.send_replace(Some(error.clone()));
            }
        };
        tokio::select! {
            warm = self.wait_until_warm(note) => warm,
            Ok(failure) = failure.wait_for(Option::is_some) => {
                let error = failure.clone().unwrap_or_else(|| StartError::Crashed("it did not start".to_owned()));
                Err(LoadFailure::NoSession(error))
            }
        }
    }

    /// Waits until the first session is warm, without a limit. `failed` receives the error of each failed start.
    pub async fn wait_until_warm(&self, failed: impl FnMut(&StartError)) -> Result<Arc<Model>, LoadFailure> {
        let Some(session) = self.pool.ready(failed).await else {
            return Err(LoadFailure::NoSession(StartError::Crashed("its sessions have been stopped".to_owned())));
        };
        let model = Model::from_session(&self.files, &self.manifest, &session, Arc::clone(&self.pool));
        let model = model.map_err(LoadFailure::Invalid)?;
        info!(model = model.name, version = model.version, digest = model.digest, "model loaded");
        Ok(Arc::new(model))
    }
}

impl From<LoadFailure> for String {
    fn from(failure: LoadFailure) -> Self {
        match failure {
            LoadFailure::NoSession(error) => error.to_string(),
            LoadFailure::Invalid(reason) => reason,
        }
    }
}
