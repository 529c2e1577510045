use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use open_inference::{ModelState, Platform};
use tokio::time::Instant;

use crate::upstream::catalog::CatalogSnapshot;

/// Tracks for how long a model has been unavailable or missing in the list of `model_api`.
///
/// The time ends when the model is ready. It also ends when `model_api` is unreachable, because the state of the model is unknown then.
/// A load does not end it: a model that fails to load again and again stays unavailable.
#[derive(Debug)]
pub struct Availability {
    unavailable_since: Mutex<Option<Instant>>,
    timeout: Duration,
}

/// Whether inputs of a model can run.
#[derive(Debug, PartialEq, Eq)]
pub enum ModelStatus {
    /// They run.
    Ready,
    /// They wait: the model is being loaded, or has not been unavailable for long.
    Waiting,
    /// They fail with this reason, a complete sentence.
    Failed(String),
}

impl Availability {
    /// Inputs fail once their model has been unavailable for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { unavailable_since: Mutex::default(), timeout }
    }

    /// The status of `model` according to `catalog`.
    pub fn status(&self, model: &str, catalog: &CatalogSnapshot) -> ModelStatus {
        let listed = catalog.defaults().find(|listed| listed.name == model);
        let mut since = self.unavailable_since.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match listed {
            _ if !catalog.reachable => {
                *since = None;
                return ModelStatus::Waiting;
            }
            Some(listed) if listed.platform == Platform::Queue => {
                // External workers take its inputs.
                *since = None;
                return ModelStatus::Waiting;
            }
            Some(listed) if listed.is_ready() => {
                *since = None;
                return ModelStatus::Ready;
            }
            Some(listed) if listed.state != ModelState::Unavailable => return ModelStatus::Waiting,
            Some(listed) => listed.reason.clone().unwrap_or_else(|| "no reason is known".to_owned()),
            None => "it is no longer served".to_owned(),
        };
        if since.get_or_insert_with(Instant::now).elapsed() < self.timeout {
            return ModelStatus::Waiting;
        }
        ModelStatus::Failed(format!(
            "The model {model:?} has been unavailable for more than {} s: {reason}. Once it is ready, POST /jobs/{{id}}/retry \
             computes the failed inputs.",
            self.timeout.as_secs_f64()
        ))
    }
}

#[cfg(test)]
mod tests {
    use contract::{ModelDescription, ModelList, Unselected};
    use tokio::time::advance;

    use super::*;
    use crate::error::Error;
    use crate::upstream::catalog::Catalog;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// The status while `model_api` lists `mnist` in this state; `None` if it is not listed.
    fn status(availability: &Availability, state: Option<ModelState>) -> ModelStatus {
        let catalog = Catalog::default();
        let reason = (state != Some(ModelState::Ready)).then(|| "its file is no ONNX model".to_owned());
        let models =
            state.map(|state| ModelDescription::placeholder("mnist", "1", state, reason)).into_iter().collect();
        catalog.apply(Ok(ModelList { models, ready: true, unselected: Unselected::default() }));
        availability.status("mnist", &catalog.snapshot())
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_of_a_broken_model_fail_after_the_timeout_with_the_reason() {
        let availability = Availability::new(TIMEOUT);
        let broken = Some(ModelState::Unavailable);
        assert_eq!(status(&availability, broken), ModelStatus::Waiting);
        advance(TIMEOUT / 2).await;
        assert_eq!(status(&availability, Some(ModelState::Loading)), ModelStatus::Waiting);
        advance(TIMEOUT / 2).await;
        assert_eq!(status(&availability, Some(ModelState::Loading)), ModelStatus::Waiting, "this load may succeed");
        let ModelStatus::Failed(reason) = status(&availability, broken) else { panic!("the timeout has expired") };
        assert!(
            reason
                .starts_with("The model \"mnist\" has been unavailable for more than 60 s: its file is no ONNX model.")
        );
        assert_eq!(status(&availability, Some(ModelState::Ready)), ModelStatus::Ready);
        assert_eq!(status(&availability, broken), ModelStatus::Waiting, "a new timeout starts");
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_of_a_model_that_is_replaced_within_the_timeout_do_not_fail() {
        let availability = Availability::new(TIMEOUT);
        assert_eq!(status(&availability, None), ModelStatus::Waiting);
        advance(TIMEOUT * 9 / 10).await;
        assert_eq!(status(&availability, None), ModelStatus::Waiting);
        assert_eq!(status(&availability, Some(ModelState::Ready)), ModelStatus::Ready);
        assert_eq!(status(&availability, None), ModelStatus::Waiting);
        advance(TIMEOUT).await;
        let ModelStatus::Failed(reason) = status(&availability, None) else { panic!("the timeout has expired") };
        assert!(reason.contains("it is no longer served"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_wait_as_long_as_model_api_is_unreachable() {
        let availability = Availability::new(TIMEOUT);
        assert_eq!(status(&availability, None), ModelStatus::Waiting);
        advance(TIMEOUT * 2).await;
        let catalog = Catalog::default();
        catalog.apply(Err(Error::ModelUnreachable));
        assert_eq!(availability.status("mnist", &catalog.snapshot()), ModelStatus::Waiting);
        assert_eq!(status(&availability, None), ModelStatus::Waiting, "the timeout starts when model_api is back");
    }
}
