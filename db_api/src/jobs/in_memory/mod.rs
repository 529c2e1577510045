//! Job queue in this process, for a service without Redis.
//!
//! Its workers live in the same process, so no claim ever expires: there is no heartbeat, and nothing to take over.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::job::{JobState, MAX_ACCEPTED_BYTES, input_bytes, job_bytes, now_ms, outcome_bytes};
use self::state::SharedState;
use super::caller::QueueHealth;
use super::error::JobError;
use super::id::JobId;
use super::types::{DedupKey, EventKind, Job, JobLimits, JobStatus, NewJob, Outcome};
use super::webhook::Webhook;

mod job;
mod query;
mod state;
mod upload;
mod webhooks;
mod work;

pub use job::MAX_BYTES;
pub use upload::InMemoryUpload;

/// Job queue in this process. Clones share the queue.
#[derive(Clone)]
pub struct InMemoryJobs {
    state: SharedState,
    /// Signals that inputs were queued.
    arrivals: Arc<Notify>,
    limits: JobLimits,
}

impl InMemoryJobs {
    /// An empty queue.
    pub fn new(limits: JobLimits) -> Self {
        Self { state: SharedState::default(), arrivals: Arc::default(), limits }
    }

    pub(in crate::jobs) fn upload(&self) -> InMemoryUpload {
        InMemoryUpload::new(self.state.clone())
    }

    pub(in crate::jobs) fn submit(&self, mut upload: InMemoryUpload, new: NewJob) -> Result<JobId, JobError> {
        let (inputs, bytes) = (std::mem::take(&mut upload.inputs), std::mem::take(&mut upload.bytes));
        let mut state = self.state.lock();
        // The inputs are counted again below, as part of the accepted job.
        state.bytes -= bytes;
        let bytes = job_bytes(&new) + inputs.iter().map(input_bytes).sum::<usize>();
        if state.bytes + bytes > MAX_ACCEPTED_BYTES {
            return Err(JobError::OutOfMemory);
        }
        if let Some(key) = &new.idempotency_key
            && let Some((digest, id)) = state.idempotency_keys.get(&key.key)
        {
            return if *digest == key.digest { Ok(*id) } else { Err(JobError::Conflict) };
        }
        let waiting = inputs.iter().filter(|input| input.outcome.is_none()).count();
        let length = state.queue_length(&new.model);
        if waiting > 0 && length + waiting > self.limits.max_queue_length {
            return Err(JobError::QueueFull(length as u64));
        }
        let id = JobId::random();
        if let Some(key) = &new.idempotency_key {
            state.idempotency_keys.insert(key.key.clone(), (key.digest.clone(), id));
        }
        let model = new.model.clone();
        let mut job = self.new_job(id, new, inputs.len() as u32, bytes);
        state.bytes += bytes;
        let mut finished = Vec::new();
        for (index, input) in (0..).zip(inputs) {
            job.names.push(input.name);
            if let Some(outcome) = input.outcome {
                finished.push((index, outcome));
            } else {
                job.inputs.insert(index, input.data);
                state.queues.entry(model.clone()).or_default().push_back((id, index));
            }
        }
        if let Some(key) = &job.dedup_key {
            state.dedup_index.entry(model).or_default().insert(key.digest.clone(), id);
        }
        state.jobs.insert(id, job);
        for (index, outcome) in finished {
            state.record_outcome(id, index, &outcome);
        }
        self.arrivals.notify_waiters();
        Ok(id)
    }

    /// A queued job without its inputs.
    fn new_job(&self, id: JobId, new: NewJob, total: u32, bytes: usize) -> JobState {
        let job = Job {
            id,
            model: new.model,
            status: JobStatus::Queued,
            total,
            done: 0,
            failed: 0,
            dead: 0,
            runs: 0,
            created_ms: now_ms(),
            started_ms: None,
            finished_ms: None,
            expires_ms: None,
            webhook: new.webhook.map(Webhook::new),
            skipped: new.skipped,
        };
        JobState {
            job,
            spec: new.spec,
            names: Vec::new(),
            inputs: HashMap::new(),
            results: HashMap::new(),
            events: vec![EventKind::StatusChanged(JobStatus::Queued)],
            idempotency_key: new.idempotency_key.map(|key| key.key),
            dedup_key: new.dedup_key,
            ttl: new.ttl.unwrap_or(self.limits.ttl),
            expires: None,
            webhook_due: None,
            bytes,
        }
    }

