use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{Client, Cmd, RedisError, cmd, pipe};
use serde_json::json;

use super::link::{Link, failure};
use super::{
    Announced, Asked, Content, Delivery, Event, Found, Input, Job, JobError, JobId, JobLimits, Kind, NewJob, Outcome,
    Status, Told, Tried, Webhook, WebhookClaim, What, Work,
};
use crate::keys::{
    JOBS_EXPIRING, JOBS_GONE, JOBS_GROUP, JOBS_KNOWN, JOBS_MODELS, JOBS_WEBHOOKS, job_key, queue_of, same_as,
};

/// Longer than for the memory: there is no going on without the queue, and a job of ten thousand inputs takes its time.
const DEADLINE: Duration = Duration::from_secs(5);

/// So long Redis is asked to wait for work.
const WAIT: Duration = Duration::from_secs(1);

/// Inputs travel to Redis in pieces of so many bytes, or of one input: it takes 32 MiB at once.
const PIECE_BYTES: usize = 1 << 20;
/// Functions get so many arguments at most.
const PIECE_INPUTS: usize = 500;

/// A model that no worker has spoken of for so long is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// Jobs looked at for one list: further ones than these are not listed.
const MOST_LISTED: isize = 10_000;
const LISTED_AT_A_TIME: isize = 200;

/// What became of a webhook, as it stands in its job.
const DELIVERED: &str = "delivered";
const FAILED: &str = "failed";

/// The queue in Redis.
#[derive(Clone)]
pub struct RedisJobs {
    /// For everything that is answered at once.
    link: Arc<Link>,
    /// For waiting, one for each model.
    waiting: Arc<Mutex<HashMap<String, Arc<Link>>>>,
    /// What this process is called among the consumers.
    consumer: Arc<str>,
    limits: JobLimits,
}

impl RedisJobs {
    /// Does not connect yet.
    pub fn new(url: &str, limits: JobLimits) -> Result<Self, RedisError> {
        Ok(Self {
            link: Arc::new(Link::new(Client::open(url)?, DEADLINE)?),
            waiting: Arc::default(),
            consumer: JobId::random().to_string().into(),
            limits,
        })
    }

