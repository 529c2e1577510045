//! Job queue in Redis: a stream per model, and one function call per step of a job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Client, RedisError, cmd};
use tokio::sync::Semaphore;

use self::command::{CHUNK_BYTES, COMMAND_TIMEOUT, MAX_READ_BYTES, call};
use self::connection::{JobConnection, to_job_error};
use super::caller::{Caller, QueueHealth};
use super::error::JobError;
use super::id::JobId;
use super::keys::{ANNOUNCED_MODELS, COUNTS, EXPIRING, FILLING, JOBS, WEBHOOKS, dedup_index_key, job_key};
use super::types::{DedupKey, JobLimits, NewJob, WorkerAnnouncement};
use super::webhook::{DeliveryAttempt, DeliveryStatus, WebhookClaim};

mod breaker;
mod command;
mod connection;
mod job_fields;
mod query;
mod upload;
mod work;

pub use upload::RedisUpload;

/// Bytes of a call of `mlserve_submit`: names, and what else is not uploaded yet.
const MAX_SUBMIT_BYTES: usize = 2 * CHUNK_BYTES;

/// Jobs that one call of `mlserve_adopt` counts.
const ADOPT_BATCH: u64 = 200;

/// Expired jobs that one call of `mlserve_sweep` deletes.
const SWEEP_BATCH: u64 = 100;

/// A model without an announcement for this long is deleted.
const ANNOUNCEMENT_TTL: Duration = Duration::from_hours(1);

/// Job queue in Redis. Clones share it.
#[derive(Clone)]
pub struct RedisJobs {
    /// For commands with short replies.
    connection: Arc<JobConnection>,
    /// For inputs and results.
    data_connection: Arc<JobConnection>,
    queues: Arc<Mutex<HashMap<String, Arc<Queue>>>>,
    /// This process's name in the consumer group.
    consumer: Arc<str>,
    limits: JobLimits,
    /// Bytes of inputs and results that may still be read concurrently.
    reads: Arc<Semaphore>,
}

/// This process's view of the queue of one model.
struct Queue {
    /// For blocking reads: other commands on this connection would wait as well.
    connection: JobConnection,
    /// Bytes of inputs that workers may still hold.
    input_bytes: Arc<Semaphore>,
}

impl RedisJobs {
    /// Opens no connection yet.
    pub fn new(url: &str, limits: JobLimits) -> Result<Self, RedisError> {
        let connection = Arc::new(JobConnection::new(Client::open(url)?, COMMAND_TIMEOUT)?);
        Ok(Self {
            data_connection: Arc::new(connection.side_connection(COMMAND_TIMEOUT)?),
            connection,
            queues: Arc::default(),
            consumer: JobId::random().to_string().into(),
            limits,
            reads: Arc::new(Semaphore::new(MAX_READ_BYTES)),
        })
    }

    pub(in crate::jobs) fn upload(&self, caller: Caller) -> RedisUpload {
        RedisUpload::new(Arc::clone(&self.data_connection), caller)
    }

    pub(in crate::jobs) async fn discard(&self, upload: &RedisUpload) {
        if upload.is_started() {
            // Best effort: an upload that is not discarded expires.
            let _ = self.connection.execute::<i64>(&call("discard", &job_key("inputs", upload.id()))).await;
        }
    }

    pub(in crate::jobs) async fn submit(&self, mut upload: RedisUpload, job: NewJob) -> Result<JobId, JobError> {
        let submit = match upload.finish(&job, &self.limits).await {
            Ok(submit) => submit,
            Err(error) => {
                self.discard(&upload).await;
                return Err(error);
            }
        };
        // Submitting is idempotent per id, so the command may be repeated.
        let accepted: String = self.data_connection.execute_large(&submit, MAX_SUBMIT_BYTES).await?;
        let id = accepted.parse().map_err(|_| JobError::Unavailable)?;
        self.fill(id).await;
        Ok(id)
    }

    /// Queues the remaining inputs of a job. If this process dies before, the sweep does it.
    async fn fill(&self, id: JobId) {
        while self.connection.execute(&call("fill", &job_key("job", id))).await == Ok(true) {}
    }

    pub(in crate::jobs) async fn submit_duplicate(
        &self,
        model: &str,
        key: &DedupKey,
        caller: &Caller,
    ) -> Result<Option<JobId>, JobError> {
        let id = JobId::random();
        let mut repeat = call("repeat", &job_key("job", id));
        repeat.arg(model).arg(&key.digest);
        repeat.arg(self.limits.ttl.as_millis() as u64).arg(self.limits.dedup_window.as_millis() as u64);
        repeat.arg(caller.as_str());
        let is_accepted: bool = self.connection.execute(&repeat).await?;
        Ok(is_accepted.then_some(id))
    }

