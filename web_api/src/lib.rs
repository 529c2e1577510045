//! The public service of MLServe: the page, the HTTP and gRPC routes, jobs, and the result cache in front of the models.
//!
//! Modules are listed bottom-up: each one uses only those before it. A request meets them in the opposite order.

/// Command line of the service, and the text of `--help`.
pub mod help;

/// Reader for ZIP and TAR archives with limits.
pub mod archive;

/// Bounded pool of threads for CPU-bound work on large bodies.
pub mod blocking_pool;

/// `Cache-Control` and `Priority` of a request, `Cache-Status` of a response.
pub mod cache_control;

/// JSON representation of jobs and results.
pub(crate) mod job_views;

/// Webhooks: signed POST requests that report finished jobs.
pub mod webhook;

/// Settings, which the service reads from environment variables.
pub mod settings;

/// How much memory these settings allow.
pub mod memory_bound;

/// Error type of the service, with one table of statuses and labels.
pub mod error;

/// Prometheus metrics of the service.
pub mod metrics;

/// Model servers: catalog of models, HTTP client, batching, congestion control, external workers.
pub mod upstream;

/// Asynchronous jobs: reader of inputs, worker, executor, throttle, watcher.
pub mod jobs;

/// A request to a model, its cache key, and its result from the cache or from the model.
pub mod inference;

/// State that all handlers share.
pub mod state;

/// HTTP layers and extractors: CORS, security headers, uploads, submissions.
pub mod http;

/// OpenAPI description of the public port.
pub mod openapi;

/// Handlers, one file per route.
pub mod routes;

/// All routes.
pub mod router;
