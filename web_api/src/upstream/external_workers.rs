//! External workers: models that are served from the job queue only.
//!
//! A worker announces its model in Redis and takes inputs from the queue. An inference request becomes a job of one input, whose
//! result is polled.

use std::fmt;
use std::time::Duration;

use contract::{ModelDescription, valid_model_name};
use db_api::jobs::{
    Input, InputKind, InputSpec, JobError, JobId, JobLookup, Jobs, NewJob, Outcome, SkippedFiles, WorkerAnnouncement,
};
use http::{HeaderMap, StatusCode};
use open_inference::{Inference, ModelState, Platform, Tensor, TensorMetadata, client, request_to_json};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::Error;

/// Age after which an announcement no longer lists its model. Jobs of the model stay in the queue for the next worker.
const ANNOUNCEMENT_TIMEOUT: Duration = Duration::from_mins(1);

/// How long the result of a request is kept for its caller.
const RESULT_TTL: Duration = Duration::from_mins(1);

/// Poll interval for a result: short at first, for latency, and doubled up to the maximum.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(5);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Sends requests to external workers and waits for the results.
#[derive(Clone)]
pub struct ExternalWorkers {
    jobs: Jobs,
}

/// Metadata that a worker announces for its model, as JSON.
#[derive(Debug, Deserialize)]
struct WorkerMetadata {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// Changes whenever results change. Without it, results are not cached.
    #[serde(default)]
    digest: Option<String>,
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
}

impl ExternalWorkers {
    /// Workers of this queue.
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    /// Lists the announced models, without those whose announcement is too old or cannot be read.
    pub async fn models(&self) -> Result<Vec<ModelDescription>, Error> {
        let announced = self.jobs.announcements().await?;
        Ok(announced.iter().filter_map(describe).collect())
    }

    /// Runs `model` on `inputs`.
    pub async fn infer(
        &self,
        model: &ModelDescription,
        inputs: &[Tensor],
        timeout: Duration,
    ) -> Result<Inference, Error> {
        let started = Instant::now();
        let id = self.jobs.submit(job_of_one_input(model, inputs)?).await?;
        let cancel = CancelOnDrop { jobs: &self.jobs, id: Some(id) };
        let mut poll_interval = MIN_POLL_INTERVAL;
        while started.elapsed() < timeout {
            sleep(poll_interval).await;
            poll_interval = (poll_interval * 2).min(MAX_POLL_INTERVAL);
            let Some(outcome) = self.jobs.results(id, &[0], usize::MAX).await?.pop().flatten() else {
                // Happens if Redis has lost its data.
                if self.jobs.find(id).await? == JobLookup::Unknown {
                    return Err(Error::JobQueue(JobError::Unavailable));
                }
                continue;
            };
            cancel.disarm();
            return inference_of(model, outcome);
        }
        Err(Error::DeadlineExceeded)
    }
}

fn job_of_one_input(model: &ModelDescription, inputs: &[Tensor]) -> Result<NewJob, Error> {
    let data = request_to_json(inputs).map_err(Error::Model)?;
    let (content_type, skipped) = (String::new(), SkippedFiles::default());
    let spec = InputSpec { kind: InputKind::V2, version: None, content_type, json_length: None, top_k: None };
    let inputs = vec![Input { name: String::new(), data, outcome: None }];
    let (model, ttl) = (model.name.clone(), Some(RESULT_TTL));
    Ok(NewJob { model, spec, inputs, idempotency_key: None, dedup_key: None, webhook: None, ttl, skipped })
}

/// Cancels a job whose caller has disconnected, so that no worker starts it.
struct CancelOnDrop<'a> {
    jobs: &'a Jobs,
    id: Option<JobId>,
}

impl CancelOnDrop<'_> {
    fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let jobs = self.jobs.clone();
            tokio::spawn(async move { jobs.cancel(id).await });
        }
    }
}

/// Decodes the result of a worker: a JSON response of the protocol. Name, version and digest come from the announcement.
fn inference_of(model: &ModelDescription, outcome: Outcome) -> Result<Inference, Error> {
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        status: u16,
        #[serde(default)]
        detail: String,
    }
    let json = match outcome {
        Outcome::Success(json) => json,
        Outcome::Error(json) => {
            let problem = serde_json::from_str(&json).unwrap_or(Problem { status: 500, detail: String::new() });
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(Error::Model(open_inference::Error::new(status, problem.detail)));
        }
    };
    let mut inference = client::decode_response(&HeaderMap::new(), json.into()).map_err(|error| {
        warn!(error = error.message, model = model.name, "result of an external worker cannot be decoded");
        Error::Model(open_inference::Error::new(
            StatusCode::BAD_GATEWAY,
            "the result of the external worker cannot be decoded",
        ))
    })?;
    inference.model.clone_from(&model.name);
    inference.version.clone_from(&model.version);
    inference.provenance.model_digest.clone_from(&model.digest);
    Ok(inference)
}

fn describe(announcement: &WorkerAnnouncement) -> Option<ModelDescription> {
    let WorkerAnnouncement { name, metadata, age } = announcement;
    if *age > ANNOUNCEMENT_TIMEOUT {
        return None;
    }
    let unreadable =
        |reason: &dyn fmt::Display| warn!(%reason, model = name, "announcement of an external worker cannot be read");
    if !valid_model_name(name) {
        unreadable(&"the model name is not valid");
        return None;
    }
    let metadata: WorkerMetadata = serde_json::from_str(metadata).inspect_err(|error| unreadable(error)).ok()?;
    let version = metadata.version.unwrap_or_else(|| "1".to_owned());
    Some(ModelDescription {
        title: metadata.title.unwrap_or_else(|| name.clone()),
        description: metadata.description.unwrap_or_default(),
        digest: metadata.digest.unwrap_or_default(),
        inputs: metadata.inputs,
        outputs: metadata.outputs,
        platform: Platform::Queue,
        ..ModelDescription::placeholder(name, &version, ModelState::Ready, None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_listed_until_its_announcement_expires() {
        let announced = |age| WorkerAnnouncement {
            name: "keywords".to_owned(),
            metadata: r#"{"inputs": [], "outputs": [], "version": "7"}"#.to_owned(),
            age,
        };
        let model = describe(&announced(ANNOUNCEMENT_TIMEOUT)).unwrap();
        assert_eq!((&*model.name, &*model.version, model.is_ready()), ("keywords", "7", true));
        assert_eq!(describe(&announced(ANNOUNCEMENT_TIMEOUT + Duration::from_millis(1))), None);
    }
}
