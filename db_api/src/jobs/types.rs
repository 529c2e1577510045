use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::id::JobId;
use super::webhook::Webhook;

/// Limits of the queue, and lifetimes of jobs.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// How long a finished job and its results are kept.
    pub ttl: Duration,
    /// Inputs that may wait for one model.
    pub max_queue_length: usize,
    /// Results of a job that finished longer ago are not reused for an identical submission.
    pub dedup_window: Duration,
    /// An entry without a heartbeat for this long is given to another worker.
    pub claim_timeout: Duration,
    /// An input fails once this many workers have died while they processed it.
    pub max_deliveries: u32,
}

/// A submission.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The model, whose queue the inputs go to.
    pub model: String,
    /// How workers read the inputs.
    pub spec: InputSpec,
    /// The inputs, in their order.
    pub inputs: Vec<Input>,
    /// A repeated submission with the same key returns the same job.
    pub idempotency_key: Option<IdempotencyKey>,
    /// Identifies jobs with the same results; `None` where results may not be reused.
    pub dedup_key: Option<DedupKey>,
    /// URL to notify when the job is finished.
    pub webhook: Option<String>,
    /// How long the finished job is kept; `None` for [`JobLimits::ttl`].
    pub ttl: Option<Duration>,
    /// Files of the submission that are not inputs.
    pub skipped: SkippedFiles,
}

/// Files of a submission that are not inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFiles {
    /// How many there are.
    pub count: u32,
    /// The names of the first [`Self::MAX_NAMES`].
    pub names: Vec<String>,
}

/// How workers read the inputs of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputSpec {
    /// The kind of all inputs.
    pub kind: InputKind,
    /// The model version; `None` for the default version at the time of execution.
    pub version: Option<String>,
    /// Media type of each input; empty for the default of its kind.
    pub content_type: String,
    /// `Inference-Header-Content-Length` of each input, where the input is more than JSON.
    pub json_length: Option<u64>,
    /// How many classes a result lists: a number or `all`; `None` for the default.
    pub top_k: Option<String>,
}

/// The kind of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// An encoded image.
    Image,
    /// The body of an inference request of the Open Inference Protocol.
    V2,
}

/// One input of a job.
#[derive(Clone, Debug)]
pub struct Input {
    /// The client's name for it; may be empty.
    pub name: String,
    /// The image, or the request body.
    pub data: Bytes,
    /// The outcome, where it is available before the input is queued: a cached result, or a validation error.
    pub outcome: Option<Outcome>,
}

/// A client's idempotency key.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The key, as the client sent it or hashed.
    pub key: String,
    /// Digest of the submission.
    pub digest: String,
}

/// Deduplication key: determines all results of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupKey {
    /// Digest of the inputs and of the model version. Jobs with equal digests have equal results.
    pub digest: String,
    /// The model's digest, which each result contains. A job with a result of another model version is not reused.
    pub model_digest: String,
}

/// The outcome of an input, as a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model's result.
    Success(String),
    /// The error: an object with `status` and `detail`.
    Error(String),
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// No input was started.
    Queued,
    /// At least one input was started.
    Running,
    /// Every input succeeded.
    Succeeded,
    /// Every input is finished, and at least one failed.
    Failed,
    /// The client cancelled the job.
    Cancelled,
}

/// Snapshot of a job. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The model of its inputs.
    pub model: String,
    /// Its state.
    pub status: JobStatus,
    /// Number of inputs.
    pub total: u32,
    /// Inputs that succeeded.
    pub done: u32,
    /// Inputs that failed.
    pub failed: u32,
    /// Inputs in the dead-letter stream: too many workers died while they processed them.
    pub dead: u32,
    /// How often a worker started an input.
    pub runs: u32,
    /// When the job was submitted.
    pub created_ms: u64,
    /// When the first input was started.
    pub started_ms: Option<u64>,
    /// When the job finished.
    pub finished_ms: Option<u64>,
    /// When the job will be deleted.
    pub expires_ms: Option<u64>,
    /// The webhook to notify when the job is finished.
    pub webhook: Option<Webhook>,
    /// Files of the submission that are not inputs.
    pub skipped: SkippedFiles,
}

/// Result of looking a job up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobLookup {
    /// The job exists.
    Found(Box<Job>),
    /// The job was deleted or has expired, at most a week ago.
    Gone,
    /// No such job, or it has been gone for more than a week.
    Unknown,
}

/// Event of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, which grows with each event of the job.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The input with this index has an outcome.
    InputFinished(u32),
    /// The job has a new status.
    StatusChanged(JobStatus),
}

/// A model that an external worker announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAnnouncement {
    /// The model's name.
    pub name: String,
    /// The worker's description of the model, as JSON.
    pub metadata: String,
    /// Time since the last announcement.
    pub age: Duration,
}

/// An input that the queue delivered to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The model whose queue it is from.
    pub model: String,
    /// Id of the queue entry.
    pub entry: String,
    /// Its job.
    pub job: JobId,
    /// Index of the input in its job.
    pub index: u32,
    /// Bytes of the input, where the queue knows them before it reads the input; else 0.
    pub bytes: usize,
}

/// An input to process.
#[derive(Clone, Debug)]
pub struct Work {
    /// How to read it.
    pub spec: InputSpec,
    /// The image, or the request body.
    pub data: Bytes,
    /// Reservation among the bytes that workers may hold, until the input is processed.
    pub(super) _reservation: Option<Arc<OwnedSemaphorePermit>>,
}

impl SkippedFiles {
    /// How many names are kept.
    pub const MAX_NAMES: usize = 10;

    /// Characters that are kept of a name.
    const MAX_NAME_CHARS: usize = 200;

    /// Adds a file.
    pub fn add(&mut self, name: &str) {
        self.count = self.count.saturating_add(1);
        if self.names.len() < Self::MAX_NAMES {
            self.names.push(name.chars().take(Self::MAX_NAME_CHARS).collect());
        }
    }
}

impl JobStatus {
    /// Whether the job is finished: succeeded, failed or cancelled.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As Redis and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for JobStatus {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];
        all.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

impl Outcome {
    pub(super) fn json(&self) -> &str {
        let (Self::Success(json) | Self::Error(json)) = self;
        json
    }

    /// As Redis stores it: `+` or `-`, then the document.
    pub(super) fn to_signed(&self) -> String {
        match self {
            Self::Success(json) => format!("+{json}"),
            Self::Error(json) => format!("-{json}"),
        }
    }

    pub(super) fn from_signed(mut text: String) -> Option<Self> {
        match text.as_bytes().first()? {
            b'+' => Some(Self::Success(text.split_off(1))),
            b'-' => Some(Self::Error(text.split_off(1))),
            _ => None,
        }
    }
}
