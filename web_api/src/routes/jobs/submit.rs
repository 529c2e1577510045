use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use contract::ModelDescription;
use db_api::jobs::{Caller, DedupKey, IdempotencyKey, Input, InputSpec, Job, JobId, NewJob, SkippedFiles, Upload};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use service::peer::Peer;

use super::response::{job_body, no_store_json};
use crate::error::Error;
use crate::http::extract::job_path::find_job;
use crate::http::extract::job_submission::JobSubmission;
use crate::jobs::executor::{Execution, JobExecutor, Scope};
use crate::state::AppState;

/// Number of inputs that are looked up in the cache concurrently.
const CONCURRENT_LOOKUPS: usize = 32;

/// `POST /jobs`: submits a job. Inputs of a submission that equals an earlier one are not uploaded again.
pub async fn submit(
    State(app): State<AppState>,
    Extension(executor): Extension<JobExecutor>,
    peer: Option<Extension<Peer>>,
    submission: JobSubmission,
) -> Result<Response, Error> {
    let JobSubmission { model, spec, webhook, key, .. } = &submission;
    let default = app.catalog.find(model.as_deref())?;
    let model = app.catalog.find_version(&default.name, spec.version.as_deref())?;
    let digest = submission.digest(&model.name);
    let caller = caller(peer.as_deref());
    let dedup_key = dedup_key(&app, &model, &digest);
    if key.is_none()
        && webhook.is_none()
        && let Some(dedup_key) = &dedup_key
        && let Ok(Some(id)) = app.jobs.submit_duplicate(&model.name, dedup_key, &caller).await
    {
        return accepted(&app, id).await;
    }
    let mut upload = app.jobs.upload(caller);
    let skipped = match upload_inputs(&app, &executor, &model, &submission, &mut upload).await {
        Ok(skipped) => skipped,
        Err(error) => {
            app.jobs.discard(upload).await;
            return Err(error);
        }
    };
    let idempotency_key = key.clone().map(|key| IdempotencyKey { key, digest });
    let (model, spec, webhook) = (model.name.clone(), spec.clone(), webhook.clone());
    let job = NewJob { model, spec, inputs: Vec::new(), idempotency_key, dedup_key, webhook, ttl: None, skipped };
    let id = app.jobs.submit_uploaded(upload, job).await?;
    accepted(&app, id).await
}

/// Client whose quota of the queue the job counts against.
pub(super) fn caller(peer: Option<&Peer>) -> Caller {
    peer.map_or_else(Caller::default, |peer| Caller::from(peer.0))
}

/// Reads the inputs and uploads them to the queue in chunks.
async fn upload_inputs(
    app: &AppState,
    executor: &JobExecutor,
    model: &ModelDescription,
    submission: &JobSubmission,
    upload: &mut Upload,
) -> Result<SkippedFiles, Error> {
    let mut inputs = submission.inputs(app, model);
    loop {
        let (chunk, rest) = inputs.next_chunk(&app.blocking_pool).await?;
        inputs = rest;
        if chunk.is_empty() {
            return inputs.finish();
        }
        for input in resolve_cached(executor, &model.name, &submission.spec, chunk).await {
            upload.push(input).await?;
        }
    }
}

/// Everything that determines the results of a job. `None` where results are not reproducible: the model may change without a new
/// digest, or its results are not cached.
fn dedup_key(app: &AppState, model: &ModelDescription, submission: &str) -> Option<DedupKey> {
    let (version, digest) = (model.version.as_str(), model.digest.as_str());
    (!digest.is_empty() && model.not_cached.is_none()).then(|| DedupKey {
        digest: [app.app_type.as_str(), version, digest, submission].join(" "),
        model_digest: digest.to_owned(),
    })
}

/// Resolves inputs that are cached or invalid, so that they do not have to wait in the queue.
async fn resolve_cached(executor: &JobExecutor, model: &str, spec: &InputSpec, inputs: Vec<Input>) -> Vec<Input> {
    let resolve = |input: Input| async move {
        let outcome = match executor.execute(model, spec, input.data.clone(), Scope::CacheOnly).await {
            Execution::Done(outcome) => Some(outcome),
            Execution::NoResult(_) | Execution::ModelNotFound(_) | Execution::RetryAfter(_) => None,
        };
        Input { outcome, ..input }
    };
    stream::iter(inputs).map(resolve).buffered(CONCURRENT_LOOKUPS).collect().await
}

/// Responds with 202, or with 200 where the job has ended already.
pub(super) async fn accepted(app: &AppState, id: JobId) -> Result<Response, Error> {
    let job = find_job(app, id).await?;
    let status = if job.status.has_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    respond(app, &job, status)
}

fn respond(app: &AppState, job: &Job, status: StatusCode) -> Result<Response, Error> {
    let mut response = no_store_json(status, &job_body(app, job))?;
    let location = HeaderValue::try_from(format!("/jobs/{}", job.id)).map_err(|_| Error::Internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
