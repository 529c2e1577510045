use std::fs;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{error, info};

use crate::digest;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::model_settings::ModelSettings;
use crate::repository::ModelFiles;
use crate::session::{Blueprint, Launcher, Pool, PoolSettings, StartError};

/// How models are loaded and run.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Threads of all sessions of a model together.
    pub threads: usize,
    /// Requests that may wait for a model.
    pub queue_length: usize,
    /// After which a run's session is killed.
    pub run_timeout: Duration,
}

/// How far a model has come.
#[derive(Clone)]
pub enum Stage {
    /// Its files are being read.
    Reading,
    /// Its first session is being started, again and again if need be. Only its files have spoken so far.
    Starting(Arc<Model>),
    /// It has been warm.
    Served(Arc<Model>),
    /// Its files are of no use.
    Broken(String),
}

/// Brings one model from its files to its first answer.
pub struct Loader<L> {
    /// Where the model is.
    pub files: ModelFiles,
    /// What starts its sessions.
    pub launcher: L,
    /// How it is run.
    pub settings: LoadSettings,
    /// Where its sessions count.
    pub metrics: Metrics,
    /// Where others see how far it has come.
    pub publish: watch::Sender<Stage>,
    /// Told when the device that was insisted on does not work.
    pub refuse: Arc<watch::Sender<Option<String>>>,
}

impl<L: Launcher> Loader<L> {
    /// Loads the model; what becomes of it is published.
    pub async fn load(self) {
        // A loader that ended without a word would leave its model loading for ever.
        let served = AssertUnwindSafe(self.serve()).catch_unwind().await;
        let stage = match served.unwrap_or_else(|_| Err("an error of ours; the log says more".to_owned())) {
            Ok(Some(model)) => {
                info!(
                    model = self.files.name,
                    version = self.files.version,
                    digest = model.digest,
                    "a model is served"
                );
                Stage::Served(Arc::new(model))
            }
            Ok(None) => return,
            Err(reason) => {
                error!(model = self.files.name, reason, "a model cannot be served");
                Stage::Broken(reason)
            }
        };
        self.publish.send_replace(stage);
    }

    /// `None` when the pool is stopped before the model is warm.
    async fn serve(&self) -> Result<Option<Model>, String> {
        let files = self.files.clone();
        let read = spawn_blocking(move || read(&files)).await;
        let (settings, digest) = read.map_err(|_| "its files could not be read".to_owned())??;
        let pool = Arc::new(self.pool(&settings, &digest));
        let announced = Model::announced(&self.files, &settings, &digest, Arc::clone(&pool));
        self.publish.send_replace(Stage::Starting(Arc::new(announced)));
        let Some(hello) = pool.ready(|error| self.note(error)).await else { return Ok(None) };
        Model::new(&self.files, settings, digest, &hello, pool).map(Some)
    }

    fn pool(&self, settings: &ModelSettings, digest: &str) -> Pool {
        let (files, digest) = (self.files.clone(), digest.to_owned());
        let shapes = settings.inputs.iter().filter_map(|input| Some((input.name.clone(), input.shape.clone()?)));
        let blueprint = Blueprint {
            model: self.files.name.clone(),
            graph: self.files.graph.clone(),
            threads: (self.settings.threads / settings.sessions()).max(1),
            shapes: shapes.collect(),
            unchanged: Arc::new(move || read(&files).is_ok_and(|(_, now)| now == digest)),
        };
        let pool = PoolSettings {
            sessions: settings.sessions(),
            queue_length: self.settings.queue_length,
            run_timeout: self.settings.run_timeout,
            meters: self.metrics.session(&self.files.name),
        };
        Pool::start(&self.launcher, &blueprint, &pool)
    }

    fn note(&self, error: &StartError) {
        if matches!(error, StartError::NoDevice(_)) {
            self.refuse.send_replace(Some(format!("{}: {error}", self.files.name)));
        }
    }
}

/// The settings, and the digest of everything that the model's answers depend on.
fn read(files: &ModelFiles) -> Result<(ModelSettings, String), String> {
    let json = files.settings.as_ref().map(fs::read).transpose();
    let json = json.map_err(|error| format!("model-settings.json cannot be read: {}", error.kind()))?;
    let settings = match &json {
        Some(json) => ModelSettings::from_json(json, &files.name)?,
        None => ModelSettings::default(),
    };
    Ok((settings, digest::of(&files.graph, json.as_deref())?))
}
