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

/// Bounded pool of threads for CPU-bound work on large bodies.
pub mod blocking_pool;

/// A picture out of a request, settled before our code runs.
pub mod upload;

/// Files out of archives, within bounds.
pub mod archive;

/// Which files are images, and which belong to an operating system.
mod image_files;

/// Many inputs out of one request, settled before our code runs.
pub mod submission;

/// One file per thing a client can ask.
pub mod routes;

/// The Open Inference Protocol, answered by the same predictor.
mod v2;

/// The description of the public port.
pub mod openapi;

/// How a client steers the memory and sees what it did, in HTTP's own words.
pub mod steering;

/// A request to a model, its cache key, and its result from the cache or from the model.
pub mod inference;

/// Model servers: catalog of models, HTTP client, batching, congestion control, external workers.
pub mod upstream;

/// Asynchronous jobs: reader of inputs, worker, executor, throttle, watcher.
pub mod jobs;

/// Tells whoever wants to know that a job has ended.
pub mod webhook;

/// What is counted.
pub mod metrics;

/// One error, one table.
pub mod error;
