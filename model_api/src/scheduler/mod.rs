//! Dynamic batching scheduler: queues the requests of one model and runs them in batches on the model's sessions.
//!
//! Requests wait in one bounded [`queue`]. Each session has a [`worker`], which forms a batch whenever its session is idle and
//! replaces the session when it crashes. A batch that fails is retried in parts, so that only the request that causes the
//! failure gets an error:
//!
//! * After a crash, each request runs alone. A request that crashes a second session is quarantined.
//! * After a rejection by the model, the batch is bisected.
//! * After a timeout, each request runs alone in the remaining time.
//!
//! Modules stand in dependency order: a module imports only modules that stand above it.

mod error;
mod estimator;
mod metrics;
mod settings;

mod queue;

mod batching;

mod quarantine;
mod shared;

mod worker;

mod chunking;
mod pool;

pub use batching::batch_probe::probe_rows;
pub use error::RunError;
pub use metrics::{BatchingInfo, BatchingLabels, PoolMetrics};
pub use pool::Pool;
pub use queue::entry::{Priority, RunOutput};
pub use settings::{BatchSettings, PoolSettings, QueueLimits};
pub use shared::PoolState;
