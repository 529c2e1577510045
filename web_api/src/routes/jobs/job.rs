use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use db_api::jobs::{Job, JobStatus};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::response::{job_body, no_store_json};
use crate::error::Error;
use crate::http::extract::job_path::{JobPath, find_job};
use crate::job_views::{JobBody, ResultBody, results_page};
use crate::state::AppState;

/// Default number of results or jobs on one page.
const DEFAULT_PAGE_SIZE: usize = 100;

/// Maximum number of results or jobs on one page.
const MAX_PAGE_SIZE: usize = 1000;

/// Maximum size of the results on one page in bytes. A page has at least one result.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// Maximum duration of a long poll (`Prefer: wait`). Proxies usually time out after a minute.
const MAX_WAIT: Duration = Duration::from_secs(50);

/// Query parameters of a page of results or jobs.
#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    offset: Option<u32>,
    limit: Option<usize>,
    status: Option<String>,
}

#[derive(Serialize)]
struct JobWithResults<'a> {
    #[serde(flatten)]
    job: JobBody<'a>,
    /// Index of the first input of this page.
    offset: u32,
    /// Results of those inputs of this page that have ended.
    results: Vec<ResultBody<'a>>,
    /// URL of the next page.
    next: Option<String>,
}

#[derive(Serialize)]
struct JobList<'a> {
    jobs: Vec<JobBody<'a>>,
}

/// `GET /jobs/{id}`: returns a job with a page of its results.
pub async fn show(
    State(app): State<AppState>,
    JobPath(mut job): JobPath,
    page: Result<Query<PageQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let page = validated(page)?;
    if let Some(wait) = requested_wait(&headers) {
        job = wait_for_change(&app, job, wait).await?;
    }
    let offset = page.offset.unwrap_or(0).min(job.total);
    let end = job.total.min(offset.saturating_add(page.limit() as u32));
    let results_page = results_page(&app.jobs, job.id, offset..end, MAX_PAGE_BYTES).await?;
    let results = results_page.results.iter().map(|(index, name, outcome)| ResultBody::new(*index, name, outcome));
    let results = results.collect::<Result<_, _>>()?;
    let is_last = results_page.next >= job.total;
    let next = (!is_last).then(|| format!("/jobs/{}?offset={}&limit={}", job.id, results_page.next, page.limit()));
    no_store_json(StatusCode::OK, &JobWithResults { job: job_body(&app, &job), offset, results, next })
}

/// `GET /jobs`: lists jobs, unless `JOB_LIST` is off.
pub async fn list(
    State(app): State<AppState>,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, Error> {
    if !app.job_list {
        return Err(Error::JobListDisabled);
    }
    let page = validated(page)?;
    let offset = page.offset.unwrap_or(0) as usize;
    let jobs = match page.status.as_deref() {
        None => app.jobs.list(|_| true, offset, page.limit()).await?,
        Some("dead") => app.jobs.list(|job| job.dead > 0, offset, page.limit()).await?,
        Some(status) => {
            let unknown = || {
                Error::InvalidJobRequest(
                    "status is one of queued, running, succeeded, failed, cancelled, dead".to_owned(),
                )
            };
            let status: JobStatus = status.parse().map_err(|()| unknown())?;
            app.jobs.list(|job| job.status == status, offset, page.limit()).await?
        }
    };
    no_store_json(StatusCode::OK, &JobList { jobs: jobs.iter().map(|job| job_body(&app, job)).collect() })
}

/// `DELETE /jobs/{id}`: cancels an unfinished job, so that no further input starts, or deletes a finished one. Returns its last state.
pub async fn cancel(State(app): State<AppState>, JobPath(job): JobPath) -> Result<Response, Error> {
    let was_cancelled = app.jobs.cancel(job.id).await?;
    let job = find_job(&app, job.id).await?;
    if !was_cancelled {
        app.jobs.delete(job.id).await?;
    }
    no_store_json(StatusCode::OK, &job_body(&app, &job))
}

/// `POST /jobs/{id}/retry`: runs the failed inputs again.
pub async fn retry(State(app): State<AppState>, JobPath(job): JobPath) -> Result<Response, Error> {
    app.jobs.retry(job.id).await?.ok_or(Error::NothingToRetry)?;
    let job = find_job(&app, job.id).await?;
    no_store_json(StatusCode::ACCEPTED, &job_body(&app, &job))
}

impl PageQuery {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_PAGE_SIZE).min(MAX_PAGE_SIZE)
    }
}

fn validated(page: Result<Query<PageQuery>, QueryRejection>) -> Result<PageQuery, Error> {
    let Query(page) = page.map_err(|error| Error::InvalidJobRequest(error.body_text()))?;
    // The `next` of an empty page would be the page itself.
    if page.limit == Some(0) {
        return Err(Error::InvalidJobRequest("limit is 0; it must be at least 1".to_owned()));
    }
    Ok(page)
}

/// Parses `Prefer: wait=10` (RFC 7240 §4.3).
fn requested_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut seconds = preferences.flat_map(|value| value.split([',', ';'])).filter_map(|word| {
        let (name, seconds) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| seconds.trim().parse::<u64>().ok())?
    });
    seconds.next().map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT))
}

/// Long poll: returns the job when it changes, or unchanged after `wait`.
async fn wait_for_change(app: &AppState, job: Job, wait: Duration) -> Result<Job, Error> {
    if job.status.has_ended() {
        return Ok(job);
    }
    let mut listener = app.watchers.listen(job.clone())?;
    let changed = async {
        // The state in the watcher may be older than `job`, or newer.
        if listener.job().is_some_and(|seen| *seen == job) || find_job(app, job.id).await? == job {
            // `None`: the service stops. A long poll must not delay that.
            while listener.changed().await.is_some_and(|now| *now == job) {}
        }
        find_job(app, job.id).await
    };
    timeout(wait, changed).await.unwrap_or(Ok(job.clone()))
}
