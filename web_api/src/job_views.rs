//! JSON representation of jobs and results.

use std::iter::repeat;
use std::ops::Range;

use db_api::jobs::{DeliveryStatus, Job, JobError, JobId, Jobs, Outcome, SkippedFiles, Webhook};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

/// Job in responses, events and webhooks.
#[derive(Debug, Serialize)]
pub struct JobBody<'a> {
    id: String,
    model: &'a str,
    status: &'static str,
    /// Whether the job survives a restart.
    durable: bool,
    total: u32,
    /// Number of inputs with a result.
    done: u32,
    /// Number of inputs with an error.
    failed: u32,
    /// Number of failed inputs whose workers died.
    dead: u32,
    /// Number of started runs. Cached inputs need none, and an input whose worker died needs several.
    runs: u32,
    /// Why an unfinished job makes no progress.
    reason: Option<String>,
    created: String,
    started: Option<String>,
    finished: Option<String>,
    /// Time at which the job and its results are deleted.
    expires: Option<String>,
    /// Files of the submission that are not inputs.
    skipped: &'a SkippedFiles,
    webhook: Option<WebhookBody<'a>>,
}

/// Delivery of a webhook. It does not contain the URL, which may be secret: `GET /jobs` shows jobs to every client.
#[derive(Debug, Serialize)]
struct WebhookBody<'a> {
    /// `waiting` for the end of the job, `due`, `delivered` or `failed`.
    status: &'static str,
    tries: u32,
    /// Error of the last attempt.
    error: Option<&'a str>,
}

/// A worker has stored a result that is not valid JSON.
#[derive(Debug, thiserror::Error)]
#[error("the result is not valid JSON")]
pub struct InvalidResult;

/// Result of one input.
#[derive(Debug, Serialize)]
pub struct ResultBody<'a> {
    pub index: u32,
    pub name: &'a str,
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a RawValue>,
}

impl<'a> JobBody<'a> {
    /// Represents a job without `reason`.
    pub fn of(jobs: &Jobs, job: &'a Job) -> Self {
        Self {
            id: job.id.to_string(),
            model: &job.model,
            status: job.status.as_str(),
            durable: jobs.is_durable(),
            total: job.total,
            done: job.done,
            failed: job.failed,
            dead: job.dead,
            runs: job.runs,
            reason: None,
            created: timestamp(job.created_ms),
            started: job.started_ms.map(timestamp),
            finished: job.finished_ms.map(timestamp),
            expires: job.expires_ms.map(timestamp),
            skipped: &job.skipped,
            webhook: job.webhook.as_ref().map(|webhook| WebhookBody::new(job, webhook)),
        }
    }

    /// Adds the reason why the job makes no progress.
    pub fn with_reason(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }
}

impl<'a> WebhookBody<'a> {
    fn new(job: &Job, webhook: &'a Webhook) -> Self {
        let status = match webhook.delivery {
            Some(DeliveryStatus::Delivered) => "delivered",
            Some(DeliveryStatus::Failed) => "failed",
            None if job.status.has_ended() => "due",
            None => "waiting",
        };
        Self { status, tries: webhook.attempts, error: webhook.error.as_deref() }
    }
}

impl<'a> ResultBody<'a> {
    /// Represents a result.
    pub fn new(index: u32, name: &'a str, outcome: &'a Outcome) -> Result<Self, InvalidResult> {
        let raw = |json: &'a str| serde_json::from_str::<&RawValue>(json).map_err(|_| InvalidResult);
        Ok(match outcome {
            Outcome::Success(json) => Self { index, name, status: "succeeded", answer: Some(raw(json)?), error: None },
            Outcome::Error(json) => Self { index, name, status: "failed", answer: None, error: Some(raw(json)?) },
        })
    }
}

/// Page of results of consecutive inputs.
pub struct ResultsPage {
    /// Index, name and outcome of each input that has ended.
    pub results: Vec<(u32, String, Outcome)>,
    /// Index of the first input after this page.
    pub next: u32,
}

/// Reads results of `inputs`, up to `max_bytes` in total and at least one.
pub async fn results_page(
    jobs: &Jobs,
    job: JobId,
    inputs: Range<u32>,
    max_bytes: usize,
) -> Result<ResultsPage, JobError> {
    let indices: Vec<u32> = inputs.clone().collect();
    let outcomes = jobs.results(job, &indices, max_bytes).await?;
    let next = inputs.start + outcomes.len() as u32;
    // A program that submits through Redis directly may have stored fewer names than inputs.
    let names = jobs.names(job, inputs.start..next).await?.into_iter().chain(repeat(String::new()));
    let all = indices.into_iter().zip(names).zip(outcomes);
    let results = all.filter_map(|((index, name), outcome)| Some((index, name, outcome?))).collect();
    Ok(ResultsPage { results, next })
}

/// Timestamp in the format of RFC 3339.
fn timestamp(ms: u64) -> String {
    Timestamp::from_millisecond(ms.cast_signed()).unwrap_or_default().to_string()
}
