use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use db_api::jobs::{Job, JobId, JobLookup};
use http::request::Parts;

use crate::app::App;
use crate::error::Error;

/// The job that a path names, as it is now.
pub struct JobPath(pub Job);

impl FromRequestParts<App> for JobPath {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Error> {
        let Path(id) = parts.extract::<Path<String>>().await.map_err(|_| Error::UnknownJob)?;
        let id = id.parse().map_err(|_| Error::UnknownJob)?;
        find(app, id).await.map(Self)
    }
}

/// The job of this name, or that there is none, or none any more.
pub async fn find(app: &App, id: JobId) -> Result<Job, Error> {
    match app.jobs.find(id).await? {
        JobLookup::Found(job) => Ok(*job),
        JobLookup::Gone => Err(Error::JobGone),
        JobLookup::Unknown => Err(Error::UnknownJob),
    }
}
