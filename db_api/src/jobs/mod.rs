//! Jobs: many inputs, or slow ones, each of which is an entry in the queue of its model.
//!
//! Redis Streams in brief: a *stream* is a list to whose end entries are added; a *consumer group* hands each entry to one of its
//! consumers and keeps it as *pending*, with the time and the number of its deliveries, until that consumer acknowledges it. Whatever stays
//! pending for long belonged to a consumer that died, and is claimed by another. So delivery is at least once; that it is once in
//! effect is the work of the folder `functions`, where each step is one function that Redis runs as a whole.
//!
//! Without Redis the same queue stands in this process ([`LocalJobs`]), and says that it does not last.

use std::ops::Range;
use std::time::Duration;

mod breaker;
mod functions;
mod job;
mod link;
mod local;
mod redis;
mod share;
mod upload;

pub use job::{
    Announced, Asked, Content, Delivery, Event, Found, Input, Job, JobId, JobLimits, Kind, NewJob, NoJobId, Once,
    Outcome, Skipped, Status, Told, Tried, Webhook, WebhookClaim, What, Work,
};
pub use local::LocalJobs;
pub use redis::RedisJobs;
pub use share::{Caller, QueueHealth, Share};
pub use upload::Upload;

/// Why a job was not accepted, or cannot be spoken of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Redis does not answer, or not in time.
    #[error("the queue does not answer")]
    Unavailable,
    /// Its memory is full.
    #[error("the queue has no room for more")]
    Full,
    /// The caller holds too much of it.
    #[error("{0}")]
    Share(Share),
    /// A job in Redis is damaged.
    #[error("the field {field} of the job {job} cannot be read")]
    Unreadable {
        /// Which job.
        job: JobId,
        /// Its field.
        field: String,
    },
    /// Too many wait already.
    #[error("{0} inputs wait already")]
    Long(u64),
    /// The idempotency key was used for something else.
    #[error("the key was used for another job")]
    Conflict,
    /// Redis takes no value of that length.
    #[error("an input of {bytes} bytes is larger than the {most} bytes that Redis takes at once")]
    LargeInput {
        /// The input's.
        bytes: usize,
        /// Redis' bound.
        most: usize,
    },
}

/// The queue: in Redis, or in this process.
#[derive(Clone)]
pub enum Jobs {
    /// In Redis: survives everything, is shared by everybody.
    Redis(RedisJobs),
    /// In this process.
    Local(LocalJobs),
}

/// The same call to either queue; the one in this process answers at once and never fails.
macro_rules! either {
    ($self:ident.$call:ident($($argument:expr),*)) => {
        match $self {
            Jobs::Redis(jobs) => jobs.$call($($argument),*).await,
            Jobs::Local(jobs) => Ok(jobs.$call($($argument),*)),
        }
    };
}

