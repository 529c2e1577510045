use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Models;
use crate::contents::read;
use crate::error::Error;
use crate::loader::{Attempt, Failure};
use crate::model::Model;
use crate::pipeline::Definition;
use crate::scheduler::{RunError, PoolState};
use crate::repository::{Found, ModelFiles};
use crate::session::StartError;
use crate::shelf::{Next, Place, Served, Slot, Unready};
use crate::version::Version;

/// So often a pipeline that waits for its steps is looked at, beside whenever the shelf changes: their sessions come and go
/// without the shelf.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One load of one model.
struct Load {
    name: String,
    /// Go on trying when no session can be started: the service is not ready without the model.
    stubborn: bool,
    /// Cancelled when the model is taken out meanwhile.
    tenure: CancellationToken,
}

impl Models {
    /// Reads the model's folder again: new and changed versions are loaded beside what is served, warmed up, and take over;
    /// versions that are gone go, but never the last one that can be served. Comes back when all of it is decided. What
    /// cannot be loaded leaves the last good one in service and is the error. Any model of the repository may be loaded,
    /// whatever `MODEL_NAME` says: this is somebody's explicit wish.
    ///
    /// Of several loads of one model each waits for the one before.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let (models, name) = (Arc::clone(self), name.to_owned());
        // In a task of its own: whoever asked may go away, and a load is not to be left half-way.
        let load = tokio::spawn(async move { models.load_found(&name).await });
        load.await.unwrap_or(Err(Error::Internal))
    }

    /// Takes a model out of service at once. Requests that have begun are answered; comes back when its sessions have
    /// ended, or when a run may take no longer.
    pub async fn unload(&self, name: &str) -> Result<(), Error> {
        let models = self.change_shelf(|places| {
            let there_are = super::names(places);
            let place = places.get_mut(name).filter(|place| !place.slots.is_empty());
            let place = place.ok_or(Error::UnknownModel { there_are })?;
            place.unloaded = true;
            Ok::<_, Error>(place.clear())
        })?;
        info!(model = name, "a model is unloaded");
        self.wait_for_the_end(name, models).await;
        Ok(())
    }

    /// Takes a model out whose folder is gone.
    pub async fn remove(&self, name: &str) {
        // In one step: what is being loaded for it must not find the place of whoever comes next.
        let models = self.change_shelf(|places| places.remove(name).map(|mut place| place.clear()));
        let models = models.unwrap_or_default();
        if !models.is_empty() {
            warn!(model = name, "a model is gone from the repository and is unloaded");
            self.wait_for_the_end(name, models).await;
        }
    }

    pub(super) async fn load_at_start(self: Arc<Self>, name: &str) {
        // What went wrong is in the model's place, and in the log.
        let _ = self.load_found(name).await;
    }

    async fn load_found(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        if !self.look_up(name).await.is_some_and(|found| !found.versions.is_empty() || self.knows(name)) {
            return self.nothing_to_load(name).await;
        }
        let (turn, tenure, stubborn) = {
            let mut places = self.places_mut();
            let place = places.entry(name.to_owned()).or_default();
            place.unloaded = false;
            // A model that has been ready once does not take the service back with its next version.
            place.required = place.is_awaited();
            (Arc::clone(&place.turn), place.tenure.clone(), place.required)
        };
        let _turn = turn.lock().await;
        let load = Load { name: name.to_owned(), stubborn, tenure: tenure.clone() };
        let loaded = tenure.run_until_cancelled(self.bring_all(&load)).await;
        loaded.unwrap_or_else(|| Err(load.failed("it was unloaded meanwhile".to_owned())))
    }

    /// Not there, or there and of no use.
    async fn nothing_to_load(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        if let Some(reason) = self.look_up(name).await.and_then(|found| found.why_none) {
            return Err(Error::NotLoaded { model: name.to_owned(), reason });
        }
        // Whether it was taken away or its disk has gone for a moment, who knows? It is the watch's to see, or an unload's.
        if let Some(place) = self.places_mut().get_mut(name) {
            for slot in place.slots.values_mut().filter(|slot| slot.served.is_some()) {
                slot.next = Some(Next::Broken("it is gone from the repository".to_owned()));
            }
        }
        Err(Error::NotInRepository { there_are: self.there_are().await })
    }

    async fn bring_all(self: &Arc<Self>, load: &Load) -> Result<(), Error> {
        if self.stopping.is_cancelled() {
            return Err(Error::Run(RunError::Stopped));
        }
        // Only now: the load before this one may have taken its time.
        let Some(found) = self.look_up(&load.name).await else { return self.nothing_to_load(&load.name).await };
        let Found { versions, why_none, passed_over } = found;
        for reason in passed_over {
            info!(model = load.name, reason, "a file is passed over");
        }
        let outcomes = join_all(versions.iter().map(|files| self.bring(load, files))).await;
        let mut failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
        failures.extend(why_none.clone());
        self.change(load, |place| keep(place, &versions, why_none));
        if failures.is_empty() { Ok(()) } else { Err(load.failed(failures.join("; "))) }
    }

    /// Brings one version from its files to its first answer, unless that is what is served already.
    async fn bring(self: &Arc<Self>, load: &Load, files: &ModelFiles) -> Result<(), String> {
        // A mistake of ours in here would leave the version loading for ever.
        let brought = AssertUnwindSafe(self.try_to_bring(load, files)).catch_unwind().await;
        let brought = brought.unwrap_or_else(|_| Err("an error of ours; the log says more".to_owned()));
        let outcome = match &brought {
            Ok(None) => return Ok(()),
            Ok(Some(())) => "ok",
            Err(_) => "failed",
        };
        self.metrics.loaded(&load.name, outcome);
        brought.map(|_| ()).map_err(|reason| {
            error!(model = load.name, version = files.version, reason, "a model cannot be served");
            self.change_slot(load, files, |slot| {
                // Who goes on trying knows the reason at any time.
                let tries = matches!(&slot.next, Some(Next::Starting { retries: Some(_), .. } | Next::Waiting { .. }));
                if !tries {
                    slot.next = Some(Next::Broken(reason.clone()));
                }
            });
            format!("version {}: {reason}", files.version)
        })
    }

    /// `None` when there is nothing to do.
    async fn try_to_bring(self: &Arc<Self>, load: &Load, files: &ModelFiles) -> Result<Option<()>, String> {
        self.change_slot(load, files, |slot| slot.next = Some(Next::Reading));
        if files.graph.is_none() {
            return self.try_to_bring_pipeline(load, files).await;
        }
        let reading = files.clone();
        let contents = spawn_blocking(move || read(&reading)).await;
        let contents = contents.map_err(|_| "its files could not be read".to_owned())??;
        let is_served = |slot: &mut Slot| {
            let same = slot.served.as_ref().is_some_and(|Served { model, files: from }| {
                let works = !matches!(model.state(), PoolState::Unavailable(_));
                works && from == files && model.digest == contents.digest
            });
            if same {
                slot.next = None;
            }
            same
        };
        if self.change_slot(load, files, is_served) == Some(true) {
            return Ok(None);
        }
        let attempt = self.loader.start(files, contents);
        let announced = Arc::clone(&attempt.announced);
        self.change_slot(load, files, |slot| slot.next = Some(Next::Starting { announced, retries: None }));
        match attempt.warm().await {
            Ok(model) => self.serve(load, files, model),
            Err(Failure::NoSession(error)) if load.stubborn => {
                let reason = error.to_string();
                self.go_on_trying(load, files, attempt, &error);
                return Err(reason);
            }
            Err(failure) => return Err(failure.into()),
        }
        Ok(Some(()))
    }

    /// Comes back when its steps can be asked and fit each other, or when it is plain that they do not.
    async fn try_to_bring_pipeline(&self, load: &Load, files: &ModelFiles) -> Result<Option<()>, String> {
        let reading = files.clone();
        let definition = spawn_blocking(move || Definition::read(&reading)).await;
        let definition = definition.map_err(|_| "its settings could not be read".to_owned())??;
        let is_served = |slot: &mut Slot| {
            let steps = slot.served.as_ref().and_then(|served| served.model.steps());
            let same = steps.is_some_and(|steps| *steps.definition == definition);
            if same {
                slot.next = None;
            }
            same
        };
        if self.change_slot(load, files, is_served) == Some(true) {
            return Ok(None);
        }
        let mut changes = self.changes.subscribe();
        let unready = Unready { waits: true, ..Unready::default() };
        let waiting = Next::Waiting { definition: Arc::new(definition), unready };
        self.change_slot(load, files, |slot| slot.next = Some(waiting));
        loop {
            changes.mark_unchanged();
            match self.why_not_yet(load, files) {
                None => return Ok(Some(())),
                Some(Unready { waits: false, reason }) => return Err(reason),
                Some(_) => {}
            }
            if timeout(LOOK_EVERY, changes.changed()).await.is_err() {
                self.change(load, |_| ());
            }
        }
    }

    /// Why a pipeline still waits.
    fn why_not_yet(&self, load: &Load, files: &ModelFiles) -> Option<Unready> {
        let places = self.places();
        match &places.get(&load.name)?.slots.get(&Version(files.version.clone()))?.next {
            Some(Next::Waiting { unready, .. }) => Some(unready.clone()),
            _ => None,
        }
    }

    fn serve(&self, load: &Load, files: &ModelFiles, model: Arc<Model>) {
        let served = Served { model, files: files.clone() };
        self.change_slot(load, files, |slot| *slot = Slot { served: Some(served), next: None });
    }

    /// In the background, until it works, another attempt takes over, or the model is taken out.
    fn go_on_trying(self: &Arc<Self>, load: &Load, files: &ModelFiles, attempt: Attempt, error: &StartError) {
        if matches!(error, StartError::DeviceUnavailable(_)) {
            self.refusal.send_replace(Some(format!("{}: {error}", load.name)));
        }
        let trying = CancellationToken::new();
        let announced = Arc::clone(&attempt.announced);
        let retries = Some(trying.clone().drop_guard());
        self.change_slot(load, files, |slot| slot.next = Some(Next::Starting { announced, retries }));
        let models = Arc::clone(self);
        let load = Load { name: load.name.clone(), stubborn: true, tenure: load.tenure.clone() };
        let files = files.clone();
        let attempts = async move {
            match attempt.whenever_warm(|_| ()).await {
                Ok(model) => {
                    models.metrics.loaded(&load.name, "ok");
                    models.serve(&load, &files, model);
                }
                Err(failure) => {
                    let reason = String::from(failure);
                    models.change_slot(&load, &files, |slot| slot.next = Some(Next::Broken(reason)));
                }
            }
        };
        tokio::spawn(trying.run_until_cancelled_owned(attempts));
    }

    /// Changes the model's place, unless it was taken out since the load began.
    fn change<T>(&self, load: &Load, change: impl FnOnce(&mut Place) -> T) -> Option<T> {
        self.change_shelf(|places| {
            // Within the lock: whoever takes a model out cancels there.
            if load.tenure.is_cancelled() { None } else { places.get_mut(&load.name).map(change) }
        })
    }

    fn change_slot<T>(&self, load: &Load, files: &ModelFiles, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.change(load, |place| change(place.slots.entry(Version(files.version.clone())).or_default()))
    }

    async fn wait_for_the_end(&self, name: &str, models: Vec<Arc<Model>>) {
        let ends: Vec<_> = models.iter().map(|model| model.ended()).collect();
        drop(models);
        let patience = self.loader.settings.run_timeout;
        if timeout(patience, join_all(ends)).await.is_err() {
            warn!(model = name, ?patience, "an unloaded model is still answering requests");
        }
        let places = self.places();
        // While nobody can take a place: what is being loaded anew counts already.
        if places.get(name).is_none_or(|place| place.slots.is_empty()) {
            self.metrics.gone(name);
        }
    }
}

impl Load {
    fn failed(&self, reason: String) -> Error {
        Error::NotLoaded { model: self.name.clone(), reason }
    }
}

/// Versions that are gone go, unless that would leave nothing to serve while the folder is still there: a folder that was
/// broken is not one that was taken away.
fn keep(place: &mut Place, found: &[ModelFiles], why_none: Option<String>) {
    let is_there = |version: &Version| found.iter().any(|files| files.version == version.0);
    if place.served().any(|(version, _)| is_there(version)) {
        place.slots.retain(|version, _| is_there(version));
    } else {
        let reason = why_none.unwrap_or_else(|| "its files are gone".to_owned());
        place.slots.retain(|version, slot| slot.served.is_some() || is_there(version));
        let gone = place.slots.iter_mut().filter(|(version, _)| !is_there(version));
        gone.for_each(|(_, slot)| slot.next = Some(Next::Broken(reason.clone())));
    }
}
