//! Every model that is served, or is to be. Models come and go while the service runs: a version is loaded beside the one
//! that answers, warmed up, and then takes its place; requests that have begun finish on the model that they began with,
//! since they hold it.

mod index;
mod load;
mod pipelines;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use contract::ModelDescription;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::loader::{LoadSettings, Loader};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::repository::{Found, Repository};
use crate::session::Launcher;
use crate::shelf::{Next, Place, Shelf, Slot};
use crate::version::Version;

/// The shelf, and what changes it.
pub struct Models {
    repository: Repository,
    loader: Loader,
    shelf: RwLock<Shelf>,
    /// Told of every change of the shelf.
    changes: watch::Sender<()>,
    /// In the repository, and not selected by `MODEL_NAME`, as last seen.
    unselected: Mutex<BTreeSet<String>>,
    stopping: CancellationToken,
    refusal: watch::Sender<Option<String>>,
    metrics: Metrics,
}

impl Models {
    /// Loads `asked_for` in the background, all at the same time. The service is to be ready when they have been warm.
    pub fn start<L: Launcher>(
        repository: Repository,
        asked_for: BTreeMap<String, Found>,
        launcher: &L,
        settings: LoadSettings,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let place = |found: &Found| {
            let reading = || Slot { served: None, next: Some(Next::Reading) };
            let slots = found.versions.iter().map(|files| (Version(files.version.clone()), reading()));
            Place { slots: slots.collect(), required: true, ..Place::default() }
        };
        let models = Arc::new(Self {
            shelf: RwLock::new(asked_for.iter().map(|(name, found)| (name.clone(), place(found))).collect()),
            repository,
            loader: Loader::new(launcher, settings, metrics.clone()),
            changes: watch::Sender::new(()),
            unselected: Mutex::default(),
            stopping: CancellationToken::new(),
            refusal: watch::Sender::new(None),
            metrics: metrics.clone(),
        });
        let looking = Arc::clone(&models);
        tokio::spawn(async move { looking.look_for_unselected().await });
        for name in asked_for.into_keys() {
            let models = Arc::clone(&models);
            tokio::spawn(async move { models.load_at_start(&name).await });
        }
        models
    }

    /// A version of the model `name`, once it has been warm; the default one where none is named.
    pub fn get(&self, name: &str, version: Option<&str>) -> Result<Arc<Model>, Error> {
        let places = self.places();
        let place = places.get(name).filter(|place| !place.slots.is_empty());
        let place = place.ok_or_else(|| self.unknown(name, &places))?;
        let version = version.map(|version| Version(version.to_owned()));
        match version.as_ref().or_else(|| place.default_version()).and_then(|version| place.slots.get(version)) {
            Some(slot) => slot.model(name),
            None => Err(Error::UnknownVersion { there_are: list(place.slots.keys().map(|version| &*version.0)) }),
        }
    }

    fn unknown(&self, name: &str, places: &Shelf) -> Error {
        let unselected = self.unselected.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        // One that was unloaded has a place, though an empty one.
        match self.why_unselected(name).filter(|_| unselected && !places.contains_key(name)) {
            Some(reason) => Error::Unselected { model: name.to_owned(), reason },
            None => Error::UnknownModel { there_are: names(places) },
        }
    }

    /// The default version of the model, where there is only one model. Those that have never been warm do not count
    /// beside one that has: a broken model that is put beside it must not make the others' requests ambiguous.
    pub fn only(&self) -> Result<Arc<Model>, Error> {
        let only = {
            let places = self.places();
            let all: Vec<_> = places.iter().filter(|(_, place)| !place.slots.is_empty()).collect();
            let warm: Vec<_> = all.iter().filter(|(_, place)| place.served().next().is_some()).copied().collect();
            match (warm.as_slice(), all.as_slice()) {
                ([(only, _)], _) | ([], [(only, _)]) => (*only).clone(),
                _ => return Err(Error::NoModelNamed { there_are: names(&places) }),
            }
        };
        self.get(&only, None)
    }

    /// Every version of every model, with the reason of those that cannot be asked.
    pub fn list(&self) -> Vec<ModelDescription> {
        let places = self.places();
        let versions = places.iter().flat_map(|(name, place)| {
            let default = place.default_version();
            place.slots.iter().map(move |(version, slot)| ModelDescription {
                is_default: Some(version) == default,
                ..slot.describe(name, version)
            })
        });
        versions.collect()
    }

    /// The versions of a model that have been warm, from the smallest to the largest.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let places = self.places();
        places.get(name).into_iter().flat_map(Place::served).map(|(version, _)| version.0.clone()).collect()
    }

    /// Whether the model has a place, or was taken out on purpose.
    pub fn knows(&self, name: &str) -> bool {
        self.places().contains_key(name)
    }

    /// The names of all models that have a place.
    pub fn names(&self) -> Vec<String> {
        self.places().keys().cloned().collect()
    }

    /// Whether the model was taken out on purpose.
    pub fn was_unloaded(&self, name: &str) -> bool {
        self.places().get(name).is_some_and(|place| place.unloaded)
    }

    /// Whether traffic may come.
    pub fn are_ready(&self) -> bool {
        self.why_not_ready().is_none()
    }

    /// Why no traffic may come: a model that was asked for at the start has not been warm yet, or none can be asked now. A
    /// model that breaks later, or is loaded later, does not take the others out of service.
    pub fn why_not_ready(&self) -> Option<String> {
        let awaited = self.places().iter().find(|(_, place)| place.is_awaited()).map(|(name, _)| name.clone());
        let models = self.list();
        if awaited.is_none() && models.iter().any(ModelDescription::is_ready) {
            return None;
        }
        let blamed = models
            .iter()
            .rev()
            .find(|model| !model.is_ready() && awaited.as_ref().is_none_or(|awaited| *awaited == model.name));
        let reason =
            |model: &ModelDescription| format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("not ready"));
        Some(blamed.map_or_else(|| "no model is loaded".to_owned(), reason))
    }

    /// Resolves, with the reason, when a model that was asked for at the start was to run on CUDA or not at all, and CUDA
    /// does not work.
    pub async fn refused(&self) -> String {
        match self.refusal.subscribe().wait_for(Option::is_some).await.map(|refusal| refusal.clone()) {
            Ok(Some(reason)) => reason,
            _ => std::future::pending().await,
        }
    }

    /// Kills all sessions; comes back when whoever waited for one has been told.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let models: Vec<Arc<Model>> = {
            let places = self.places();
            places.values().for_each(|place| place.tenure.cancel());
            places.values().flat_map(Place::models).cloned().collect()
        };
        join_all(models.iter().map(|model| model.stop())).await;
    }

    fn places(&self) -> RwLockReadGuard<'_, Shelf> {
        // No code panics between two changes that belong together.
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is served, or is to be, and with it the pipelines whose steps that are.
    fn change_shelf<T>(&self, change: impl FnOnce(&mut Shelf) -> T) -> T {
        let mut places = self.places_mut();
        let changed = change(&mut places);
        pipelines::settle(&mut places);
        drop(places);
        self.changes.send_replace(());
        changed
    }
}

/// The names of those that have versions.
fn names(places: &Shelf) -> String {
    list(places.iter().filter(|(_, place)| !place.slots.is_empty()).map(|(name, _)| name.as_str()))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names = names.collect::<Vec<_>>().join(", ");
    if names.is_empty() { "none".to_owned() } else { names }
}
