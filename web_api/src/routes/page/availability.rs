//! Whether a model can be used, in the page's words.

use contract::ModelDescription;
use open_inference::{ModelState, Platform};

/// What the page shows of a model's state.
#[derive(Debug, PartialEq)]
pub(super) struct Availability {
    /// For the list of facts.
    pub fact: String,
    /// What a person must know before sending an image; empty where nothing is wrong.
    pub notice: String,
    /// Whether no image can get a result, so that the form is disabled.
    pub is_blocked: bool,
}

impl Availability {
    /// `reachable`: whether `model_api` answers. Models of a queue do not need it.
    pub fn of(model: &ModelDescription, reachable: bool) -> Self {
        if !reachable && model.platform != Platform::Queue {
            return Self {
                fact: "Model server not reachable".to_owned(),
                notice:
                    "The model server does not answer. Images whose result is cached still get it; others get an error \
                         until the server is back."
                        .to_owned(),
                is_blocked: false,
            };
        }
        let reason = model.reason.as_deref();
        match model.state {
            ModelState::Ready => Self { fact: "Ready".to_owned(), notice: String::new(), is_blocked: false },
            ModelState::Unavailable => Self {
                fact: "Not ready".to_owned(),
                notice: format!("This model cannot be used: {}", reason.unwrap_or("it is not loaded.")),
                is_blocked: true,
            },
            _ => Self {
                fact: reason
                    .map_or("Not ready: it is being loaded".to_owned(), |reason| format!("Not ready: {reason}")),
                notice: String::new(),
                is_blocked: false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(state: ModelState, reason: Option<&str>, reachable: bool) -> Availability {
        Availability::of(&ModelDescription::placeholder("m", "1", state, reason.map(str::to_owned)), reachable)
    }

    #[test]
    fn only_a_model_that_cannot_be_used_blocks_the_form_and_its_reason_is_shown() {
        let ready = of(ModelState::Ready, None, true);
        assert_eq!((ready.fact.as_str(), ready.notice.as_str(), ready.is_blocked), ("Ready", "", false));
        let broken = of(ModelState::Unavailable, Some("is no graph"), true);
        assert_eq!((broken.notice.as_str(), broken.is_blocked), ("This model cannot be used: is no graph", true));
        let loading = of(ModelState::Loading, None, true);
        assert_eq!((loading.fact.as_str(), loading.is_blocked), ("Not ready: it is being loaded", false));
    }

    #[test]
    fn an_unreachable_model_server_is_said_and_a_queue_does_not_need_it() {
        let gone = of(ModelState::Ready, None, false);
        assert_eq!((gone.fact.as_str(), gone.is_blocked), ("Model server not reachable", false));
        assert!(gone.notice.starts_with("The model server does not answer."));
        let queue = ModelDescription {
            platform: Platform::Queue,
            ..ModelDescription::placeholder("m", "1", ModelState::Ready, None)
        };
        assert_eq!(Availability::of(&queue, false).fact, "Ready");
    }
}
