use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::{Client, Cmd, RedisError, cmd, pipe};
use tokio::sync::Semaphore;

use self::record::read_job;
pub use self::upload::RedisUpload;
use super::link::{Link, failure};
use super::{
    Announced, Caller, Content, Found, Job, JobError, JobId, JobLimits, NewJob, QueueHealth, Told, Tried, WebhookClaim,
};
use crate::keys::{
    JOBS_COUNTS, JOBS_EXPIRING, JOBS_FILLING, JOBS_GONE, JOBS_KNOWN, JOBS_MODELS, JOBS_WEBHOOKS, job_key, same_as,
};

mod read;
mod record;
mod upload;
mod work;

/// Longer than for cached results, since there is no going on without the queue.
const DEADLINE: Duration = Duration::from_secs(2);

/// Inputs and results that are read at the same time have at most so many bytes, or are one: Redis closes connections whose replies
/// fill `client-output-buffer-limit`, or `maxmemory-clients` with those of other clients.
const MAX_READ_BYTES: usize = 8 << 20;

/// Inputs of one model that are worked on at the same time have at most so many bytes, or are one.
const MAX_HELD_BYTES: usize = 32 << 20;

/// The longest value that Redis takes with the `proto-max-bulk-len` of `redis.conf`. It closes the connection over a longer one.
const MAX_VALUE_BYTES: usize = 16 << 20;

/// Functions get so many arguments of a kind at most.
const PIECE_INPUTS: usize = 500;

/// A piece of a submission has at most so many bytes, or is one input.
const PIECE_BYTES: usize = 1 << 20;
const MAX_SUBMIT_BYTES: usize = 2 * PIECE_BYTES;

/// Jobs that one call looks at.
const ADOPTED_AT_A_TIME: u64 = 200;
const SWEPT_AT_A_TIME: u64 = 100;

/// A model that no worker has spoken of for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// Jobs looked at for one list: further ones than these are not listed.
const MOST_LISTED: isize = 10_000;
const LISTED_AT_A_TIME: isize = 200;

/// The queue in Redis.
#[derive(Clone)]
pub struct RedisJobs {
    /// For commands whose replies are short.
    link: Arc<Link>,
    /// For inputs and results.
    data: Arc<Link>,
    queues: Arc<Mutex<HashMap<String, Arc<Queue>>>>,
    /// What this process is called among the consumers.
    consumer: Arc<str>,
    limits: JobLimits,
    /// Bytes of inputs and results that may be read at the moment.
    reads: Arc<Semaphore>,
}

/// The queue of one model, as this process works on it.
struct Queue {
    /// For waiting: what shared this connection would wait as well.
    link: Link,
    /// Bytes of inputs that may be held by workers at the moment.
    held: Arc<Semaphore>,
}

impl RedisJobs {
    /// Does not connect yet.
    pub fn new(url: &str, limits: JobLimits) -> Result<Self, RedisError> {
        let link = Arc::new(Link::new(Client::open(url)?, DEADLINE)?);
        Ok(Self {
            data: Arc::new(link.beside(DEADLINE)?),
            link,
            queues: Arc::default(),
            consumer: JobId::random().to_string().into(),
            limits,
            reads: Arc::new(Semaphore::new(MAX_READ_BYTES)),
        })
    }

    pub(in crate::jobs) fn upload(&self, caller: Caller) -> RedisUpload {
        RedisUpload::new(Arc::clone(&self.data), caller)
    }

