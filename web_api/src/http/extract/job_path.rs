use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use db_api::jobs::{Job, JobId, JobLookup};
use http::request::Parts;

use crate::error::Error;
use crate::state::AppState;

/// The job that a path names, in its current state.
pub struct JobPath(pub Job);

impl FromRequestParts<AppState> for JobPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Error> {
        let Path(id) = parts.extract::<Path<String>>().await.map_err(|_| Error::UnknownJob)?;
        let id = id.parse().map_err(|_| Error::UnknownJob)?;
        find_job(app, id).await.map(Self)
    }
}

/// Looks up a job. Distinguishes a job that has expired from an ID that never existed.
pub async fn find_job(app: &AppState, id: JobId) -> Result<Job, Error> {
    match app.jobs.find(id).await? {
        JobLookup::Found(job) => Ok(*job),
        JobLookup::Gone => Err(Error::JobExpired),
        JobLookup::Unknown => Err(Error::UnknownJob),
    }
}
