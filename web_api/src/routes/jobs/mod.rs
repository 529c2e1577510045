//! `/jobs`: asynchronous inference. A job is submitted, polled or streamed, and its results are downloaded.

/// `POST /jobs`.
pub mod submit;

/// `Prefer: respond-async` on the synchronous inference routes.
pub mod respond_async;

/// `GET /jobs/{id}`, `DELETE /jobs/{id}`, `POST /jobs/{id}/retry`, `GET /jobs`.
pub mod job;

/// `GET /jobs/{id}/events`: server-sent events.
pub mod events;

/// `GET /jobs/{id}/results`: all results as NDJSON or CSV.
pub mod results;

/// CSV rows of results.
mod csv;

/// Parts of JSON responses.
mod response;
