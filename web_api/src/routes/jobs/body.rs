use std::iter::repeat;
use std::ops::Range;

use axum::response::{IntoResponse, Response};
use db_api::jobs::{DeliveryStatus, Job, JobId, Jobs, Outcome, SkippedFiles, Webhook};
use http::{StatusCode, header};
use jiff::Timestamp;
use open_inference::Platform;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::error::Error;
use crate::upstream::catalog::CatalogSnapshot;

/// A job as clients see it.
#[derive(Debug, Serialize)]
pub struct JobBody<'a> {
    id: String,
    model: &'a str,
    status: &'static str,
    /// Whether it outlives a restart.
    durable: bool,
    total: u32,
    /// Inputs with an answer.
    done: u32,
    /// Inputs with an error.
    failed: u32,
    /// Of those the ones whose workers died over them.
    dead: u32,
    /// How often an input was begun; the memory spares some, and a worker that died costs some.
    runs: u32,
    /// Why one that has not ended makes no progress.
    reason: Option<String>,
    created: String,
    started: Option<String>,
    finished: Option<String>,
    /// When it and its results will be forgotten.
    expires: Option<String>,
    /// Files that were sent with it and are no inputs.
    skipped: &'a SkippedFiles,
    webhook: Option<WebhookBody<'a>>,
}

/// Whether whoever wanted to be told knows. Without his URL: it may hold what only he should know, and jobs are listed.
#[derive(Debug, Serialize)]
struct WebhookBody<'a> {
    /// `waiting` for the job's end, `due`, `delivered` or `failed`.
    status: &'static str,
    tries: u32,
    /// Why the last try failed.
    error: Option<&'a str>,
}

/// What came of one input.
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
    pub fn new(app: &App, job: &'a Job) -> Self {
        let reason = if job.status.has_ended() { None } else { why_waiting(&app.catalog.snapshot(), &job.model) };
        Self { reason, ..Self::of(&app.jobs, job) }
    }

    /// A job out of these `jobs`.
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
            created: moment(job.created_ms),
            started: job.started_ms.map(moment),
            finished: job.finished_ms.map(moment),
            expires: job.expires_ms.map(moment),
            skipped: &job.skipped,
            webhook: job.webhook.as_ref().map(|webhook| WebhookBody::new(job, webhook)),
        }
    }
}

/// Why the inputs of `model` wait; `None` while it is ready.
fn why_waiting(known: &CatalogSnapshot, model: &str) -> Option<String> {
    let listed = known.defaults().find(|listed| listed.name == model);
    match listed {
        Some(listed) if listed.platform == Platform::Queue => None,
        _ if !known.reachable => Some("model_api does not answer".to_owned()),
        Some(listed) if listed.is_ready() => None,
        Some(listed) => Some(format!("{model}: {}", listed.reason.as_deref().unwrap_or("is being loaded"))),
        None => Some(format!("{model} is not served")),
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
    /// An error when what a worker wrote is no JSON.
    pub fn new(index: u32, name: &'a str, outcome: &'a Outcome) -> Result<Self, Error> {
        let raw = |json: &'a str| serde_json::from_str::<&RawValue>(json).map_err(|_| Error::Internal);
        Ok(match outcome {
            Outcome::Success(json) => Self { index, name, status: "succeeded", answer: Some(raw(json)?), error: None },
            Outcome::Error(json) => Self { index, name, status: "failed", answer: None, error: Some(raw(json)?) },
        })
    }
}

/// Results of consecutive inputs.
pub struct Ended {
    /// Those inputs that have ended: index, what the client calls it, and what came of it.
    pub results: Vec<(u32, String, Outcome)>,
    /// The first input after this page.
    pub next: u32,
}

/// The first of these inputs, as many as have `most_bytes` of results together and at least one.
pub async fn ended(app: &App, job: JobId, inputs: Range<u32>, most_bytes: usize) -> Result<Ended, Error> {
    let indices: Vec<u32> = inputs.clone().collect();
    let outcomes = app.jobs.results(job, &indices, most_bytes).await?;
    let next = inputs.start + outcomes.len() as u32;
    // Programs that submit without us may have named fewer.
    let names = app.jobs.names(job, inputs.start..next).await?.into_iter().chain(repeat(String::new()));
    let all = indices.into_iter().zip(names).zip(outcomes);
    let results = all.filter_map(|((index, name), outcome)| Some((index, name, outcome?))).collect();
    Ok(Ended { results, next })
}

/// JSON whose like is different in a moment.
pub fn fresh_json(status: StatusCode, body: &impl Serialize) -> Result<Response, Error> {
    let json = serde_json::to_vec(body).map_err(|_| Error::Internal)?;
    Ok((status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json)
        .into_response())
}

/// RFC 3339.
fn moment(ms: u64) -> String {
    Timestamp::from_millisecond(ms.cast_signed()).unwrap_or_default().to_string()
}
