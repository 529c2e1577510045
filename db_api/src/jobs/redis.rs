use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{Client, Cmd, RedisError, cmd, pipe};
use serde_json::json;
use tokio::sync::Semaphore;

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

/// The longest value that Redis takes with the `proto-max-bulk-len` of `redis.conf`. It closes the connection over a longer one.
const MAX_VALUE_BYTES: usize = 16 << 20;

/// Inputs that are read from Redis at the same time have at most so many bytes, or are one: Redis closes connections whose replies
/// fill `client-output-buffer-limit`, or `maxmemory-clients` with those of other clients.
const MAX_READ_BYTES: usize = 8 << 20;

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
    /// Bytes of inputs that may be read at the moment.
    reads: Arc<Semaphore>,
}

/// Inputs of a job that is not submitted yet. What is not known already goes to Redis in pieces.
pub struct RedisUpload {
    link: Arc<Link>,
    id: JobId,
    names: Vec<String>,
    known: Vec<(usize, String)>,
    piece: Cmd,
    piece_bytes: usize,
    piece_inputs: usize,
    /// Whether Redis has any of it.
    is_begun: bool,
}

impl RedisJobs {
    /// Does not connect yet.
    pub fn new(url: &str, limits: JobLimits) -> Result<Self, RedisError> {
        Ok(Self {
            link: Arc::new(Link::new(Client::open(url)?, DEADLINE)?),
            waiting: Arc::default(),
            consumer: JobId::random().to_string().into(),
            limits,
            reads: Arc::new(Semaphore::new(MAX_READ_BYTES)),
        })
    }

    pub(super) fn upload(&self) -> RedisUpload {
        let id = JobId::random();
        RedisUpload {
            link: Arc::clone(&self.link),
            id,
            names: Vec::new(),
            known: Vec::new(),
            piece: call("upload", &job_key("inputs", id)),
            piece_bytes: 0,
            piece_inputs: 0,
            is_begun: false,
        }
    }

    pub(super) async fn discard(&self, upload: &RedisUpload) {
        if upload.is_begun {
            // Where Redis does not answer, it expires.
            let _ = self.link.ask::<i64>(&call("discard", &job_key("inputs", upload.id))).await;
        }
    }

    pub(super) async fn submit(&self, mut upload: RedisUpload, job: NewJob) -> Result<JobId, JobError> {
        if let Err(error) = upload.send().await {
            self.discard(&upload).await;
            return Err(error);
        }
        let id = upload.id;
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
            ("skipped", (job.skipped.count > 0).then(|| json!(job.skipped).to_string())),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                fields[field] = value.into();
            }
        }
        let once = job.once.as_ref();
        let mut submit = call("submit", &job_key("job", id));
        submit.arg(&job.model).arg(upload.names.len()).arg(job.ttl.unwrap_or(self.limits.ttl).as_millis() as u64);
        submit.arg(self.limits.queue_length);
        submit.arg(once.map_or("", |once| &once.key)).arg(once.map_or("", |once| &once.digest));
        submit.arg(json!(upload.names).to_string()).arg(fields.to_string());
        for (index, outcome) in &upload.known {
            submit.arg(index).arg(outcome);
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
        Ok(self.measured(entries.filter_map(read).collect()).await)
    }

    /// With the lengths of their inputs. Where Redis does not tell them, the inputs are read one by one.
    async fn measured(&self, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        if deliveries.is_empty() {
            return deliveries;
        }
        let mut lengths = pipe();
        for delivery in &deliveries {
            lengths.cmd("HSTRLEN").arg(job_key("inputs", delivery.job)).arg(delivery.index);
        }
        let lengths: Vec<usize> = self.link.ask_all(&lengths).await.unwrap_or_default();
        for (place, delivery) in deliveries.iter_mut().enumerate() {
            delivery.bytes = lengths.get(place).copied().unwrap_or(MAX_READ_BYTES);
        }
        deliveries
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
        let bytes = delivery.bytes.clamp(1, MAX_READ_BYTES) as u32;
        let _read = self.reads.acquire_many(bytes).await.map_err(|_| JobError::Unavailable)?;
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

    pub(super) async fn hand_back(&self, deliveries: &[Delivery]) -> Result<(), JobError> {
        let mut by_model: HashMap<&str, Vec<&str>> = HashMap::new();
        for delivery in deliveries {
            by_model.entry(&delivery.model).or_default().push(&delivery.entry);
        }
        for (model, entries) in by_model {
            for piece in entries.chunks(PIECE_INPUTS) {
                let mut hand_back = call("hand_back", &queue_of(model));
                hand_back.arg(&*self.consumer).arg(piece);
                self.link.ask::<u64>(&hand_back).await?;
            }
        }
        Ok(())
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
        let deliveries = parts.filter_map(|part| delivery(model, part[0].clone(), &part[1], &part[2])).collect();
        Ok(self.measured(deliveries).await)
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

impl RedisUpload {
    /// Inputs go ahead of their job: a job is accepted in one step, and that step is short.
    pub(super) async fn push(&mut self, input: Input) -> Result<(), JobError> {
        let index = self.names.len();
        self.names.push(input.name);
        if let Some(outcome) = input.known {
            self.known.push((index, outcome.to_signed()));
            return Ok(());
        }
        if self.piece_inputs == PIECE_INPUTS || self.piece_bytes + input.data.len() > PIECE_BYTES {
            self.send().await?;
        }
        self.piece.arg(index).arg(&input.data[..]);
        self.piece_bytes += input.data.len();
        self.piece_inputs += 1;
        Ok(())
    }

    /// Sends what has been collected.
    async fn send(&mut self) -> Result<(), JobError> {
        if self.piece_inputs == 0 {
            return Ok(());
        }
        self.is_begun = true;
        let bytes = std::mem::take(&mut self.piece_bytes);
        let piece = std::mem::replace(&mut self.piece, call("upload", &job_key("inputs", self.id)));
        self.piece_inputs = 0;
        match self.link.ask::<i64>(&piece).await {
            // Only an input that is alone in its piece makes it as long as this.
            Err(JobError::Unavailable) if bytes > MAX_VALUE_BYTES => {
                Err(JobError::LargeInput { bytes, most: MAX_VALUE_BYTES })
            }
            sent => sent.map(drop),
        }
    }
}

fn call(function: &str, key: &str) -> Cmd {
    let mut call = cmd("FCALL");
    call.arg(format!("mlserve_{function}")).arg(1).arg(key);
    call
}

fn delivery(model: &str, entry: String, job: &str, index: &str) -> Option<Delivery> {
    Some(Delivery { model: model.to_owned(), entry, job: job.parse().ok()?, index: index.parse().ok()?, bytes: 0 })
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
        skipped: fields.get("skipped").and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default(),
    })
}
