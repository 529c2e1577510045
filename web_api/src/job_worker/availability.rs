use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use open_inference::{ModelState, Platform};
use tokio::time::Instant;

use crate::catalog::Known;

/// Tracks for how long `model_api` has listed a model as unavailable, or not at all.
///
/// The time ends when the model is ready, and when `model_api` cannot be reached: then nothing is known. A load does not end it, so a model
/// whose every load fails does not begin anew with each.
#[derive(Debug)]
pub struct Availability {
    since: Mutex<Option<Instant>>,
    timeout: Duration,
}

/// What the inputs of a model can do.
#[derive(Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Be computed.
    Ready,
    /// Wait: the model is being loaded, or has not been unavailable for long.
    Waiting,
    /// Fail, for this reason: a complete sentence.
    Failed(String),
}

impl Availability {
    /// Inputs fail once their model has been unavailable for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { since: Mutex::default(), timeout }
    }

    /// The outlook of `model` by the list `known`.
    pub fn of(&self, model: &str, known: &Known) -> Outlook {
        let listed = known.defaults().find(|listed| listed.name == model);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = match listed {
            _ if !known.reachable => {
                *since = None;
                return Outlook::Waiting;
            }
            Some(listed) if listed.platform == Platform::Queue => {
                // Workers of its own take its inputs.
                *since = None;
                return Outlook::Waiting;
            }
            Some(listed) if listed.is_ready() => {
                *since = None;
                return Outlook::Ready;
            }
            Some(listed) if listed.state != ModelState::Unavailable => return Outlook::Waiting,
            Some(listed) => listed.reason.clone().unwrap_or_else(|| "no reason is known".to_owned()),
            None => "it is no longer served".to_owned(),
        };
        if since.get_or_insert_with(Instant::now).elapsed() < self.timeout {
            return Outlook::Waiting;
        }
        Outlook::Failed(format!(
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
    use crate::catalog::Catalog;
    use crate::error::Error;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// The outlook while `model_api` lists `mnist` in this state; `None`: not at all.
    fn look(availability: &Availability, state: Option<ModelState>) -> Outlook {
        let catalog = Catalog::default();
        let reason = (state != Some(ModelState::Ready)).then(|| "its file is no ONNX model".to_owned());
        let models =
            state.map(|state| ModelDescription::placeholder("mnist", "1", state, reason)).into_iter().collect();
        catalog.learn(Ok(ModelList { models, ready: true, unselected: Unselected::default() }));
        availability.of("mnist", &catalog.known())
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_of_a_broken_model_fail_after_a_minute_with_its_reason() {
        let availability = Availability::new(TIMEOUT);
        let broken = Some(ModelState::Unavailable);
        assert_eq!(look(&availability, broken), Outlook::Waiting);
        advance(TIMEOUT / 2).await;
        assert_eq!(look(&availability, Some(ModelState::Loading)), Outlook::Waiting);
        advance(TIMEOUT / 2).await;
        assert_eq!(look(&availability, Some(ModelState::Loading)), Outlook::Waiting, "this load may succeed");
        let Outlook::Failed(reason) = look(&availability, broken) else { panic!("it has not been ready for a minute") };
        assert!(
            reason
                .starts_with("The model \"mnist\" has been unavailable for more than 60 s: its file is no ONNX model.")
        );
        assert_eq!(look(&availability, Some(ModelState::Ready)), Outlook::Ready);
        assert_eq!(look(&availability, broken), Outlook::Waiting, "a new minute begins");
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_replaced_within_a_minute_loses_no_input() {
        let availability = Availability::new(TIMEOUT);
        assert_eq!(look(&availability, None), Outlook::Waiting);
        advance(TIMEOUT * 9 / 10).await;
        assert_eq!(look(&availability, None), Outlook::Waiting);
        assert_eq!(look(&availability, Some(ModelState::Ready)), Outlook::Ready);
        assert_eq!(look(&availability, None), Outlook::Waiting);
        advance(TIMEOUT).await;
        let Outlook::Failed(reason) = look(&availability, None) else { panic!("it has been gone for a minute") };
        assert!(reason.contains("it is no longer served"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn inputs_wait_however_long_model_api_is_away() {
        let availability = Availability::new(TIMEOUT);
        assert_eq!(look(&availability, None), Outlook::Waiting);
        advance(TIMEOUT * 2).await;
        let catalog = Catalog::default();
        catalog.learn(Err(Error::ModelUnreachable));
        assert_eq!(availability.of("mnist", &catalog.known()), Outlook::Waiting);
        assert_eq!(look(&availability, None), Outlook::Waiting, "the minute begins when it is back");
    }
}