    pub(super) async fn submit(&self, job: NewJob) -> Result<JobId, JobError> {
        let id = JobId::random();
        self.upload(id, &job.inputs).await?;
        let Asked { kind, version, content_type, json_length, top_k } = &job.asked;
        let mut fields = json!({ "kind": kind });
        let optional = [
            ("version", version.clone()),
            ("content_type", Some(content_type.clone()).filter(|text| !text.is_empty())),
            ("json_length", json_length.map(|length| length.to_string())),
            ("top_k", top_k.clone()),
            ("webhook", job.webhook.clone()),
            ("content", job.content.as_ref().map(|content| content.digest.clone())),
            ("digest", job.content.as_ref().map(|content| content.model_digest.clone())),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                fields[field] = value.into();
            }
        }
        let names: Vec<&str> = job.inputs.iter().map(|input| input.name.as_str()).collect();
        let once = job.once.as_ref();
        let mut submit = call("submit", &job_key("job", id));
        submit.arg(&job.model).arg(job.inputs.len()).arg(job.ttl.unwrap_or(self.limits.ttl).as_millis() as u64);
        submit.arg(self.limits.queue_length);
        submit.arg(once.map_or("", |once| &once.key)).arg(once.map_or("", |once| &once.digest));
        submit.arg(json!(names).to_string()).arg(fields.to_string());
        for (index, known) in job.inputs.iter().enumerate().filter_map(|(at, input)| Some((at, input.known.as_ref()?)))
        {
            submit.arg(index).arg(known.to_signed());
        }
        // Submitting the same id twice is submitting it once.
        let accepted: String = match self.link.ask(&submit).await {
            Err(JobError::Unavailable) => self.link.ask(&submit).await?,
            accepted => accepted?,
        };
        accepted.parse().map_err(|_| JobError::Unavailable)
    }

    pub(super) async fn repeat(&self, model: &str, content: &Content) -> Result<Option<JobId>, JobError> {
        let id = JobId::random();
        let mut repeat = call("repeat", &job_key("job", id));
        repeat.arg(model).arg(&content.digest);
        repeat.arg(self.limits.ttl.as_millis() as u64).arg(self.limits.repeat_within.as_millis() as u64);
        let repeated: bool = self.link.ask(&repeat).await?;
        Ok(repeated.then_some(id))
    }

    pub(super) async fn forget(&self, model: &str) -> Result<(), JobError> {
        self.link.ask::<i64>(cmd("DEL").arg(same_as(model))).await.map(drop)
    }

    /// Inputs go ahead of their job: a job is accepted in one step, and that step is short.
    async fn upload(&self, id: JobId, inputs: &[Input]) -> Result<(), JobError> {
        let waiting = inputs.iter().enumerate().filter(|(_, input)| input.known.is_none());
        let key = job_key("inputs", id);
        let (mut piece, mut bytes, mut count) = (call("upload", &key), 0, 0);
        for (index, input) in waiting {
            if count > 0 && (bytes + input.data.len() > PIECE_BYTES || count == PIECE_INPUTS) {
                self.link.ask::<i64>(&piece).await?;
                (piece, bytes, count) = (call("upload", &key), 0, 0);
            }
            piece.arg(index).arg(&input.data[..]);
            bytes += input.data.len();
            count += 1;
        }
        if count > 0 { self.link.ask::<i64>(&piece).await.map(drop) } else { Ok(()) }
    }

    pub(super) async fn find(&self, id: JobId) -> Result<Found, JobError> {
        let fields: HashMap<String, String> = self.link.ask(cmd("HGETALL").arg(job_key("job", id))).await?;
        if let Some(job) = read_job(id, &fields) {
            return Ok(Found::Job(Box::new(job)));
        }
        let gone: Option<f64> = self.link.ask(cmd("ZSCORE").arg(JOBS_GONE).arg(id.to_string())).await?;
        Ok(if gone.is_some() { Found::Gone } else { Found::Unknown })
    }

    pub(super) async fn list(
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
            for job in ids.iter().zip(&jobs).filter_map(|(id, fields)| read_job(*id, fields)).filter(&wanted) {
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

    pub(super) async fn names(&self, id: JobId, inputs: Range<u32>) -> Result<Vec<String>, JobError> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        self.link.ask(cmd("LRANGE").arg(job_key("names", id)).arg(inputs.start).arg(inputs.end - 1)).await
    }

    pub(super) async fn results(&self, id: JobId, indices: &[u32]) -> Result<Vec<Option<Outcome>>, JobError> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let results: Vec<Option<String>> = self.link.ask(cmd("HMGET").arg(job_key("results", id)).arg(indices)).await?;
        Ok(results.into_iter().map(|result| result.and_then(Outcome::from_signed)).collect())
    }

    pub(super) async fn events(&self, id: JobId, after: &str, most: usize) -> Result<Vec<Event>, JobError> {
        let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        let mut range = cmd("XRANGE");
        range.arg(job_key("events", id)).arg(from).arg("+").arg("COUNT").arg(most);
        let entries: Vec<(String, Vec<String>)> = self.link.ask(&range).await?;
        let read = |(id, fields): (String, Vec<String>)| {
            let what = match (fields.first()?.as_str(), fields.get(1)?) {
                ("index", index) => What::Ended(index.parse().ok()?),
                (_, status) => What::Status(status.parse().ok()?),
            };
            Some(Event { id, what })
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    pub(super) async fn cancel(&self, id: JobId) -> Result<bool, JobError> {
        self.link.ask(&call("cancel", &job_key("job", id))).await
    }

    pub(super) async fn retry(&self, id: JobId) -> Result<Option<u32>, JobError> {
        let tried: i64 = self.link.ask(&call("retry", &job_key("job", id))).await?;
        Ok(u32::try_from(tried).ok())
    }

    pub(super) async fn take(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        type Entries = Vec<(String, Vec<String>)>;
        let queue = queue_of(model);
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(JOBS_GROUP).arg(&*self.consumer).arg("COUNT").arg(most);
        read.arg("BLOCK").arg(WAIT.as_millis() as u64).arg("STREAMS").arg(&queue).arg(">");
        let waiting = self.link_of(model)?;
        let taken: Option<Vec<(String, Entries)>> = match waiting.command(&read).await {
            Err(error) if error.code() == Some("NOGROUP") => return self.make_group(&queue).await.map(|()| Vec::new()),
            taken => taken.map_err(|error| failure(&error))?,
        };
        let entries = taken.into_iter().flatten().flat_map(|(_, entries)| entries);
        let read = |(entry, fields): (String, Vec<String>)| match fields.as_slice() {
            [_, job, _, index, ..] => delivery(model, entry, job, index),
            _ => None,
        };
        Ok(entries.filter_map(read).collect())
    }

    /// The connection on which this model's queue is waited at: whoever shared it would wait as well.
    fn link_of(&self, model: &str) -> Result<Arc<Link>, JobError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = waiting.get(model) {
            return Ok(Arc::clone(link));
        }
        let link = self.link.beside(WAIT + DEADLINE).map_err(|error| failure(&error))?;
        Ok(Arc::clone(waiting.entry(model.to_owned()).or_insert(Arc::new(link))))
    }

    /// From the beginning of the queue: what came before the group, or before it was lost, is to be done as well.
    async fn make_group(&self, queue: &str) -> Result<(), JobError> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(queue).arg(JOBS_GROUP).arg(0).arg("MKSTREAM");
        match self.link.command::<()>(&create).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(failure(&error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn begin(&self, delivery: &Delivery) -> Result<Option<Work>, JobError> {
        let mut begin = call("begin", &queue_of(&delivery.model));
        begin.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index);
        let found: Option<Vec<Vec<u8>>> = self.link.ask(&begin).await?;
        Ok(found.map(|found| {
            let mut fields = found.into_iter();
            let data = fields.next().unwrap_or_default();
            let mut text = || fields.next().map(|text| String::from_utf8_lossy(&text).into_owned());
            let mut text = || text().filter(|text| !text.is_empty());
            let asked = Asked {
                kind: if text().as_deref() == Some("image") { Kind::Image } else { Kind::V2 },
                version: text(),
                content_type: text().unwrap_or_default(),
                json_length: text().and_then(|length| length.parse().ok()),
                top_k: text(),
            };
            Work { asked, data: Bytes::from(data) }
        }))
    }

    pub(super) async fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> Result<bool, JobError> {
        let mut finish = call("finish", &queue_of(&delivery.model));
        finish.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index).arg(outcome.to_signed());
        self.link.ask(&finish).await
    }

    pub(super) async fn beat(&self, model: &str, entries: &[String]) -> Result<(), JobError> {
        let mut beat = call("beat", &queue_of(model));
        beat.arg(&*self.consumer).arg(entries);
        self.link.ask(&beat).await
    }

    pub(super) async fn take_over(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        let mut take = call("take_over", &queue_of(model));
        take.arg(&*self.consumer).arg(self.limits.claim_after.as_millis() as u64);
        take.arg(self.limits.max_deliveries).arg(most);
        let taken: Vec<String> = match self.link.ask(&take).await {
            // Nobody has ever worked for this model: there is nothing to take over.
            Err(JobError::Unavailable) => Vec::new(),
            taken => taken?,
        };
        let parts = taken.chunks_exact(3);
        Ok(parts.filter_map(|part| delivery(model, part[0].clone(), &part[1], &part[2])).collect())
    }

    pub(super) async fn claim_webhooks(&self, most: usize, lease: Duration) -> Result<Vec<WebhookClaim>, JobError> {
        let mut claim = call("claim_webhooks", JOBS_WEBHOOKS);
        claim.arg(lease.as_millis() as u64).arg(most);
        let claimed: Vec<(String, u64)> = self.link.ask(&claim).await?;
        let read = |(job, claim): (String, u64)| Some(WebhookClaim { job: job.parse().ok()?, claim });
        Ok(claimed.into_iter().filter_map(read).collect())
    }

    pub(super) async fn settle_webhook(&self, claim: &WebhookClaim, tried: &Tried) -> Result<bool, JobError> {
        let (told, error, again) = match tried {
            Tried::Delivered => (DELIVERED, "", Duration::ZERO),
            Tried::Again(pause, error) => ("", error.as_str(), *pause),
            Tried::GivenUp(error) => (FAILED, error.as_str(), Duration::ZERO),
        };
        let mut settle = call("settle_webhook", JOBS_WEBHOOKS);
        settle.arg(claim.job.to_string()).arg(claim.claim).arg(told).arg(error).arg(again.as_millis() as u64);
        self.link.ask(&settle).await
    }

    pub(super) async fn announced(&self) -> Result<Vec<Announced>, JobError> {
        let mut announced = call("announced", JOBS_MODELS);
        announced.arg(FORGOTTEN_AFTER.as_millis() as u64);
        let parts: Vec<String> = self.link.ask(&announced).await?;
        let read = |part: &[String]| {
            let ago = Duration::from_millis(part[2].parse().ok()?);
            Some(Announced { name: part[0].clone(), said: part[1].clone(), ago })
        };
        Ok(parts.chunks_exact(3).filter_map(read).collect())
    }

    pub(super) async fn prepare(&self) -> Result<(), JobError> {
        self.link.load_functions().await.map_err(|error| failure(&error))
    }

    pub(super) async fn sweep(&self) -> Result<(), JobError> {
        let mut sweep = call("sweep", JOBS_EXPIRING);
        sweep.arg(100);
        while self.link.ask::<u64>(&sweep).await? == 100 {}
        Ok(())
    }
}

