use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use contract::ModelDescription;
use open_inference::{ModelIndex, ModelState};
use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::Error;
use crate::model::{Model, describe_state};
use crate::pipeline::Definition;
use crate::scheduler::PoolState;
use crate::repository::ModelFiles;
use crate::session::StartError;
use crate::version::Version;

/// What is served, or is to be, by name.
pub type Shelf = BTreeMap<String, Place>;

/// A model's place on the shelf: all its versions.
#[derive(Default)]
pub struct Place {
    /// By version.
    pub slots: BTreeMap<Version, Slot>,
    /// The service is not ready before this model has been: it was asked for at the start.
    pub required: bool,
    /// It was taken out on purpose, and stays out until somebody asks for it.
    pub unloaded: bool,
    /// Versions that were taken out; as long as one can be upgraded, a request is still being answered.
    pub leaving: Vec<(Version, Weak<Model>)>,
    /// Held by whoever loads the model: one at a time.
    pub turn: Arc<Mutex<()>>,
    /// Cancelled when the model is taken out: whatever was being loaded for it then has no place any more.
    pub tenure: CancellationToken,
}

/// A version's place.
#[derive(Default)]
pub struct Slot {
    /// What answers.
    pub served: Option<Served>,
    /// What is to take over, or why it cannot.
    pub next: Option<Next>,
}

/// A version that has been warm.
pub struct Served {
    /// With its sessions.
    pub model: Arc<Model>,
    /// Where it came from.
    pub files: ModelFiles,
}

/// A version that has not been warm yet.
pub enum Next {
    /// Its files are being read.
    Reading,
    /// Its first session is being started. Only its files have spoken so far.
    Starting {
        /// What they say, and the sessions.
        announced: Arc<Model>,
        /// Ends the attempts to start it.
        retries: Option<DropGuard>,
    },
    /// A pipeline whose steps cannot be asked, or do not fit each other, as the models are now. It is served as soon as
    /// they can and do.
    Waiting {
        /// What it is to be.
        definition: Arc<Definition>,
        /// Why it is not.
        unready: Unready,
    },
    /// Its files are of no use.
    Broken(String),
}

/// Why a pipeline is not served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unready {
    /// Which step and which field.
    pub reason: String,
    /// A model of a step is still being loaded: waiting is reasonable.
    pub waits: bool,
}

impl Place {
    /// The version that answers where none is named: the largest that has been warm. At the start the largest of all, so
    /// that no older one answers just because it was warm sooner; one that cannot be started stands back.
    pub fn default_version(&self) -> Option<&Version> {
        let counts = |slot: &Slot| slot.served.is_some() || (self.required && slot.is_promising());
        let best = self.slots.iter().rev().find(|(_, slot)| counts(slot));
        best.or_else(|| self.slots.last_key_value()).map(|(version, _)| version)
    }

    /// Whether the service is to wait for it: until each version has been decided, and one of them can answer.
    pub fn is_awaited(&self) -> bool {
        self.required
            && (self.slots.values().any(Slot::is_promising) || self.slots.values().all(|slot| slot.served.is_none()))
    }

    /// The versions that have been warm, from the smallest to the largest.
    pub fn served(&self) -> impl Iterator<Item = (&Version, &Served)> {
        self.slots.iter().filter_map(|(version, slot)| Some((version, slot.served.as_ref()?)))
    }

    /// Every model that has sessions.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.slots.values().flat_map(|slot| {
            let next = slot.next.as_ref().and_then(|next| match next {
                Next::Starting { announced, .. } => Some(announced),
                Next::Reading | Next::Waiting { .. } | Next::Broken(_) => None,
            });
            slot.served.iter().map(|served| &served.model).chain(next)
        })
    }

    /// Takes all versions out. What is given back ends when nobody holds it any more.
    pub fn clear(&mut self) -> Vec<Arc<Model>> {
        self.tenure.cancel();
        self.tenure = CancellationToken::new();
        self.required = false;
        let left = self.served().map(|(version, served)| (version.clone(), Arc::downgrade(&served.model))).collect();
        self.leaving = left;
        let models = self.models().cloned().collect();
        self.slots.clear();
        models
    }
}

