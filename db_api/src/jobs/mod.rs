//! Job queue: at-least-once delivery of inputs to workers, with one queue per model.
//!
//! Redis Streams in brief: entries are appended to a *stream*. A *consumer group* delivers each entry to one of its consumers and keeps
//! it *pending*, with its idle time and delivery count, until that consumer acknowledges it. An entry that is pending for long belongs
//! to a dead consumer, and another consumer claims it. Delivery is therefore at least once; recording an outcome is idempotent, because
//! each step is one Redis function (folder `functions`), which Redis runs atomically.
//!
//! Without Redis, the same queue lives in this process ([`InMemoryJobs`]) and reports that it is not durable.

use std::ops::Range;
use std::time::Duration;

mod caller;
mod error;
mod functions;
mod id;
mod in_memory;
mod keys;
mod redis;
mod types;
mod upload;
mod webhook;

pub use caller::{Caller, QueueHealth, QuotaExceeded};
pub use error::JobError;
pub use id::{InvalidJobId, JobId};
pub use in_memory::{InMemoryJobs, MAX_BYTES as MAX_IN_MEMORY_BYTES};
pub use redis::RedisJobs;
pub use types::{
    DedupKey, Delivery, Event, EventKind, IdempotencyKey, Input, InputKind, InputSpec, Job, JobLimits, JobLookup,
    JobStatus, NewJob, Outcome, SkippedFiles, Work, WorkerAnnouncement,
};
pub use upload::Upload;
pub use webhook::{DeliveryAttempt, DeliveryStatus, Webhook, WebhookClaim};

/// The job queue, with its backend.
#[derive(Clone)]
pub enum Jobs {
    /// In Redis: durable, and shared by all replicas.
    Redis(RedisJobs),
    /// In this process: jobs are lost when it exits.
    InMemory(InMemoryJobs),
}

/// Calls the same method of either backend. The in-memory backend does not wait and never fails.
macro_rules! either {
    ($self:ident.$call:ident($($argument:expr),*)) => {
        match $self {
            Jobs::Redis(jobs) => jobs.$call($($argument),*).await,
            Jobs::InMemory(jobs) => Ok(jobs.$call($($argument),*)),
        }
    };
}