    pub(in crate::jobs) async fn clear_dedup(&self, model: &str) -> Result<(), JobError> {
        self.connection.execute::<i64>(cmd("DEL").arg(dedup_index_key(model))).await.map(drop)
    }

    pub(in crate::jobs) async fn cancel(&self, id: JobId) -> Result<bool, JobError> {
        let cancelled = self.connection.execute(&call("cancel", &job_key("job", id))).await?;
        // Best effort: an entry that stays is dropped when a worker starts it.
        while cancelled && self.connection.execute(&call("withdraw", &job_key("job", id))).await == Ok(true) {}
        Ok(cancelled)
    }

    pub(in crate::jobs) async fn delete(&self, id: JobId) -> Result<bool, JobError> {
        self.connection.execute(&call("delete", &job_key("job", id))).await
    }

    pub(in crate::jobs) async fn retry(&self, id: JobId) -> Result<Option<u32>, JobError> {
        let retried: i64 = self.connection.execute(&call("retry", &job_key("job", id))).await?;
        self.fill(id).await;
        Ok(u32::try_from(retried).ok())
    }

    pub(in crate::jobs) async fn claim_webhooks(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<WebhookClaim>, JobError> {
        let mut claim = call("claim_webhooks", WEBHOOKS);
        claim.arg(lease.as_millis() as u64).arg(limit);
        let claimed: Vec<(String, u64)> = self.connection.execute(&claim).await?;
        let parse = |(job, claim): (String, u64)| Some(WebhookClaim { job: job.parse().ok()?, claim });
        Ok(claimed.into_iter().filter_map(parse).collect())
    }

    pub(in crate::jobs) async fn record_delivery(
        &self,
        claim: &WebhookClaim,
        attempt: &DeliveryAttempt,
    ) -> Result<bool, JobError> {
        let (status, error, delay) = match attempt {
            DeliveryAttempt::Delivered => (DeliveryStatus::Delivered.as_str(), "", Duration::ZERO),
            DeliveryAttempt::Retry(delay, error) => ("", error.as_str(), *delay),
            DeliveryAttempt::GaveUp(error) => (DeliveryStatus::Failed.as_str(), error.as_str(), Duration::ZERO),
        };
        let mut settle = call("settle_webhook", WEBHOOKS);
        settle.arg(claim.job.to_string()).arg(claim.claim).arg(status).arg(error).arg(delay.as_millis() as u64);
        self.connection.execute(&settle).await
    }

    pub(in crate::jobs) async fn announcements(&self) -> Result<Vec<WorkerAnnouncement>, JobError> {
        let mut announced = call("announced", ANNOUNCED_MODELS);
        announced.arg(ANNOUNCEMENT_TTL.as_millis() as u64);
        let parts: Vec<String> = self.connection.execute(&announced).await?;
        let parse = |part: &[String]| {
            let age = Duration::from_millis(part[2].parse().ok()?);
            Some(WorkerAnnouncement { name: part[0].clone(), metadata: part[1].clone(), age })
        };
        Ok(parts.chunks_exact(3).filter_map(parse).collect())
    }

    pub(in crate::jobs) async fn health(&self) -> Result<QueueHealth, JobError> {
        let (waiting, bytes, bytes_limit) = self.connection.execute(&call("health", COUNTS)).await?;
        Ok(QueueHealth { waiting, bytes, bytes_limit })
    }

    pub(in crate::jobs) async fn prepare(&self) -> Result<(), JobError> {
        self.connection.load_functions().await.map_err(|error| to_job_error(&error))?;
        let mut offset = 0_u64;
        loop {
            let mut adopt = call("adopt", JOBS);
            adopt.arg(offset).arg(ADOPT_BATCH);
            let visited: u64 = self.connection.execute(&adopt).await?;
            offset += visited;
            if visited < ADOPT_BATCH {
                return Ok(());
            }
        }
    }

    pub(in crate::jobs) async fn sweep(&self) -> Result<(), JobError> {
        let mut sweep = call("sweep", EXPIRING);
        sweep.arg(SWEEP_BATCH);
        while self.connection.execute::<u64>(&sweep).await? == SWEEP_BATCH {}
        let filling: Vec<String> = self.connection.execute(cmd("SRANDMEMBER").arg(FILLING).arg(SWEEP_BATCH)).await?;
        for id in filling.iter().filter_map(|id| id.parse().ok()) {
            self.fill(id).await;
        }
        Ok(())
    }
}
