use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use db_api::jobs::{Job, JobStatus};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::body::{JobBody, ResultBody, ended, fresh_json};
use super::job_path::{JobPath, find};
use crate::app::App;
use crate::error::Error;

/// Results, or jobs, on one page where the request says nothing else, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// Results on one page have so many bytes together, or there is one.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// The longest that `Prefer: wait` holds an answer: proxies give up after a minute.
const MAX_WAIT: Duration = Duration::from_secs(50);

/// Which results, or which jobs.
#[derive(Debug, Default, Deserialize)]
pub struct Page {
    offset: Option<u32>,
    limit: Option<usize>,
    status: Option<String>,
}

#[derive(Serialize)]
struct JobWithResults<'a> {
    #[serde(flatten)]
    job: JobBody<'a>,
    /// The first input that `results` could tell of.
    offset: u32,
    /// Of the inputs on this page those that have ended.
    results: Vec<ResultBody<'a>>,
    /// Where the page after this one is.
    next: Option<String>,
}

#[derive(Serialize)]
struct JobList<'a> {
    jobs: Vec<JobBody<'a>>,
}

/// `GET /jobs/{id}`
pub async fn show(
    State(app): State<App>,
    JobPath(mut job): JobPath,
    page: Result<Query<Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let page = read(page)?;
    if let Some(wait) = wished_wait(&headers) {
        job = wait_for_change(&app, job, wait).await?;
    }
    let offset = page.offset.unwrap_or(0).min(job.total);
    let end = job.total.min(offset.saturating_add(page.limit() as u32));
    let ended = ended(&app, job.id, offset..end, PAGE_BYTES).await?;
    let results = ended.results.iter().map(|(index, name, outcome)| ResultBody::new(*index, name, outcome));
    let results = results.collect::<Result<_, _>>()?;
    let is_last = ended.next >= job.total;
    let next = (!is_last).then(|| format!("/jobs/{}?offset={}&limit={}", job.id, ended.next, page.limit()));
    fresh_json(StatusCode::OK, &JobWithResults { job: JobBody::new(&app, &job), offset, results, next })
}

/// `GET /jobs`: whoever may see all of them.
pub async fn list(State(app): State<App>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Error> {
    if !app.job_list {
        return Err(Error::JobListClosed);
    }
    let page = read(page)?;
    let offset = page.offset.unwrap_or(0) as usize;
    let jobs = match page.status.as_deref() {
        None => app.jobs.list(|_| true, offset, page.limit()).await?,
        Some("dead") => app.jobs.list(|job| job.dead > 0, offset, page.limit()).await?,
        Some(status) => {
            let known =
                || Error::Job("status is one of queued, running, succeeded, failed, cancelled, dead".to_owned());
            let status: JobStatus = status.parse().map_err(|()| known())?;
            app.jobs.list(|job| job.status == status, offset, page.limit()).await?
        }
    };
    fresh_json(StatusCode::OK, &JobList { jobs: jobs.iter().map(|job| JobBody::new(&app, job)).collect() })
}

/// `DELETE /jobs/{id}`: cancels a job, so that what has not begun does not begin; deletes one that has ended. The job as it was left.
pub async fn cancel(State(app): State<App>, JobPath(job): JobPath) -> Result<Response, Error> {
    let was_cancelled = app.jobs.cancel(job.id).await?;
    let job = find(&app, job.id).await?;
    if !was_cancelled {
        app.jobs.delete(job.id).await?;
    }
    fresh_json(StatusCode::OK, &JobBody::new(&app, &job))
}

/// `POST /jobs/{id}/retry`: what has failed is tried once more.
pub async fn retry(State(app): State<App>, JobPath(job): JobPath) -> Result<Response, Error> {
    app.jobs.retry(job.id).await?.ok_or(Error::NothingToRetry)?;
    let job = find(&app, job.id).await?;
    fresh_json(StatusCode::ACCEPTED, &JobBody::new(&app, &job))
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).min(MAX_PAGE)
    }
}

fn read(page: Result<Query<Page>, QueryRejection>) -> Result<Page, Error> {
    let Query(page) = page.map_err(|error| Error::Job(error.body_text()))?;
    // A page of nothing would have itself as its next one.
    if page.limit == Some(0) {
        return Err(Error::Job("limit is 0; it must be at least 1".to_owned()));
    }
    Ok(page)
}

/// `Prefer: wait=10` (RFC 7240 §4.3).
fn wished_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut seconds = preferences.flat_map(|value| value.split([',', ';'])).filter_map(|word| {
        let (name, seconds) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| seconds.trim().parse::<u64>().ok())?
    });
    seconds.next().map(|seconds| Duration::from_secs(seconds).min(MAX_WAIT))
}

async fn wait_for_change(app: &App, job: Job, wait: Duration) -> Result<Job, Error> {
    if job.status.has_ended() {
        return Ok(job);
    }
    let mut listener = app.watchers.listen(job.clone())?;
    let changed = async {
        // What its watcher saw last may be older than `job`, or newer.
        if listener.job().is_some_and(|seen| *seen == job) || find(app, job.id).await? == job {
            // None where the service stops: who waits does not keep it from that.
            while listener.changed().await.is_some_and(|now| *now == job) {}
        }
        find(app, job.id).await
    };
    timeout(wait, changed).await.unwrap_or(Ok(job.clone()))
}
