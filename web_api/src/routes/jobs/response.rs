use axum::response::{IntoResponse, Response};
use db_api::jobs::Job;
use http::{StatusCode, header};
use serde::Serialize;

use crate::error::Error;
use crate::job_views::JobBody;
use crate::state::AppState;

/// Represents a job. While it has not ended, includes the reason why it makes no progress.
pub(super) fn job_body<'a>(app: &AppState, job: &'a Job) -> JobBody<'a> {
    let reason = if job.status.has_ended() { None } else { app.catalog.snapshot().why_waiting(&job.model) };
    JobBody::of(&app.jobs, job).with_reason(reason)
}

/// JSON response that no client or proxy may cache.
pub(super) fn no_store_json(status: StatusCode, body: &impl Serialize) -> Result<Response, Error> {
    let json = serde_json::to_vec(body).map_err(|_| Error::Internal)?;
    Ok((status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json)
        .into_response())
}