impl Jobs {
    /// Whether jobs outlive this process.
    pub fn is_durable(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Accepts a job, which counts against nobody's share: once this returns, it is not lost. Another's id where its key was used for the
    /// same before.
    pub async fn submit(&self, job: NewJob) -> Result<JobId, JobError> {
        self.submit_uploaded(self.upload(Caller::default()), job).await
    }

    /// Begins a job whose inputs come one by one, and which counts against the share of this caller.
    pub fn upload(&self, caller: Caller) -> Upload {
        match self {
            Self::Redis(jobs) => Upload::Redis(Box::new(jobs.upload(caller))),
            Self::Local(jobs) => Upload::Local(jobs.upload()),
        }
    }

    /// [`Self::submit`] for a job whose inputs have been uploaded, those of `job` behind them.
    pub async fn submit_uploaded(&self, mut upload: Upload, mut job: NewJob) -> Result<JobId, JobError> {
        for input in std::mem::take(&mut job.inputs) {
            if let Err(error) = upload.push(input).await {
                self.discard(upload).await;
                return Err(error);
            }
        }
        match (self, upload) {
            (Self::Redis(jobs), Upload::Redis(upload)) => jobs.submit(*upload, job).await,
            (Self::Local(jobs), Upload::Local(upload)) => jobs.submit(upload, job),
            _ => Err(JobError::Unavailable),
        }
    }

    /// Forgets what was uploaded for a job that is not submitted.
    pub async fn discard(&self, upload: Upload) {
        if let (Self::Redis(jobs), Upload::Redis(upload)) = (self, upload) {
            jobs.discard(&upload).await;
        }
    }

    /// A job that has ended, with the answers of one of this content that has succeeded, if there is one: what `submit` would come to when
    /// every answer is remembered, without a look at each.
    pub async fn repeat(&self, model: &str, content: &Content, caller: &Caller) -> Result<Option<JobId>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.repeat(model, content, caller).await,
            Self::Local(jobs) => Ok(jobs.repeat(model, content)),
        }
    }

    /// Repeats no job of `model` that was submitted before.
    pub async fn forget(&self, model: &str) -> Result<(), JobError> {
        either!(self.forget(model))
    }

    /// The job of this name.
    pub async fn find(&self, id: JobId) -> Result<Found, JobError> {
        either!(self.find(id))
    }

    /// Jobs, the newest first: those for which `wanted` holds, without the first `offset` of them.
    pub async fn list(&self, wanted: impl Fn(&Job) -> bool, offset: usize, most: usize) -> Result<Vec<Job>, JobError> {
        either!(self.list(wanted, offset, most))
    }

    /// What the client calls these inputs.
    pub async fn names(&self, id: JobId, inputs: Range<u32>) -> Result<Vec<String>, JobError> {
        either!(self.names(id, inputs))
    }

    /// What came of the first of these inputs, as far as it is known: of as many as have `most_bytes` together, and of at least one.
    pub async fn results(
        &self,
        id: JobId,
        indices: &[u32],
        most_bytes: usize,
    ) -> Result<Vec<Option<Outcome>>, JobError> {
        either!(self.results(id, indices, most_bytes))
    }

    /// What happened after the event called `after`; at most `most` events.
    pub async fn events(&self, id: JobId, after: &str, most: usize) -> Result<Vec<Event>, JobError> {
        either!(self.events(id, after, most))
    }

    /// Lets no further input begin. Whether there was anything to end.
    pub async fn cancel(&self, id: JobId) -> Result<bool, JobError> {
        either!(self.cancel(id))
    }

    /// Forgets a job that has ended, with its results. Whether it had ended.
    pub async fn delete(&self, id: JobId) -> Result<bool, JobError> {
        either!(self.delete(id))
    }

    /// Has the inputs that failed tried again; how many. `None` where there is nothing to try.
    pub async fn retry(&self, id: JobId) -> Result<Option<u32>, JobError> {
        either!(self.retry(id))
    }

    /// At most `most` inputs of a model, for this process to work on. Waits about a second for the first.
    pub async fn take(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.take(model, most).await,
            Self::Local(jobs) => Ok(jobs.take(model, most).await),
        }
    }

    /// What an input is; `None` when it need not be done any more.
    pub async fn begin(&self, delivery: &Delivery) -> Result<Option<Work>, JobError> {
        either!(self.begin(delivery))
    }

    /// Notes what came of an input. Whether it counted: whoever is second changes nothing. A result that the queue does not take, or has no
    /// room for, is noted as a failure that says so.
    pub async fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> Result<bool, JobError> {
        either!(self.finish(delivery, outcome))
    }

    /// Says that these, of one model, are still being worked on.
    pub async fn beat(&self, model: &str, entries: &[String]) -> Result<(), JobError> {
        match self {
            Self::Redis(jobs) => jobs.beat(model, entries).await,
            Self::Local(_) => Ok(()),
        }
    }

    /// Returns inputs that this process took and does not finish: other workers get them at once. This is no death of a worker. Inputs
    /// that have ended, or that another worker has taken over, are left as they are.
    pub async fn hand_back(&self, deliveries: &[Delivery]) -> Result<(), JobError> {
        either!(self.hand_back(deliveries))
    }

    /// At most `most` inputs of workers that have not been heard of for [`JobLimits::claim_after`].
    pub async fn take_over(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.take_over(model, most).await,
            Self::Local(_) => Ok(Vec::new()),
        }
    }

    /// At most `most` webhooks that are due. Until `lease` is over nobody else gets them; if they are not settled by then, they are due
    /// again.
    pub async fn claim_webhooks(&self, most: usize, lease: Duration) -> Result<Vec<WebhookClaim>, JobError> {
        either!(self.claim_webhooks(most, lease))
    }

    /// Notes what came of a webhook. Whether it counted: a claim that is over changes nothing.
    pub async fn settle_webhook(&self, claim: &WebhookClaim, tried: &Tried) -> Result<bool, JobError> {
        either!(self.settle_webhook(claim, tried))
    }

    /// Models that workers of others' making have said to serve: such a worker may be written in any language.
    pub async fn announced(&self) -> Result<Vec<Announced>, JobError> {
        match self {
            Self::Redis(jobs) => jobs.announced().await,
            Self::Local(_) => Ok(Vec::new()),
        }
    }

    /// Puts this version's functions into Redis, in the place of an older one's.
    pub async fn prepare(&self) -> Result<(), JobError> {
        match self {
            Self::Redis(jobs) => jobs.prepare().await,
            Self::Local(_) => Ok(()),
        }
    }

    /// What the queue holds.
    pub async fn health(&self) -> Result<QueueHealth, JobError> {
        either!(self.health())
    }

    /// Forgets jobs whose time is over.
    pub async fn sweep(&self) -> Result<(), JobError> {
        either!(self.sweep())
    }
}
