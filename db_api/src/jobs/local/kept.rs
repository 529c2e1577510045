//! A job in this process, and the memory that it takes.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::Instant;

use crate::jobs::{Asked, Content, Input, Job, NewJob, Outcome, Status, What};

/// Memory of all jobs together: inputs, names, results, events, and what keeps them.
pub const MAX_BYTES: usize = 256 << 20;

/// Up to here jobs are accepted; the rest is for their results, as in Redis.
pub(super) const MAX_ACCEPTED_BYTES: usize = MAX_BYTES / 5 * 4;

/// What a job takes beside its texts: itself, and its places in the maps.
pub(super) const JOB_BYTES: usize = 2 * size_of::<Kept>() + 512;

/// What an input takes beside its name, its data and its result: places in the queue and in the maps, which double as they grow.
pub(super) const INPUT_BYTES: usize = 256;

/// An event, in a list that doubles as it grows.
pub(super) const EVENT_BYTES: usize = 2 * size_of::<What>();

/// A job with its inputs and results.
pub(super) struct Kept {
    pub job: Job,
    pub asked: Asked,
    pub names: Vec<String>,
    pub inputs: HashMap<u32, Bytes>,
    pub results: HashMap<u32, Outcome>,
    pub events: Vec<What>,
    pub once: Option<String>,
    pub content: Option<Content>,
    /// How long it is kept when it has ended.
    pub ttl: Duration,
    pub expires: Option<Instant>,
    /// When its webhook is tried, and by which claim it was tried last.
    pub webhook_due: Option<(Instant, u64)>,
    /// Its part of the memory of all jobs.
    pub bytes: usize,
}

impl Kept {
    /// Bytes that it takes more.
    pub fn end(&mut self, status: Status) -> isize {
        let now = now_ms();
        self.job.status = status;
        self.job.finished_ms = Some(now);
        self.job.expires_ms = Some(now + self.ttl.as_millis() as u64);
        self.expires = Some(Instant::now() + self.ttl);
        self.webhook_due = self.job.webhook.is_some().then(|| (Instant::now(), 0));
        self.note(What::Status(status))
    }

    /// Bytes that it takes more.
    pub fn note(&mut self, event: What) -> isize {
        self.events.push(event);
        EVENT_BYTES.cast_signed()
    }

    /// Counts `more` bytes, or less where they are negative, for it and among those of `all` jobs.
    pub fn count(&mut self, all: &mut usize, more: isize) {
        self.bytes = self.bytes.saturating_add_signed(more);
        *all = all.saturating_add_signed(more);
    }
}

/// What a job takes without its inputs. Most of its texts are kept a second time as keys.
pub(super) fn job_bytes(new: &NewJob) -> usize {
    let Asked { version, content_type, top_k, .. } = &new.asked;
    let texts = [Some(&new.model), version.as_ref(), Some(content_type), top_k.as_ref(), new.webhook.as_ref()];
    let once = new.once.iter().flat_map(|once| [&once.key, &once.digest]);
    let content = new.content.iter().flat_map(|content| [&content.digest, &content.model_digest]);
    let texts = texts.into_iter().flatten().chain(once).chain(content).chain(&new.skipped.names);
    JOB_BYTES + 2 * texts.map(String::len).sum::<usize>() + EVENT_BYTES
}

/// What an input takes without its result.
pub(super) fn input_bytes(input: &Input) -> usize {
    INPUT_BYTES + input.name.len() + input.data.len()
}

pub(super) fn outcome_bytes(outcome: &Outcome) -> usize {
    let (Outcome::Answer(json) | Outcome::Error(json)) = outcome;
    json.len()
}

/// In the place of a result that there is no memory for.
pub(super) fn too_large(outcome: &Outcome) -> Outcome {
    let detail = format!(
        "the result has {} bytes, for which the queue in this process ({MAX_BYTES} bytes for all jobs) has no room; collect fewer results at a time, or use Redis",
        outcome_bytes(outcome)
    );
    Outcome::Error(serde_json::json!({ "status": 507, "detail": detail }).to_string())
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_millis() as u64)
}
