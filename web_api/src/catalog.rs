use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use contract::{ModelDescription, ModelList};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::error::Error;
use crate::model_client::ModelClient;

/// How old the list of models may be.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// Which models there are, as `model_api` last said. It outlives `model_api`: keys are made from the digests in it,
/// so what is remembered is still found while nobody can compute.
#[derive(Clone, Default)]
pub struct Catalog {
    known: Arc<RwLock<Known>>,
    stale: Arc<Notify>,
}

/// What is known at one moment.
#[derive(Clone, Default)]
pub struct Known {
    /// In alphabetical order.
    pub models: Arc<Vec<ModelDescription>>,
    /// Whether `model_api` gave the last list it was asked for.
    pub reachable: bool,
    /// Whether it said in that list that it is ready.
    pub ready: bool,
}

impl Known {
    /// A model whose files are still being read has no digest yet: its answers are found under the one it had.
    fn remembering(&self, model: ModelDescription) -> ModelDescription {
        let before = self.models.iter().find(|before| before.name == model.name && before.version == model.version);
        match before {
            Some(before) if model.digest.is_empty() => {
                let ModelDescription { state, reason, device, .. } = model;
                ModelDescription { state, reason, device, ..before.clone() }
            }
            _ => model,
        }
    }

    /// Why no traffic should come; `None` when it may.
    pub fn reason(&self) -> Option<String> {
        if !self.reachable {
            return Some("model_api does not answer".to_owned());
        }
        if self.ready {
            return None;
        }
        if self.models.is_empty() {
            return Some("no model is served".to_owned());
        }
        let unready = self.models.iter().find(|model| !model.is_ready());
        Some(unready.map_or("model_api is not ready".to_owned(), |model| {
            format!("{}: {}", model.name, model.reason.as_deref().unwrap_or("is being loaded"))
        }))
    }
}

impl Catalog {
    /// What is known now.
    pub fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model `name`, or the only one when there is no name.
    pub fn find(&self, name: Option<&str>) -> Result<ModelDescription, Error> {
        let known = self.known();
        let names = || known.models.iter().map(|model| model.name.clone()).collect::<Vec<_>>();
        match (name, known.models.as_slice()) {
            (None, [only]) => Ok(only.clone()),
            (_, []) if !known.reachable => Err(Error::ModelUnreachable),
            (None, []) => Err(Error::UnknownModel { asked: String::new(), known: Vec::new() }),
            (None, _) => Err(Error::NameAModel(names())),
            (Some(name), models) => models
                .iter()
                .find(|model| model.name == name)
                .cloned()
                .ok_or_else(|| Error::UnknownModel { asked: name.chars().take(128).collect(), known: names() }),
        }
    }

    /// Says that an answer came from a model that is not in the list.
    pub fn refresh_soon(&self) {
        self.stale.notify_one();
    }

    /// Asks `model_api` for ever.
    pub async fn follow(self, client: ModelClient) {
        loop {
            let list = client.models().await;
            self.learn(list);
            let _ = timeout(REFRESH_EVERY, self.stale.notified()).await;
            // However many answers say that the list is old, it is asked for at most ten times a second.
            sleep(REFRESH_EVERY / 10).await;
        }
    }

    /// Replaces what is known; an error keeps the models and marks them as not reachable.
    pub fn learn(&self, list: Result<ModelList, Error>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let was_reachable = known.reachable;
        known.reachable = list.is_ok();
        if let Ok(list) = list {
            known.ready = list.ready;
            let models = list.models.into_iter().map(|model| known.remembering(model)).collect();
            known.models = Arc::new(models);
        }
        match (was_reachable, known.reachable) {
            (false, true) => info!("model_api answers"),
            (true, false) => warn!("model_api does not answer; giving remembered answers only"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use open_inference::ModelState;

    use super::*;

    fn list(digest: &str, state: ModelState) -> ModelList {
        let model = ModelDescription {
            title: format!("Title with {digest:?}"),
            digest: digest.to_owned(),
            ..ModelDescription::unread("mnist", "1", state, None)
        };
        ModelList { models: vec![model], ready: state == ModelState::Ready }
    }

    #[test]
    fn a_model_that_is_being_read_again_keeps_the_digest_it_had() {
        let catalog = Catalog::default();
        catalog.learn(Ok(list("sha256:1", ModelState::Ready)));
        catalog.learn(Ok(list("", ModelState::Loading)));
        let model = catalog.find(None).unwrap();
        assert_eq!((model.digest.as_str(), model.state), ("sha256:1", ModelState::Loading));
        assert_eq!(catalog.known().reason().unwrap(), "mnist: is being loaded");
        catalog.learn(Ok(list("sha256:2", ModelState::Ready)));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
        catalog.learn(Err(Error::ModelUnreachable));
        assert_eq!(catalog.find(None).unwrap().digest, "sha256:2");
    }
}
