//! Background health probe of the job queue. `/health/ready` and the metrics report its last result, without a call to Redis.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use db_api::jobs::{JobError, Jobs, QueueHealth};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::sleep;

/// Time between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Time between two probes while the queue is unreachable.
const UNAVAILABLE_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Probes a queue. Clones share the last result.
#[derive(Clone)]
pub struct QueueProbe {
    jobs: Jobs,
    /// `None` before the first probe.
    last: Arc<Mutex<Option<Result<QueueHealth, JobError>>>>,
    ready: Gauge,
    waiting: Gauge,
    bytes: Gauge,
}

impl QueueProbe {
    /// Registers `jobs_ready`, `jobs_waiting` and `jobs_bytes`. Probing starts with [`Self::run`].
    pub fn register(jobs: Jobs, registry: &mut Registry) -> Self {
        let (ready, waiting, bytes) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("jobs_ready", "1 while the job queue responds", ready.clone());
        registry.register(
            "jobs_waiting",
            "Inputs in the job queue at the last probe, including those in progress",
            waiting.clone(),
        );
        registry.register("jobs_bytes", "Bytes of all jobs in the queue at the last probe", bytes.clone());
        Self { jobs, last: Arc::default(), ready, waiting, bytes }
    }

    /// Probes periodically. Never returns.
    pub async fn run(self) {
        loop {
            let health = self.jobs.health().await;
            let is_ready = health.is_ok();
            self.ready.set(i64::from(is_ready));
            if let Ok(health) = &health {
                self.waiting.set(health.waiting.cast_signed());
                self.bytes.set(health.bytes.cast_signed());
            }
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
            sleep(if is_ready { PROBE_INTERVAL } else { UNAVAILABLE_PROBE_INTERVAL }).await;
        }
    }

    /// Whether the last probe failed.
    pub fn is_unavailable(&self) -> bool {
        matches!(self.last(), Some(Err(_)))
    }

    /// Body of `/health/ready`: `durable`, `ready`, `reason`, `waiting` inputs, `bytes` and `bytes_limit`; `null` if unknown.
    pub fn to_json(&self) -> Value {
        let last = self.last();
        let reason = match &last {
            None => Some("it has not been probed yet".to_owned()),
            Some(Err(error)) => Some(error.to_string()),
            Some(Ok(_)) => None,
        };
        let health = last.and_then(Result::ok);
        json!({
            "durable": self.jobs.is_durable(),
            "ready": health.is_some(),
            "reason": reason,
            "waiting": health.as_ref().map(|health| health.waiting),
            "bytes": health.as_ref().map(|health| health.bytes),
            "bytes_limit": health.as_ref().map(|health| health.bytes_limit),
        })
    }

    fn last(&self) -> Option<Result<QueueHealth, JobError>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