fn call(function: &str, key: &str) -> Cmd {
    let mut call = cmd("FCALL");
    call.arg(format!("mlserve_{function}")).arg(1).arg(key);
    call
}

fn delivery(model: &str, entry: String, job: &str, index: &str) -> Option<Delivery> {
    Some(Delivery { model: model.to_owned(), entry, job: job.parse().ok()?, index: index.parse().ok()? })
}

fn read_job(id: JobId, fields: &HashMap<String, String>) -> Option<Job> {
    let number = |field: &str| fields.get(field).and_then(|number| number.parse::<u64>().ok());
    let count = |field: &str| number(field).unwrap_or_default() as u32;
    let status: Status = fields.get("status")?.parse().ok()?;
    let finished_ms = number("finished");
    Some(Job {
        id,
        model: fields.get("model")?.clone(),
        status,
        total: count("total"),
        done: count("done"),
        failed: count("failed"),
        dead: count("dead"),
        runs: count("runs"),
        created_ms: number("created")?,
        started_ms: number("started"),
        finished_ms,
        expires_ms: finished_ms.zip(number("ttl")).map(|(finished, ttl)| finished + ttl),
        webhook: fields.get("webhook").map(|url| Webhook {
            tries: count("webhook_tries"),
            told: match fields.get("webhook_told").map(String::as_str) {
                Some(DELIVERED) => Some(Told::Delivered),
                Some(_) => Some(Told::Failed),
                None => None,
            },
            error: fields.get("webhook_error").cloned(),
            ..Webhook::new(url.clone())
        }),
    })
}