    pub(in crate::jobs) async fn discard(&self, upload: &RedisUpload) {
        if upload.is_begun() {
            // Where Redis does not answer, it expires.
            let _ = self.link.ask::<i64>(&call("discard", &job_key("inputs", upload.id()))).await;
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
        // Submitting the same id twice is submitting it once.
        let accepted: String = self.data.ask_for(&submit, MAX_SUBMIT_BYTES).await?;
        let id = accepted.parse().map_err(|_| JobError::Unavailable)?;
        self.fill(id).await;
        Ok(id)
    }

    /// Queues what is left of the inputs of a job. The sweep does it where this ends before.
    async fn fill(&self, id: JobId) {
        while self.link.ask(&call("fill", &job_key("job", id))).await == Ok(true) {}
    }

    pub(in crate::jobs) async fn repeat(
        &self,
        model: &str,
        content: &Content,
        caller: &Caller,
    ) -> Result<Option<JobId>, JobError> {
        let id = JobId::random();
        let mut repeat = call("repeat", &job_key("job", id));
        repeat.arg(model).arg(&content.digest);
        repeat.arg(self.limits.ttl.as_millis() as u64).arg(self.limits.repeat_within.as_millis() as u64);
        repeat.arg(caller.as_str());
        let repeated: bool = self.link.ask(&repeat).await?;
        Ok(repeated.then_some(id))
    }

    pub(in crate::jobs) async fn forget(&self, model: &str) -> Result<(), JobError> {
        self.link.ask::<i64>(cmd("DEL").arg(same_as(model))).await.map(drop)
    }

    pub(in crate::jobs) async fn find(&self, id: JobId) -> Result<Found, JobError> {
        let fields: HashMap<String, String> = self.link.ask(cmd("HGETALL").arg(job_key("job", id))).await?;
        if let Some(job) = read_job(id, &fields)? {
            return Ok(Found::Job(Box::new(job)));
        }
        let gone: Option<f64> = self.link.ask(cmd("ZSCORE").arg(JOBS_GONE).arg(id.to_string())).await?;
        Ok(if gone.is_some() { Found::Gone } else { Found::Unknown })
    }

    pub(in crate::jobs) async fn list(
        &self,
        wanted: impl Fn(&Job) -> bool,
        mut offset: usize,
        most: usize,
    ) -> Result<Vec<Job>, JobError> {
        let mut found = Vec::new();
        for first in (0..MOST_LISTED).step_by(LISTED_AT_A_TIME as usize) {
            let mut range = cmd("ZREVRANGE");
            range.arg(JOBS_KNOWN).arg(first).arg(first + LISTED_AT_A_TIME - 1);
            let ids: Vec<String> = self.link.ask(&range).await?;
            let ids: Vec<JobId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
            let mut all = pipe();
            for id in &ids {
                all.cmd("HGETALL").arg(job_key("job", *id));
            }
            if ids.is_empty() {
                break;
            }
            let jobs: Vec<HashMap<String, String>> = self.link.ask_all(&all).await?;
            // A job that cannot be read does not hide the others.
            let jobs = ids.iter().zip(&jobs).filter_map(|(id, fields)| read_job(*id, fields).ok().flatten());
            for job in jobs.filter(&wanted) {
                if offset > 0 {
                    offset -= 1;
                } else {
                    found.push(job);
                }
                if found.len() == most {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    pub(in crate::jobs) async fn cancel(&self, id: JobId) -> Result<bool, JobError> {
        let cancelled = self.link.ask(&call("cancel", &job_key("job", id))).await?;
        // Entries that stay are dropped when they are begun.
        while cancelled && self.link.ask(&call("withdraw", &job_key("job", id))).await == Ok(true) {}
        Ok(cancelled)
    }

    pub(in crate::jobs) async fn delete(&self, id: JobId) -> Result<bool, JobError> {
        self.link.ask(&call("delete", &job_key("job", id))).await
    }

    pub(in crate::jobs) async fn retry(&self, id: JobId) -> Result<Option<u32>, JobError> {
        let tried: i64 = self.link.ask(&call("retry", &job_key("job", id))).await?;
        self.fill(id).await;
        Ok(u32::try_from(tried).ok())
    }

    pub(in crate::jobs) async fn claim_webhooks(
        &self,
        most: usize,
        lease: Duration,
    ) -> Result<Vec<WebhookClaim>, JobError> {
        let mut claim = call("claim_webhooks", JOBS_WEBHOOKS);
        claim.arg(lease.as_millis() as u64).arg(most);
        let claimed: Vec<(String, u64)> = self.link.ask(&claim).await?;
        let read = |(job, claim): (String, u64)| Some(WebhookClaim { job: job.parse().ok()?, claim });
        Ok(claimed.into_iter().filter_map(read).collect())
    }

    pub(in crate::jobs) async fn settle_webhook(&self, claim: &WebhookClaim, tried: &Tried) -> Result<bool, JobError> {
        let (told, error, again) = match tried {
            Tried::Delivered => (Told::Delivered.as_str(), "", Duration::ZERO),
            Tried::Again(pause, error) => ("", error.as_str(), *pause),
            Tried::GivenUp(error) => (Told::Failed.as_str(), error.as_str(), Duration::ZERO),
        };
        let mut settle = call("settle_webhook", JOBS_WEBHOOKS);
        settle.arg(claim.job.to_string()).arg(claim.claim).arg(told).arg(error).arg(again.as_millis() as u64);
        self.link.ask(&settle).await
    }

    pub(in crate::jobs) async fn announced(&self) -> Result<Vec<Announced>, JobError> {
        let mut announced = call("announced", JOBS_MODELS);
        announced.arg(FORGOTTEN_AFTER.as_millis() as u64);
        let parts: Vec<String> = self.link.ask(&announced).await?;
        let read = |part: &[String]| {
            let ago = Duration::from_millis(part[2].parse().ok()?);
            Some(Announced { name: part[0].clone(), said: part[1].clone(), ago })
        };
        Ok(parts.chunks_exact(3).filter_map(read).collect())
    }

    pub(in crate::jobs) async fn health(&self) -> Result<QueueHealth, JobError> {
        let (waiting, bytes, bytes_limit) = self.link.ask(&call("health", JOBS_COUNTS)).await?;
        Ok(QueueHealth { waiting, bytes, bytes_limit })
    }

    pub(in crate::jobs) async fn prepare(&self) -> Result<(), JobError> {
        self.link.load_functions().await.map_err(|error| failure(&error))?;
        let mut looked_at = 0_u64;
        loop {
            let mut adopt = call("adopt", JOBS_KNOWN);
            adopt.arg(looked_at).arg(ADOPTED_AT_A_TIME);
            let looked: u64 = self.link.ask(&adopt).await?;
            looked_at += looked;
            if looked < ADOPTED_AT_A_TIME {
                return Ok(());
            }
        }
    }

    pub(in crate::jobs) async fn sweep(&self) -> Result<(), JobError> {
        let mut sweep = call("sweep", JOBS_EXPIRING);
        sweep.arg(SWEPT_AT_A_TIME);
        while self.link.ask::<u64>(&sweep).await? == SWEPT_AT_A_TIME {}
        let filling: Vec<String> = self.link.ask(cmd("SRANDMEMBER").arg(JOBS_FILLING).arg(SWEPT_AT_A_TIME)).await?;
        for id in filling.iter().filter_map(|id| id.parse().ok()) {
            self.fill(id).await;
        }
        Ok(())
    }
}

fn call(function: &str, key: &str) -> Cmd {
    let mut call = cmd("FCALL");
    call.arg(format!("mlserve_{function}")).arg(1).arg(key);
    call
}
