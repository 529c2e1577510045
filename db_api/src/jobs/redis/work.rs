//! Operations of workers on the queue in Redis.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{cmd, pipe};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::command::{CHUNK_INPUTS, COMMAND_TIMEOUT, MAX_READ_BYTES, MAX_VALUE_BYTES, call};
use super::connection::to_job_error;
use super::{Queue, RedisJobs};
use crate::jobs::error::JobError;
use crate::jobs::keys::{CONSUMER_GROUP, job_key, queue_key};
use crate::jobs::types::{Delivery, InputKind, InputSpec, Outcome, Work};

/// How long Redis blocks on an empty queue.
const BLOCK_DURATION: Duration = Duration::from_secs(1);

/// Bytes of inputs of one model that workers hold concurrently; a single larger input is processed alone.
const MAX_INPUT_BYTES: usize = 32 << 20;

/// Attempts to read an input.
const READ_ATTEMPTS: u32 = 4;

/// Delay before the second attempt; it doubles with each attempt.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(100);

impl RedisJobs {
    pub(in crate::jobs) async fn receive(&self, model: &str, limit: usize) -> Result<Vec<Delivery>, JobError> {
        type Entries = Vec<(String, Vec<String>)>;
        let queue = queue_key(model);
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(CONSUMER_GROUP).arg(&*self.consumer).arg("COUNT").arg(limit);
        read.arg("BLOCK").arg(BLOCK_DURATION.as_millis() as u64).arg("STREAMS").arg(&queue).arg(">");
        let blocking = &self.queue(model)?.connection;
        let entries: Entries = match blocking.send_once::<Option<Vec<(String, Entries)>>>(&read).await {
            Ok(streams) => streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect(),
            // The group is missing; or Redis is above maxmemory, where it runs functions but rejects its own commands that may write.
            // Reading on is necessary there: results free the memory of their inputs.
            Err(error) if matches!(error.code(), Some("NOGROUP" | "OOM")) => {
                let mut take = call("take", &queue);
                take.arg(&*self.consumer).arg(limit);
                let entries: Entries = self.connection.execute(&take).await?;
                if entries.is_empty() {
                    sleep(BLOCK_DURATION).await;
                }
                entries
            }
            Err(error) => return Err(to_job_error(&error)),
        };
        let parse = |(entry, fields): (String, Vec<String>)| match fields.as_slice() {
            [_, job, _, index, ..] => delivery(model, entry, job, index),
            _ => None,
        };
        Ok(self.with_lengths(entries.into_iter().filter_map(parse).collect()).await)
    }

    /// Adds the lengths of the inputs. Where Redis does not return them, the inputs are read one at a time.
    async fn with_lengths(&self, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        if deliveries.is_empty() {
            return deliveries;
        }
        let mut lengths = pipe();
        for delivery in &deliveries {
            lengths.cmd("HSTRLEN").arg(job_key("inputs", delivery.job)).arg(delivery.index);
        }
        let lengths: Vec<usize> = self.connection.execute_all(&lengths).await.unwrap_or_default();
        for (index, delivery) in deliveries.iter_mut().enumerate() {
            delivery.bytes = lengths.get(index).copied().unwrap_or(MAX_READ_BYTES);
        }
        deliveries
    }

