//! A job in this process, and its memory accounting.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use crate::jobs::types::{DedupKey, EventKind, Input, InputSpec, Job, JobStatus, NewJob, Outcome};

/// Limit of the memory of all jobs: inputs, names, results, events, and their overhead.
pub const MAX_BYTES: usize = 256 << 20;

/// Jobs are accepted up to this limit. The rest of [`MAX_BYTES`] is for their results, as in Redis.
pub(super) const MAX_ACCEPTED_BYTES: usize = MAX_BYTES / 5 * 4;

/// Bytes of a job beside its texts: the struct, and its slots in the maps.
pub(super) const JOB_BYTES: usize = 2 * size_of::<JobState>() + 512;

/// Bytes of an input beside its name, data and result: slots in the queue and in the maps, which double as they grow.
pub(super) const INPUT_BYTES: usize = 256;

/// Bytes of an event, in a list that doubles as it grows.
pub(super) const EVENT_BYTES: usize = 2 * size_of::<EventKind>();

/// A job with its inputs and results.
pub(super) struct JobState {
    pub job: Job,
    pub spec: InputSpec,
    pub names: Vec<String>,
    pub inputs: HashMap<u32, Bytes>,
    pub results: HashMap<u32, Outcome>,
    pub events: Vec<EventKind>,
    pub idempotency_key: Option<String>,
    pub dedup_key: Option<DedupKey>,
    /// How long the finished job is kept.
    pub ttl: Duration,
    pub expires: Option<Instant>,
    /// When the next webhook attempt is due, and the number of the last claim.
    pub webhook_due: Option<(Instant, u64)>,
    /// This job's part of the memory of all jobs.
    pub bytes: usize,
}

impl JobState {
    /// Ends the job. Returns the bytes that it uses in addition.
    pub fn end(&mut self, status: JobStatus) -> isize {
        let now = now_ms();
        self.job.status = status;
        self.job.finished_ms = Some(now);
        self.job.expires_ms = Some(now + self.ttl.as_millis() as u64);
        self.expires = Some(Instant::now() + self.ttl);
        self.webhook_due = self.job.webhook.is_some().then(|| (Instant::now(), 0));
        self.add_event(EventKind::StatusChanged(status))
    }

    /// Appends an event. Returns the bytes that the job uses in addition.
    pub fn add_event(&mut self, event: EventKind) -> isize {
        self.events.push(event);
        EVENT_BYTES.cast_signed()
    }

    /// Adds `bytes`, which may be negative, to the counts of this job and of all jobs (`total`).
    pub fn charge(&mut self, total: &mut usize, bytes: isize) {
        self.bytes = self.bytes.saturating_add_signed(bytes);
        *total = total.saturating_add_signed(bytes);
    }
}

/// Bytes of a job without its inputs. Texts count twice, since most are also keys of a map.
pub(super) fn job_bytes(new: &NewJob) -> usize {
    let InputSpec { version, content_type, top_k, .. } = &new.spec;
    let texts = [Some(&new.model), version.as_ref(), Some(content_type), top_k.as_ref(), new.webhook.as_ref()];
    let idempotency = new.idempotency_key.iter().flat_map(|key| [&key.key, &key.digest]);
    let dedup = new.dedup_key.iter().flat_map(|key| [&key.digest, &key.model_digest]);
    let texts = texts.into_iter().flatten().chain(idempotency).chain(dedup).chain(&new.skipped.names);
    JOB_BYTES + 2 * texts.map(String::len).sum::<usize>() + EVENT_BYTES
}

/// Bytes of an input without its result.
pub(super) fn input_bytes(input: &Input) -> usize {
    INPUT_BYTES + input.name.len() + input.data.len()
}

pub(super) fn outcome_bytes(outcome: &Outcome) -> usize {
    outcome.json().len()
}

/// The error that replaces a result for which there is no memory.
pub(super) fn too_large(outcome: &Outcome) -> Outcome {
    let detail = format!(
        "The result has {} bytes, and the in-memory queue has no room for it: all jobs together may use {MAX_BYTES} bytes. Delete finished jobs or use Redis.",
        outcome_bytes(outcome)
    );
    Outcome::Error(serde_json::json!({ "status": 507, "detail": detail }).to_string())
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
