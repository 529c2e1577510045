//! Asynchronous jobs: from the inputs of a submission to results and events.
//!
//! [`input_reader::InputReader`] reads the inputs of a submission. [`worker::JobWorker`] takes them from the queue, and
//! [`executor::JobExecutor`] runs them. [`throttle::BackgroundThrottle`] slows them down while interactive requests are served.
//! [`watcher::JobWatchers`] reports changes to the clients that wait for them.

mod event_page;
mod request_splitter;
mod unique_names;

/// Runs inputs of jobs.
pub mod executor;

/// Reads the inputs of a submission.
pub mod input_reader;

/// Health probe of the job queue.
pub mod queue_probe;

/// Throttle of background work while interactive requests are served.
pub mod throttle;

/// Watches jobs for clients.
pub mod watcher;

/// Takes inputs from the queue and records their outcomes.
pub mod worker;
