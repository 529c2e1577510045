use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use crate::contents::{Contents, read};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_settings::BatchingMode;
use crate::scheduler::{BatchSettings, Pool, PoolSettings, QueueLimits};
use crate::repository::ModelFiles;
use crate::session::{SessionConfig, Launcher, StartError};

/// How models are loaded and run.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Threads of all sessions of a model together.
    pub threads: usize,
    /// What may wait for a model.
    pub queue: QueueLimits,
    /// After which a run's session is killed.
    pub run_timeout: Duration,
}

/// Brings model versions from their files to their first answer.
pub struct Loader {
    /// How they are run.
    pub settings: LoadSettings,
    start: StartPool,
    metrics: Metrics,
}

/// What starts sessions, whichever launcher it uses.
type StartPool = Box<dyn Fn(&SessionConfig, &PoolSettings) -> Pool + Send + Sync>;

/// A model version whose sessions are being started.
pub struct Attempt {
    /// Its sessions, and what its files alone say of it.
    pub announced: Arc<Model>,
    files: ModelFiles,
    contents: Contents,
    pool: Arc<Pool>,
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// No session could be started. Another time it may be.
    NoSession(StartError),
    /// It cannot be served as it is.
    Unfit(String),
}

/// A session that dies while it is started may have had bad luck, with memory for example; so many in a row had not.
const BAD_LUCK: u32 = 3;

impl Loader {
    /// Starts sessions with this launcher.
    pub fn new<L: Launcher>(launcher: &L, settings: LoadSettings, metrics: Metrics) -> Self {
        let launcher = launcher.clone();
        let start = Box::new(move |session_config: &SessionConfig, pool: &PoolSettings| Pool::start(&launcher, session_config, pool));
        Self { settings, start, metrics }
    }

    /// Starts a model version's sessions and comes back at once.
    pub fn start(&self, files: &ModelFiles, contents: Contents) -> Attempt {
        let pool = Arc::new((self.start)(&self.session_config(files, &contents), &self.pool_settings(files, &contents)));
        for note in &contents.notes {
            info!(model = files.name, version = files.version, note, "files of a model are used in part");
        }
        let announced = Model::announced(files, &contents, Arc::clone(&pool));
        Attempt { announced: Arc::new(announced), files: files.clone(), contents, pool }
    }

    fn session_config(&self, files: &ModelFiles, contents: &Contents) -> SessionConfig {
        let settings = &contents.settings;
        let shapes = settings.inputs.iter().filter_map(|input| Some((input.name.clone(), input.shape.clone()?)));
        let (digest, unchanged) = (contents.digest.clone(), files.clone());
        SessionConfig {
            model: files.name.clone(),
            graph: contents.graph.clone(),
            threads: (self.settings.threads / self.sessions(contents)).max(1),
            shapes: shapes.collect(),
            unchanged: Arc::new(move || read(&unchanged).is_ok_and(|now| now.digest == digest)),
        }
    }

    fn pool_settings(&self, files: &ModelFiles, contents: &Contents) -> PoolSettings {
        let settings = &contents.settings;
        let batch = BatchSettings::new(
            settings.max_batch_size as usize,
            Duration::from_secs_f64(settings.max_batch_time),
            settings.parameters.independent_rows,
            self.settings.run_timeout,
        );
        let off = settings.batching == Some(BatchingMode::Off);
        PoolSettings {
            model_bytes: contents.bytes,
            sessions: self.sessions(contents),
            queue: self.settings.queue,
            batch: if off { batch.without_batching() } else { batch },
            metrics: self.metrics.session(&files.name),
        }
    }

    fn sessions(&self, contents: &Contents) -> usize {
        contents.settings.sessions(contents.bytes, self.settings.threads)
    }
}

impl Attempt {
    /// Waits until the first session is warm and holds the settings against the graph. Comes back with a failure when it is
    /// plain that waiting would not help.
    pub async fn warm(&self) -> Result<Arc<Model>, Failure> {
        let (fail, mut failure) = watch::channel(None);
        let mut deaths = 0;
        let note = |error: &StartError| {
            deaths += 1;
            if !matches!(error, StartError::Crashed(_)) || deaths >= BAD_LUCK {
                fail.send_replace(Some(error.clone()));
            }
        };
        tokio::select! {
            warm = self.whenever_warm(note) => warm,
            Ok(failure) = failure.wait_for(Option::is_some) => {
                let error = failure.clone().unwrap_or_else(|| StartError::Crashed("it did not start".to_owned()));
                Err(Failure::NoSession(error))
            }
        }
    }

    /// Waits as long as it takes.
    pub async fn whenever_warm(&self, failed: impl FnMut(&StartError)) -> Result<Arc<Model>, Failure> {
        let Some(hello) = self.pool.ready(failed).await else {
            return Err(Failure::NoSession(StartError::Crashed("its sessions have been stopped".to_owned())));
        };
        let model = Model::new(&self.files, &self.contents, &hello, Arc::clone(&self.pool));
        let model = model.map_err(Failure::Unfit)?;
        info!(model = model.name, version = model.version, digest = model.digest, "a model is served");
        Ok(Arc::new(model))
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoSession(error) => error.to_string(),
            Failure::Unfit(reason) => reason,
        }
    }
}
