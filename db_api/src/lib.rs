//! Result cache and job queue, as a library of `web_api`. Both use Redis where there is one.

/// Result cache: an in-process cache, Redis behind it, and single flight for misses.
pub mod cache;

/// Job queue: durable in Redis, or in this process without Redis.
pub mod jobs;

/// Prometheus metrics of the cache's Redis connection.
pub mod metrics;
