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

/// Bounded pool of threads for CPU-bound work on large bodies.
pub mod blocking_pool;

/// Handlers, one file per route.
pub mod routes;

/// JSON representation of jobs and results.
pub(crate) mod job_views;

/// OpenAPI description of the public port.
pub mod openapi;

/// A request to a model, its cache key, and its result from the cache or from the model.
pub mod inference;

/// Model servers: catalog of models, HTTP client, batching, congestion control, external workers.
pub mod upstream;

/// Asynchronous jobs: reader of inputs, worker, executor, throttle, watcher.
pub mod jobs;

/// Tells whoever wants to know that a job has ended.
pub mod webhook;

/// Prometheus metrics of the service.
pub mod metrics;

/// Error type of the service, with one table of statuses and labels.
pub mod error;