    fn queue(&self, model: &str) -> Result<Arc<Queue>, JobError> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(model) {
            return Ok(Arc::clone(queue));
        }
        let connection = self.connection.side_connection(BLOCK_DURATION + COMMAND_TIMEOUT);
        let connection = connection.map_err(|error| to_job_error(&error))?;
        let queue = Arc::new(Queue { connection, input_bytes: Arc::new(Semaphore::new(MAX_INPUT_BYTES)) });
        queues.insert(model.to_owned(), Arc::clone(&queue));
        Ok(queue)
    }

    /// Reads the input before it marks it as started, so that an unreadable input does not count as started.
    pub(in crate::jobs) async fn start(&self, delivery: &Delivery) -> Result<Option<Work>, JobError> {
        let input_bytes = Arc::clone(&self.queue(&delivery.model)?.input_bytes);
        let bytes = delivery.bytes.clamp(1, MAX_INPUT_BYTES) as u32;
        let reservation = input_bytes.acquire_many_owned(bytes).await.map_err(|_| JobError::Unavailable)?;
        let data = self.read_input(delivery).await?;
        let mut begin = call("begin", &queue_key(&delivery.model));
        begin.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index).arg("bare");
        let started: Option<Vec<String>> = self.connection.execute(&begin).await?;
        Ok(started.zip(data).map(|(fields, data)| {
            let mut fields = fields.into_iter().skip(1);
            let mut text = || fields.next().filter(|text| !text.is_empty());
            let spec = InputSpec {
                kind: if text().as_deref() == Some("image") { InputKind::Image } else { InputKind::V2 },
                version: text(),
                content_type: text().unwrap_or_default(),
                json_length: text().and_then(|length| length.parse().ok()),
                top_k: text(),
            };
            Work { spec, data, _reservation: Some(Arc::new(reservation)) }
        }))
    }

    async fn read_input(&self, delivery: &Delivery) -> Result<Option<Bytes>, JobError> {
        let mut get = cmd("HGET");
        get.arg(job_key("inputs", delivery.job)).arg(delivery.index);
        let _reservation = self.reserve_read(delivery.bytes).await?;
        let mut delay = FIRST_RETRY_DELAY;
        for _ in 1..READ_ATTEMPTS {
            match self.data_connection.execute_large::<Option<Vec<u8>>>(&get, delivery.bytes).await {
                Ok(data) => return Ok(data.map(Bytes::from)),
                Err(_) => sleep(delay).await,
            }
            delay *= 2;
        }
        Ok(self.data_connection.execute_large::<Option<Vec<u8>>>(&get, delivery.bytes).await?.map(Bytes::from))
    }

    pub(in crate::jobs) async fn finish(&self, delivery: &Delivery, outcome: &Outcome) -> Result<bool, JobError> {
        let mut signed = outcome.to_signed();
        if signed.len() > MAX_VALUE_BYTES {
            let detail = format!(
                "The result has {} bytes, which exceeds the limit of {} bytes per result of a job. POST /predict returns larger results.",
                signed.len() - 1,
                MAX_VALUE_BYTES - 1
            );
            signed = Outcome::Error(json!({ "status": 413, "detail": detail }).to_string()).to_signed();
        }
        let mut finish = call("finish", &queue_key(&delivery.model));
        finish.arg(&delivery.entry).arg(delivery.job.to_string()).arg(delivery.index).arg(&signed);
        self.data_connection.execute_large(&finish, signed.len()).await
    }

    pub(in crate::jobs) async fn heartbeat(&self, model: &str, entries: &[String]) -> Result<(), JobError> {
        let mut beat = call("beat", &queue_key(model));
        beat.arg(&*self.consumer).arg(entries);
        self.connection.execute(&beat).await
    }

    pub(in crate::jobs) async fn requeue(&self, deliveries: &[Delivery]) -> Result<(), JobError> {
        let mut by_model: HashMap<&str, Vec<&str>> = HashMap::new();
        for delivery in deliveries {
            by_model.entry(&delivery.model).or_default().push(&delivery.entry);
        }
        for (model, entries) in by_model {
            for chunk in entries.chunks(CHUNK_INPUTS) {
                let mut hand_back = call("hand_back", &queue_key(model));
                hand_back.arg(&*self.consumer).arg(chunk);
                self.connection.execute::<u64>(&hand_back).await?;
            }
        }
        Ok(())
    }

    pub(in crate::jobs) async fn claim_stale(&self, model: &str, limit: usize) -> Result<Vec<Delivery>, JobError> {
        let mut take_over = call("take_over", &queue_key(model));
        take_over.arg(&*self.consumer).arg(self.limits.claim_timeout.as_millis() as u64);
        take_over.arg(self.limits.max_deliveries).arg(limit);
        let claimed: Vec<String> = match self.connection.try_execute(&take_over, 0).await {
            // No worker has ever served this model, so there is nothing to claim.
            Err(error) if error.code() == Some("NOGROUP") => Vec::new(),
            claimed => claimed.map_err(|error| to_job_error(&error))?,
        };
        let parts = claimed.chunks_exact(3);
        let deliveries = parts.filter_map(|part| delivery(model, part[0].clone(), &part[1], &part[2])).collect();
        Ok(self.with_lengths(deliveries).await)
    }
}

fn delivery(model: &str, entry: String, job: &str, index: &str) -> Option<Delivery> {
    Some(Delivery { model: model.to_owned(), entry, job: job.parse().ok()?, index: index.parse().ok()?, bytes: 0 })
}
