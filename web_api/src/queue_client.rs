use std::time::Duration;

use contract::{ModelDescription, valid_model_name};
use db_api::jobs::{Announced, Asked, Found, Input, Jobs, Kind, NewJob, Outcome, Skipped};
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, ModelState, Platform, Tensor, TensorMetadata, client, write_request};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::Error;

/// A model that no worker has announced for so long is not listed. Its jobs stay in the queue for the next worker.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_mins(1);

/// How long the answer to a question that somebody waits for is kept for him.
const TTL: Duration = Duration::from_mins(1);

/// How often an answer is looked for: soon at first, since somebody waits, and not often when it takes long.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Asks models that only a queue serves, and waits for the answer.
#[derive(Clone)]
pub struct QueueClient {
    jobs: Jobs,
}

/// What a worker says of the model that it serves.
#[derive(Debug, Deserialize)]
struct Said {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// Whoever changes what the answers are changes this; without it they are not remembered.
    #[serde(default)]
    digest: Option<String>,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

impl QueueClient {
    /// Asks over this queue.
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    /// Which models there are; one whose announcement is too old, or cannot be read, is left out.
    pub async fn models(&self) -> Result<Vec<ModelDescription>, Error> {
        let announced = self.jobs.announced().await?;
        Ok(announced.iter().filter_map(describe).collect())
    }

    /// What the workers of `model` make of `inputs`.
    pub async fn infer(
        &self,
        model: &ModelDescription,
        inputs: &[Tensor],
        patience: Duration,
    ) -> Result<Inference, Error> {
        let begun = Instant::now();
        let data = write_request(inputs).map_err(Error::Model)?;
        let asked =
            Asked { kind: Kind::V2, version: None, content_type: String::new(), json_length: None, top_k: None };
        let inputs = vec![Input { name: String::new(), data, known: None }];
        let name = model.name.clone();
        let skipped = Skipped::default();
        let job =
            NewJob { model: name, asked, inputs, once: None, content: None, webhook: None, ttl: Some(TTL), skipped };
        let id = self.jobs.submit(job).await?;
        let given_up = GivenUp { jobs: &self.jobs, id: Some(id) };
        let mut look = FIRST_LOOK;
        while begun.elapsed() < patience {
            sleep(look).await;
            look = (look * 2).min(LAST_LOOK);
            let Some(outcome) = self.jobs.results(id, &[0], usize::MAX).await?.pop().flatten() else {
                // Forgotten by a Redis that lost everything.
                if self.jobs.find(id).await? == Found::Unknown {
                    return Err(Error::Queue(db_api::jobs::JobError::Unavailable));
                }
                continue;
            };
            given_up.never_mind();
            return read(model, outcome);
        }
        Err(Error::Deadline)
    }
}

/// Nobody waits for the answer any more: who has not begun with it need not.
struct GivenUp<'a> {
    jobs: &'a Jobs,
    id: Option<db_api::jobs::JobId>,
}

impl GivenUp<'_> {
    fn never_mind(mut self) {
        self.id = None;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let jobs = self.jobs.clone();
            tokio::spawn(async move { jobs.cancel(id).await });
        }
    }
}

/// The answer of a worker is one of the protocol's, in JSON; what it does not say of itself, its announcement does.
fn read(model: &ModelDescription, outcome: Outcome) -> Result<Inference, Error> {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        status: u16,
        #[serde(default)]
        detail: String,
    }
    let answer = match outcome {
        Outcome::Answer(json) => json,
        Outcome::Error(json) => {
            let problem = serde_json::from_str(&json).unwrap_or(Problem { status: 500, detail: String::new() });
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(Error::Model(open_inference::Error::new(status, problem.detail)));
        }
    };
    let mut inference = client::decode_response(&HeaderMap::new(), answer.into()).map_err(|error| {
        warn!(error = error.message, model = model.name, "a worker's answer is none of the protocol's");
        Error::Model(open_inference::Error::new(StatusCode::BAD_GATEWAY, "the worker's answer cannot be read"))
    })?;
    inference.model.clone_from(&model.name);
    inference.version.clone_from(&model.version);
    inference.provenance.model_digest.clone_from(&model.digest);
    Ok(inference)
}

fn describe(announced: &Announced) -> Option<ModelDescription> {
    let Announced { name, said, ago } = announced;
    if *ago > ANNOUNCEMENT_TIMEOUT {
        return None;
    }
    let unreadable =
        |reason: &dyn std::fmt::Display| warn!(%reason, model = name, "a worker's announcement cannot be read");
    if !valid_model_name(name) {
        unreadable(&"this is no name for a model");
        return None;
    }
    let said: Said = serde_json::from_str(said).inspect_err(|error| unreadable(error)).ok()?;
    let version = said.version.unwrap_or_else(|| "1".to_owned());
    Some(ModelDescription {
        title: said.title.unwrap_or_else(|| name.clone()),
        description: said.description.unwrap_or_default(),
        digest: said.digest.unwrap_or_default(),
        inputs: said.inputs,
        outputs: said.outputs,
        platform: Platform::Queue,
        ..ModelDescription::placeholder(name, &version, ModelState::Ready, None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_listed_until_its_announcement_is_too_old() {
        let announced = |ago| Announced {
            name: "keywords".to_owned(),
            said: r#"{"inputs": [], "outputs": [], "version": "7"}"#.to_owned(),
            ago,
        };
        let model = describe(&announced(ANNOUNCEMENT_TIMEOUT)).unwrap();
        assert_eq!((&*model.name, &*model.version, model.is_ready()), ("keywords", "7", true));
        assert_eq!(describe(&announced(ANNOUNCEMENT_TIMEOUT + Duration::from_millis(1))), None);
    }
}