impl Jobs {
    /// Whether jobs survive a restart of this process.
    pub fn is_durable(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Submits a job that counts against no caller's quota. Once this returns, the job is not lost. Returns the id of an earlier job
    /// where the same submission used the same idempotency key.
    pub async fn submit(&self, job: NewJob) -> Result<JobId, JobError> {
        self.submit_uploaded(self.upload(Caller::default()), job).await
    }

    /// Starts an upload of inputs, which counts against the quota of `caller`.
    pub fn upload(&self, caller: Caller) -> Upload {
        match self {
            Self::Redis(jobs) => Upload::Redis(Box::new(jobs.upload(caller))),
            Self::InMemory(jobs) => Upload::InMemory(jobs.upload()),
        }
    }

    /// [`Self::submit`] for a job with uploaded inputs; those of `job` follow them.
    pub async fn submit_uploaded(&self, mut upload: Upload, mut job: NewJob) -> Result<JobId, JobError> {
        for input in std::mem::take(&mut job.inputs) {
            if let Err(error) = upload.push(input).await {
                self.discard(upload).await;
                return Err(error);
            }
        }
        match (self, upload) {
            (Self::Redis(jobs), Upload::Redis(upload)) => jobs.submit(*upload, job).await,
            (Self::InMemory(jobs), Upload::InMemory(upload)) => jobs.submit(upload, job),
            _ => Err(JobError::Unavailable),
        }
    }

    /// Deletes an upload that is not submitted.
    pub async fn discard(&self, upload: Upload) {
        if let (Self::Redis(jobs), Upload::Redis(upload)) = (self, upload) {
            jobs.discard(&upload).await;
        }
    }

    /// Submits a finished copy of an earlier job with the same key that succeeded; `None` where there is none. The effect is that of
    /// `submit` when every result is cached, without a lookup per input.
    pub async fn submit_duplicate(
        &self,
        model: &str,
        key: &DedupKey,
        caller: &Caller,
    ) -> Result<Option<JobId>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.submit_duplicate(model, key, caller).await,
            Self::InMemory(jobs) => Ok(jobs.submit_duplicate(model, key)),
        }
    }

    /// Clears the deduplication index of `model`: results of earlier jobs are not reused.
    pub async fn clear_dedup(&self, model: &str) -> Result<(), JobError> {
        either!(self.clear_dedup(model))
    }

    /// Looks a job up.
    pub async fn find(&self, id: JobId) -> Result<JobLookup, JobError> {
        either!(self.find(id))
    }

    /// Lists the jobs that match `filter`, newest first: at most `limit` of them, after the first `offset`.
    pub async fn list(&self, filter: impl Fn(&Job) -> bool, offset: usize, limit: usize) -> Result<Vec<Job>, JobError> {
        either!(self.list(filter, offset, limit))
    }

    /// The client's names for these inputs.
    pub async fn names(&self, id: JobId, inputs: Range<u32>) -> Result<Vec<String>, JobError> {
        either!(self.names(id, inputs))
    }

    /// The outcomes of the first of these inputs, `None` for an unfinished one. Returns as many as have at most `max_bytes` together,
    /// and at least one.
    pub async fn results(
        &self,
        id: JobId,
        indices: &[u32],
        max_bytes: usize,
    ) -> Result<Vec<Option<Outcome>>, JobError> {
        either!(self.results(id, indices, max_bytes))
    }

    /// At most `limit` events after the event with the id `after`; all from the first for an empty id.
    pub async fn events(&self, id: JobId, after: &str, limit: usize) -> Result<Vec<Event>, JobError> {
        either!(self.events(id, after, limit))
    }

    /// Cancels a job: no further input is started. Returns false where the job had finished before.
    pub async fn cancel(&self, id: JobId) -> Result<bool, JobError> {
        either!(self.cancel(id))
    }

    /// Deletes a finished job with its results. Returns false where the job is not finished.
    pub async fn delete(&self, id: JobId) -> Result<bool, JobError> {
        either!(self.delete(id))
    }

    /// Queues the failed inputs again and returns how many there are. `None` where there is nothing to retry.
    pub async fn retry(&self, id: JobId) -> Result<Option<u32>, JobError> {
        either!(self.retry(id))
    }

    /// Delivers at most `limit` inputs of a model to this process. Waits about a second for the first.
    pub async fn receive(&self, model: &str, limit: usize) -> Result<Vec<Delivery>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.receive(model, limit).await,
            Self::InMemory(jobs) => Ok(jobs.receive(model, limit).await),
        }
    }

    /// Marks an input as started and returns it. `None` when it needs no processing any more.
    pub async fn start(&self, delivery: &Delivery) -> Result<Option<Work>, JobError> {
        either!(self.start(delivery))
    }

    /// Records the outcome of an input and returns whether it counted: only the first outcome does. A result that the queue does not
    /// accept, or has no memory for, is recorded as an error that gives the reason.
    pub async fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> Result<bool, JobError> {
        either!(self.finish(delivery, outcome))
    }

    /// Heartbeat: this process still works on these entries of one model.
    pub async fn heartbeat(&self, model: &str, entries: &[String]) -> Result<(), JobError> {
        match self {
            Self::Redis(jobs) => jobs.heartbeat(model, entries).await,
            Self::InMemory(_) => Ok(()),
        }
    }

    /// Returns unfinished deliveries to the queue, where other workers get them immediately. It does not count as the death of a worker.
    /// Inputs that are finished, or that another worker has claimed, are left as they are.
    pub async fn requeue(&self, deliveries: &[Delivery]) -> Result<(), JobError> {
        either!(self.requeue(deliveries))
    }

    /// Claims at most `limit` inputs of workers without a heartbeat for [`JobLimits::claim_timeout`].
    pub async fn claim_stale(&self, model: &str, limit: usize) -> Result<Vec<Delivery>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.claim_stale(model, limit).await,
            Self::InMemory(_) => Ok(Vec::new()),
        }
    }

    /// Claims at most `limit` webhooks that are due. Until `lease` has passed, no other process gets them. A claim without a recorded
    /// attempt is due again afterwards.
    pub async fn claim_webhooks(&self, limit: usize, lease: Duration) -> Result<Vec<WebhookClaim>, JobError> {
        either!(self.claim_webhooks(limit, lease))
    }

    /// Records a delivery attempt and returns whether it counted: an expired claim changes nothing.
    pub async fn record_delivery(&self, claim: &WebhookClaim, attempt: &DeliveryAttempt) -> Result<bool, JobError> {
        either!(self.record_delivery(claim, attempt))
    }

    /// Models that external workers announced. Such a worker may be written in any language.
    pub async fn announcements(&self) -> Result<Vec<WorkerAnnouncement>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.announcements().await,
            Self::InMemory(_) => Ok(Vec::new()),
        }
    }

    /// Loads this version's function library into Redis, replacing an older one, and counts the jobs of an earlier version.
    pub async fn prepare(&self) -> Result<(), JobError> {
        match self {
            Self::Redis(jobs) => jobs.prepare().await,
            Self::InMemory(_) => Ok(()),
        }
    }

    /// The state of the queue.
    pub async fn health(&self) -> Result<QueueHealth, JobError> {
        either!(self.health())
    }

    /// Deletes expired jobs.
    pub async fn sweep(&self) -> Result<(), JobError> {
        either!(self.sweep())
    }
}
