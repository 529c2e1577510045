//! Slow and large work: submitted, looked at, collected.

/// `POST /jobs`, and `Prefer: respond-async` on the routes that answer at once.
pub mod submit;

/// `GET /jobs/{id}`, `DELETE /jobs/{id}`, `POST /jobs/{id}/retry`, `GET /jobs`.
pub mod job;

/// `GET /jobs/{id}/events`: what happens, as it happens.
pub mod events;

/// `GET /jobs/{id}/results`: all of it, as NDJSON or CSV.
pub mod results;

/// How a job and its results are written.
pub(crate) mod body;

/// The job in a path.
mod job_path;
