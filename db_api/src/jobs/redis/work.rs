use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{cmd, pipe};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::{DEADLINE, MAX_HELD_BYTES, MAX_READ_BYTES, MAX_VALUE_BYTES, PIECE_INPUTS, Queue, RedisJobs, call};
use crate::jobs::link::failure;
use crate::jobs::{Asked, Delivery, JobError, Kind, Outcome, Work};
use crate::keys::{JOBS_GROUP, job_key, queue_of};

/// So long Redis is asked to wait for work.
const WAIT: Duration = Duration::from_secs(1);

/// An input that could not be read is read again, after a pause that doubles.
const READ_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

impl RedisJobs {
    pub(in crate::jobs) async fn take(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        type Entries = Vec<(String, Vec<String>)>;
        let queue = queue_of(model);
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(JOBS_GROUP).arg(&*self.consumer).arg("COUNT").arg(most);
        read.arg("BLOCK").arg(WAIT.as_millis() as u64).arg("STREAMS").arg(&queue).arg(">");
        let waiting = &self.queue(model)?.link;
        let entries: Entries = match waiting.command::<Option<Vec<(String, Entries)>>>(&read).await {
            Ok(taken) => taken.into_iter().flatten().flat_map(|(_, entries)| entries).collect(),
            // The group is missing; or Redis is above maxmemory, where it runs functions and none of its own commands that may write. The
            // results free what the inputs have.
            Err(error) if matches!(error.code(), Some("NOGROUP" | "OOM")) => {
                let mut take = call("take", &queue);
                take.arg(&*self.consumer).arg(most);
                let entries: Entries = self.link.ask(&take).await?;
                if entries.is_empty() {
                    sleep(WAIT).await;
                }
                entries
            }
            Err(error) => return Err(failure(&error)),
        };
        let read = |(entry, fields): (String, Vec<String>)| match fields.as_slice() {
            [_, job, _, index, ..] => delivery(model, entry, job, index),
            _ => None,
        };
        Ok(self.measured(entries.into_iter().filter_map(read).collect()).await)
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

    fn queue(&self, model: &str) -> Result<Arc<Queue>, JobError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(model) {
            return Ok(Arc::clone(queue));
        }
        let link = self.link.beside(WAIT + DEADLINE).map_err(|error| failure(&error))?;
        let queue = Arc::new(Queue { link, held: Arc::new(Semaphore::new(MAX_HELD_BYTES)) });
        queues.insert(model.to_owned(), Arc::clone(&queue));
        Ok(queue)
    }

    /// The input is read first, so that an input which cannot be read has not begun.
    pub(in crate::jobs) async fn begin(&self, delivery: &Delivery) -> Result<Option<Work>, JobError> {
        let held = Arc::clone(&self.queue(&delivery.model)?.held);
        let bytes = delivery.bytes.clamp(1, MAX_HELD_BYTES) as u32;
        let held = held.acquire_many_owned(bytes).await.map_err(|_| JobError::Unavailable)?;
        let data = self.input(delivery).await?;
        let mut begin = call("begin", &queue_of(&delivery.model));
        begin.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index).arg("bare");
        let found: Option<Vec<String>> = self.link.ask(&begin).await?;
        Ok(found.zip(data).map(|(found, data)| {
            let mut fields = found.into_iter().skip(1);
            let mut text = || fields.next().filter(|text| !text.is_empty());
            let asked = Asked {
                kind: if text().as_deref() == Some("image") { Kind::Image } else { Kind::V2 },
                version: text(),
                content_type: text().unwrap_or_default(),
                json_length: text().and_then(|length| length.parse().ok()),
                top_k: text(),
            };
            Work { asked, data, _held: Some(Arc::new(held)) }
        }))
    }

    async fn input(&self, delivery: &Delivery) -> Result<Option<Bytes>, JobError> {
        let mut get = cmd("HGET");
        get.arg(job_key("inputs", delivery.job)).arg(delivery.index);
        let _read = self.reserve(delivery.bytes).await?;
        let mut pause = FIRST_PAUSE;
        for _ in 1..READ_TRIES {
            match self.data.ask_for::<Option<Vec<u8>>>(&get, delivery.bytes).await {
                Ok(data) => return Ok(data.map(Bytes::from)),
                Err(_) => sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(self.data.ask_for::<Option<Vec<u8>>>(&get, delivery.bytes).await?.map(Bytes::from))
    }

    pub(in crate::jobs) async fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> Result<bool, JobError> {
        let mut signed = outcome.to_signed();
        if signed.len() > MAX_VALUE_BYTES {
            let words = format!(
                "The result has {} bytes; the queue takes at most {} bytes for each. POST /predict gives larger ones.",
                signed.len() - 1,
                MAX_VALUE_BYTES - 1
            );
            signed = Outcome::Error(json!({ "status": 413, "detail": words }).to_string()).to_signed();
        }
        let mut finish = call("finish", &queue_of(&delivery.model));
        finish.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index).arg(&signed);
        self.data.ask_for(&finish, signed.len()).await
    }

    pub(in crate::jobs) async fn beat(&self, model: &str, entries: &[String]) -> Result<(), JobError> {
        let mut beat = call("beat", &queue_of(model));
        beat.arg(&*self.consumer).arg(entries);
        self.link.ask(&beat).await
    }

    pub(in crate::jobs) async fn hand_back(&self, deliveries: &[Delivery]) -> Result<(), JobError> {
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

    pub(in crate::jobs) async fn take_over(&self, model: &str, most: usize) -> Result<Vec<Delivery>, JobError> {
        let mut take = call("take_over", &queue_of(model));
        take.arg(&*self.consumer).arg(self.limits.claim_after.as_millis() as u64);
        take.arg(self.limits.max_deliveries).arg(most);
        let taken: Vec<String> = match self.link.send(&take, 0).await {
            // No worker has ever served this model: there is nothing to take over.
            Err(error) if error.code() == Some("NOGROUP") => Vec::new(),
            taken => taken.map_err(|error| failure(&error))?,
        };
        let parts = taken.chunks_exact(3);
        let deliveries = parts.filter_map(|part| delivery(model, part[0].clone(), &part[1], &part[2])).collect();
        Ok(self.measured(deliveries).await)
    }
}

fn delivery(model: &str, entry: String, job: &str, index: &str) -> Option<Delivery> {
    Some(Delivery { model: model.to_owned(), entry, job: job.parse().ok()?, index: index.parse().ok()?, bytes: 0 })
}