impl Slot {
    /// What answers.
    pub fn model(&self, name: &str) -> Result<Arc<Model>, Error> {
        if let Some(served) = &self.served {
            return Ok(Arc::clone(&served.model));
        }
        let reason = self.describe_next(name, &Version::default()).reason.unwrap_or_default();
        Err(Error::Unavailable { model: name.to_owned(), reason })
    }

    /// What there is to say of the one that answers, or else of the one that is to.
    pub fn describe(&self, name: &str, version: &Version) -> ModelDescription {
        match &self.served {
            Some(Served { model, .. }) => model.describe(model.state()),
            None => self.describe_next(name, version),
        }
    }

    /// Its line in the repository's index.
    pub fn index(&self, name: &str, version: &Version) -> ModelIndex {
        let ModelDescription { state, reason, left_out, notes, batching, .. } = self.describe(name, version);
        let reason = match (&self.served, &self.next) {
            // Its session died after its files were changed, and cannot be started from them.
            (Some(_), Some(Next::Broken(why))) if state != ModelState::Ready => {
                format!("version {} on disk cannot be served: {why}; the last good one is not ready either", version.0)
            }
            (
                Some(Served { model, .. }),
                Some(Next::Broken(why) | Next::Waiting { unready: Unready { reason: why, .. }, .. }),
            ) => format!(
                "version {} on disk cannot be served: {why}; the last good one ({}) is still served",
                version.0, model.digest
            ),
            (Some(_), Some(_)) if reason.is_none() => "a changed one is being loaded".to_owned(),
            // A model that can be asked may still not give all that its graph does, or use all of its files.
            _ => reason.unwrap_or_else(|| [left_out, notes].concat().join("; ")),
        };
        ModelIndex { name: name.to_owned(), version: version.0.clone(), state, reason, batching }
    }

    /// Whether waiting for it is reasonable.
    fn is_promising(&self) -> bool {
        match &self.next {
            Some(Next::Reading) => true,
            Some(Next::Starting { announced, .. }) => !matches!(announced.state(), PoolState::Unavailable(_)),
            Some(Next::Waiting { unready, .. }) => unready.waits,
            Some(Next::Broken(_)) | None => false,
        }
    }

    fn describe_next(&self, name: &str, version: &Version) -> ModelDescription {
        match &self.next {
            Some(Next::Starting { announced, .. }) => announced.describe(match announced.state() {
                // Its first session may be warm before the settings have been held against it.
                PoolState::Ready(_) => PoolState::Starting,
                other => other,
            }),
            Some(Next::Waiting { unready: Unready { reason, waits: true }, .. }) => {
                let reason = Some(reason.clone());
                ModelDescription { reason, ..describe_state(name, &version.0, PoolState::Starting) }
            }
            Some(Next::Broken(reason) | Next::Waiting { unready: Unready { reason, .. }, .. }) => {
                describe_state(name, &version.0, PoolState::Unavailable(StartError::Model(reason.clone())))
            }
            Some(Next::Reading) | None => describe_state(name, &version.0, PoolState::Starting),
        }
    }
}

/// The line in the index of a version that is in the repository and not on the shelf. `unselected` is the reason of one that
/// `MODEL_NAME` does not select.
pub fn index_unserved(name: &str, version: &str, place: Option<&Place>, unselected: Option<&str>) -> ModelIndex {
    let leaving = place
        .is_some_and(|place| place.leaving.iter().any(|(left, model)| left.0 == version && model.strong_count() > 0));
    let unloaded = place.is_some_and(|place| place.unloaded);
    let (state, reason) = if leaving {
        (ModelState::Unloading, "requests that have begun are still being answered")
    } else if unloaded {
        (ModelState::Unavailable, "it was unloaded")
    } else {
        (ModelState::Unavailable, unselected.unwrap_or("it is not loaded"))
    };
    let (name, version) = (name.to_owned(), version.to_owned());
    ModelIndex { name, version, state, reason: reason.to_owned(), batching: None }
}
