//! What remembers, and the only door to it: Redis behind a near cache, and one flight per question.

/// Every key and channel in Redis, and how a question becomes a key.
pub mod keys;

/// What is remembered, and how it looks in Redis.
pub mod entry;

/// An answer in few bytes.
mod form;

/// Answers in this process.
mod near;

/// One flight per question.
mod flights;

/// Near and Redis behind one type: hit, miss, or one flight for all who ask at the same moment.
pub mod memory;

/// A connection to Redis for each core.
mod connections;

/// Redis with a deadline and a breaker: a slow or dead Redis makes us slower, never wrong.
pub mod store;

/// What the memory counts.
pub mod metrics;

/// Jobs: a durable queue for each model, in Redis or in this process.
pub mod jobs;
