use std::collections::BTreeMap;
use std::sync::Arc;

use contract::ModelDescription;
use futures_util::future::join_all;
use tokio::sync::watch;

use crate::error::Error;
use crate::loader::{LoadSettings, Loader, Stage};
use crate::metrics::Metrics;
use crate::model::{Model, describe_state};
use crate::repository::ModelFiles;
use crate::session::{Launcher, StartError, State};

/// Every model that was asked for, served or not.
pub struct Models {
    shelf: BTreeMap<String, Place>,
    refusal: watch::Receiver<Option<String>>,
}

/// A model's place on the shelf.
struct Place {
    files: ModelFiles,
    stage: watch::Receiver<Stage>,
}

impl Models {
    /// Loads all of them at the same time, in the background.
    pub fn load<L: Launcher>(
        files: BTreeMap<String, ModelFiles>,
        launcher: &L,
        settings: &LoadSettings,
        metrics: &Metrics,
    ) -> Self {
        let (refuse, refusal) = watch::channel(None);
        let refuse = Arc::new(refuse);
        let place = |files: ModelFiles| {
            let (publish, stage) = watch::channel(Stage::Reading);
            let loader = Loader {
                files: files.clone(),
                launcher: launcher.clone(),
                settings: settings.clone(),
                metrics: metrics.clone(),
                publish,
                refuse: Arc::clone(&refuse),
            };
            tokio::spawn(loader.load());
            Place { files, stage }
        };
        Self { shelf: files.into_iter().map(|(name, files)| (name, place(files))).collect(), refusal }
    }

    /// The model `name`, once it has been warm.
    pub fn get(&self, name: &str) -> Result<Arc<Model>, Error> {
        let place = self.shelf.get(name).ok_or_else(|| Error::UnknownModel { there_are: self.names() })?;
        place.model()
    }

    /// The model, where there is only one.
    pub fn only(&self) -> Result<Arc<Model>, Error> {
        match self.shelf.values().collect::<Vec<_>>().as_slice() {
            [place] => place.model(),
            _ => Err(Error::NoModelNamed { there_are: self.names() }),
        }
    }

    /// All of them by name, with the reason of those that cannot be asked.
    pub fn list(&self) -> Vec<ModelDescription> {
        self.shelf.values().map(Place::describe).collect()
    }

    /// Whether every model has been warm and one can be asked now. A model that breaks later does not take the others out
    /// of service.
    pub fn are_ready(&self) -> bool {
        let all_were_warm = self.shelf.values().all(|place| matches!(&*place.stage.borrow(), Stage::Served(_)));
        all_were_warm && self.list().iter().any(ModelDescription::is_ready)
    }

    /// Resolves, with the reason, when a model was to run on CUDA or not at all, and CUDA does not work.
    pub async fn refused(&self) -> String {
        match self.refusal.clone().wait_for(Option::is_some).await.map(|refusal| refusal.clone()) {
            Ok(Some(reason)) => reason,
            // Every loader has ended, and none refused.
            _ => std::future::pending().await,
        }
    }

    /// Kills all sessions; comes back when whoever waited for one has been told.
    pub async fn stop(&self) {
        join_all(self.shelf.values().map(Place::stop)).await;
    }

    fn names(&self) -> String {
        self.shelf.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

impl Place {
    fn model(&self) -> Result<Arc<Model>, Error> {
        let stage = self.stage.borrow().clone();
        if let Stage::Served(model) = stage {
            return Ok(model);
        }
        let reason = self.describe().reason.unwrap_or_default();
        Err(Error::Unavailable { model: self.files.name.clone(), reason })
    }

    fn describe(&self) -> ModelDescription {
        let ModelFiles { name, version, .. } = &self.files;
        let stage = self.stage.borrow().clone();
        match stage {
            Stage::Served(model) => model.describe(model.state()),
            Stage::Starting(model) => model.describe(match model.state() {
                // Its first session may be warm before the settings have been held against it.
                State::Ready(_) => State::Starting,
                other => other,
            }),
            Stage::Reading => describe_state(name, version, State::Starting),
            Stage::Broken(reason) => describe_state(name, version, State::Unavailable(StartError::Model(reason))),
        }
    }

    async fn stop(&self) {
        let stage = self.stage.borrow().clone();
        match stage {
            Stage::Served(model) | Stage::Starting(model) => model.stop().await,
            Stage::Reading | Stage::Broken(_) => {}
        }
    }
}