    pub(in crate::jobs) fn submit_duplicate(&self, model: &str, key: &DedupKey) -> Option<JobId> {
        let mut state = self.state.lock();
        let first = state.jobs.get(state.dedup_index.get(model)?.get(&key.digest)?)?;
        let now = now_ms();
        let age = now.saturating_sub(first.job.finished_ms?);
        let bytes = first.bytes;
        if first.job.status != JobStatus::Succeeded
            || u128::from(age) > self.limits.dedup_window.as_millis()
            || state.bytes + bytes > MAX_ACCEPTED_BYTES
        {
            return None;
        }
        let id = JobId::random();
        let ttl = self.limits.ttl;
        let duplicate = JobState {
            job: Job {
                id,
                runs: 0,
                created_ms: now,
                started_ms: None,
                finished_ms: Some(now),
                expires_ms: Some(now + ttl.as_millis() as u64),
                webhook: None,
                ..first.job.clone()
            },
            spec: first.spec.clone(),
            names: first.names.clone(),
            inputs: HashMap::new(),
            results: first.results.clone(),
            events: first.events.clone(),
            idempotency_key: None,
            dedup_key: None,
            ttl,
            expires: Some(Instant::now() + ttl),
            webhook_due: None,
            bytes,
        };
        state.bytes += bytes;
        state.jobs.insert(id, duplicate);
        Some(id)
    }

    pub(in crate::jobs) fn clear_dedup(&self, model: &str) {
        self.state.lock().dedup_index.remove(model);
    }

    pub(in crate::jobs) fn cancel(&self, id: JobId) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(job) = state.jobs.get_mut(&id).filter(|job| !job.job.status.has_ended()) else { return false };
        let added = job.end(JobStatus::Cancelled);
        let (model, inputs) = (job.job.model.clone(), std::mem::take(&mut job.inputs));
        let freed: usize = inputs.values().map(Bytes::len).sum();
        job.charge(&mut state.bytes, added - freed.cast_signed());
        if let Some(queue) = state.queues.get_mut(&model) {
            queue.retain(|(job, _)| *job != id);
        }
        true
    }

    pub(in crate::jobs) fn retry(&self, id: JobId) -> Option<u32> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let job = state.jobs.get_mut(&id).filter(|job| job.job.status == JobStatus::Failed)?;
        let failed = |(index, outcome): (&u32, &Outcome)| {
            (matches!(outcome, Outcome::Error(_)) && job.inputs.contains_key(index)).then_some(*index)
        };
        let mut retried: Vec<u32> = job.results.iter().filter_map(failed).collect();
        if retried.is_empty() {
            return None;
        }
        retried.sort_unstable();
        let failed = retried.iter().filter_map(|index| job.results.remove(index));
        let freed: usize = failed.map(|outcome| outcome_bytes(&outcome)).sum();
        job.job.failed -= retried.len() as u32;
        job.job.status = JobStatus::Queued;
        (job.job.finished_ms, job.job.expires_ms, job.expires) = (None, None, None);
        job.webhook_due = None;
        job.job.webhook = job.job.webhook.take().map(|webhook| Webhook::new(webhook.url));
        let added = job.add_event(EventKind::StatusChanged(JobStatus::Queued));
        job.charge(&mut state.bytes, added - freed.cast_signed());
        let model = job.job.model.clone();
        state.queues.entry(model).or_default().extend(retried.iter().map(|index| (id, *index)));
        self.arrivals.notify_waiters();
        Some(retried.len() as u32)
    }

    pub(in crate::jobs) fn delete(&self, id: JobId) -> bool {
        let mut state = self.state.lock();
        let has_ended = state.jobs.get(&id).is_some_and(|job| job.job.status.has_ended());
        if has_ended {
            state.remove(id);
        }
        has_ended
    }

    pub(in crate::jobs) fn sweep(&self) {
        let mut state = self.state.lock();
        let is_expired = |job: &JobState| job.expires.is_some_and(|expires| expires <= Instant::now());
        let ids: Vec<JobId> = state.jobs.iter().filter(|(_, job)| is_expired(job)).map(|(id, _)| *id).collect();
        for id in ids {
            state.remove(id);
        }
    }

    pub(in crate::jobs) fn health(&self) -> QueueHealth {
        let state = self.state.lock();
        let waiting = state.waiting() as u64;
        QueueHealth { waiting, bytes: state.bytes as u64, bytes_limit: MAX_ACCEPTED_BYTES as u64 }
    }
}

#[cfg(test)]
mod tests;
