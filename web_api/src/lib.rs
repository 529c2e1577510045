//! The public service of MLServe: the page, the HTTP and gRPC routes, jobs, and the result cache in front of the models.
//!
//! Modules are listed in the order in which a request meets them.

/// Command line of the service, and the text of `--help`.
pub mod help;

/// Settings, which the service reads from environment variables.
pub mod settings;

/// How much memory these settings allow.
pub mod memory_bound;

/// All routes.
pub mod router;

/// State that all handlers share.
pub mod state;

/// HTTP layers and extractors: cache directives, CORS, security headers, uploads, archives.
pub mod http;

/// Where large bodies are taken apart.
pub mod workbench;

/// The inputs of a submission, piece by piece.
pub mod inputs;

/// Handlers, one file per route.
pub mod routes;

/// JSON representation of jobs and results.
pub(crate) mod job_views;

/// OpenAPI description of the public port.
pub mod openapi;

/// What is asked, the same from every route, and its keys.
pub mod question;

/// The heart: key → near → Redis → flight → model.
pub mod predictor;

/// The same for each step of a pipeline.
mod pipeline;

/// The same for each row of a batch.
mod row_memory;

/// Which models there are, as `model_api` last said.
pub mod catalog;

/// Cached results that turned out to be wrong are dropped.
mod purge;

/// Questions of different callers, on their way together.
pub mod gatherer;

/// How `model_api` is called: a deadline, and another replica when one is gone.
pub mod model_client;

/// Inputs of jobs, asked like any other question.
pub mod replay;

/// Who waits for an answer, and how work that nobody waits for makes room for him.
pub mod people;

/// Looks at jobs for all that listen to them.
pub mod job_watcher;

/// Works on jobs.
pub mod job_worker;

/// Tells whoever wants to know that a job has ended.
pub mod webhook;

/// Models that only a queue serves.
pub mod queue_client;

/// Health of the job queue.
pub mod queue_probe;

/// Prometheus metrics of the service.
pub mod metrics;

/// Error type of the service, with one table of statuses and labels.
pub mod error;
