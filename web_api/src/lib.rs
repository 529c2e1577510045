//! What people talk to: the page, the command line's answers, and the memory in front of the models.
//!
//! Modules stand in the order in which a request meets them.

/// The command line, and its `--help`.
pub mod help;

/// Every variable, its default, its meaning.
pub mod settings;

/// How much memory these settings allow.
pub mod memory_bound;

/// The state and all routes on one screen.
pub mod app;

/// What few requests need, around routes that many ask.
mod rarely;

/// The model in a path.
pub mod model_name;

/// Where large bodies are taken apart.
pub mod workbench;

/// A picture out of a request, settled before our code runs.
pub mod upload;

/// Files out of archives, within bounds.
pub mod archive;

/// Which files are images, and which belong to an operating system.
mod image_files;

/// Many inputs out of one request, settled before our code runs.
pub mod submission;

/// The inputs of a submission, piece by piece.
pub mod inputs;

/// One file per thing a client can ask.
pub mod routes;

/// The Open Inference Protocol, answered by the same predictor.
mod v2;

/// The description of the public port.
pub mod openapi;

/// How a client steers the memory and sees what it did, in HTTP's own words.
pub mod steering;

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

/// What is counted.
pub mod metrics;

/// One error, one table.
pub mod error;
