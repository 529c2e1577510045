use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

/// What a job may cost, and how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// How long a job that has ended is kept, with its results.
    pub ttl: Duration,
    /// Inputs that may wait for one model.
    pub queue_length: usize,
    /// Answers of a job that are older are not given to whoever submits the same.
    pub repeat_within: Duration,
    /// After so long without a word from its worker an entry is given to another.
    pub claim_after: Duration,
    /// An input fails once so many workers have died after they had begun with it.
    pub max_deliveries: u32,
}

/// The name of a job: 128 random bits, since whoever knows it may read the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(u128);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Whose queue it goes to.
    pub model: String,
    /// How its inputs are to be read.
    pub asked: Asked,
    /// Each under its name, and with what is known of it already.
    pub inputs: Vec<Input>,
    /// Whoever submits the same again under this key gets the same job.
    pub once: Option<Once>,
    /// What tells whether another job is the same, where its answers may be given again.
    pub content: Option<Content>,
    /// Who is told when it has ended.
    pub webhook: Option<String>,
    /// How long it is kept when it has ended, where that is not as long as other jobs.
    pub ttl: Option<Duration>,
    /// What was sent with it and is no input.
    pub skipped: Skipped,
}

/// Files of a submission that are no inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// How many.
    pub count: u32,
    /// The names of the first [`Self::MAX_NAMES`].
    pub names: Vec<String>,
}

/// How all inputs of a job are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// A picture, or a request of the Open Inference Protocol.
    pub kind: Kind,
    /// The model's version; `None` for the default one at the time.
    pub version: Option<String>,
    /// The media type of each input; empty for the usual one of its kind.
    pub content_type: String,
    /// `Inference-Header-Content-Length` of each input, where it is not JSON alone.
    pub json_length: Option<u64>,
    /// How many classes a result lists: a number or `all`; `None` for the default.
    pub top_k: Option<String>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An encoded picture.
    Image,
    /// The body of a request for inference.
    V2,
}

/// One question of a job.
#[derive(Clone, Debug)]
pub struct Input {
    /// What the client calls it; may be empty.
    pub name: String,
    /// A picture, or a request.
    pub data: Bytes,
    /// What came of it before it had to wait.
    pub known: Option<Outcome>,
}

/// A client's idempotency key.
#[derive(Clone, Debug)]
pub struct Once {
    /// The key, as it was sent or hashed.
    pub key: String,
    /// What was submitted under it.
    pub digest: String,
}

/// What decides all answers of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of what is asked, and of which model: jobs with the same one have the same answers.
    pub digest: String,
    /// The model's own, which answers tell: where one was given by another model, the job is none that can be given again.
    pub model_digest: String,
}

/// What came of an input: a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The model's answer.
    Answer(String),
    /// Why there is none: an object with `status` and `detail`.
    Error(String),
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No input has begun.
    Queued,
    /// Some input has.
    Running,
    /// Every input has its answer.
    Succeeded,
    /// Every input has an answer or an error, and one at least an error.
    Failed,
    /// The client wanted no more.
    Cancelled,
}

/// A job at one moment. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Whose queue its inputs wait in.
    pub model: String,
    /// How far it is.
    pub status: Status,
    /// Inputs.
    pub total: u32,
    /// Inputs with an answer.
    pub done: u32,
    /// Inputs with an error.
    pub failed: u32,
    /// Inputs whose workers died over them, which are in the dead-letter stream.
    pub dead: u32,
    /// How often a worker began with an input.
    pub runs: u32,
    /// When it was accepted.
    pub created_ms: u64,
    /// When the first input began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// When it will be forgotten.
    pub expires_ms: Option<u64>,
    /// Who is told when it has ended.
    pub webhook: Option<Webhook>,
    /// What was sent with it and is no input.
    pub skipped: Skipped,
}

/// Who is told when a job has ended, and whether he knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where he listens.
    pub url: String,
    /// How often it was tried since the job ended.
    pub tries: u32,
    /// What became of it; `None` as long as it is not settled.
    pub told: Option<Told>,
    /// Why the last try failed.
    pub error: Option<String>,
}

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// He knows.
    Delivered,
    /// It was tried for long enough.
    Failed,
}

/// A webhook that this process alone is to try now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookClaim {
    /// The job that has ended.
    pub job: JobId,
    /// Tells this claim from a later one.
    pub(super) claim: u64,
}

/// What came of trying a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was taken.
    Delivered,
    /// It was not, and is tried again after so long.
    Again(Duration, String),
    /// It was not, and that was the last time.
    GivenUp(String),
}

/// What is known of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The job.
    Job(Box<Job>),
    /// There was one; its time is over.
    Gone,
    /// There was none, or its time has been over for a week.
    Unknown,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name; later ones of the same job are larger.
    pub id: String,
    /// What happened.
    pub what: What,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// This input has its outcome.
    Ended(u32),
    /// It is as far as that.
    Status(Status),
}

/// A model that a worker has said to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The model's name, as its worker has it.
    pub name: String,
    /// What the worker said of it, in JSON.
    pub said: String,
    /// How long ago it said so last.
    pub ago: Duration,
}

/// An input that was given to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whose queue it is from.
    pub model: String,
    /// Its name there.
    pub entry: String,
    /// Whose input it is.
    pub job: JobId,
    /// Which input.
    pub index: u32,
    /// Bytes of the input, where they are known before it is read; else 0.
    pub bytes: usize,
}

/// An input to be worked on.
#[derive(Clone, Debug)]
pub struct Work {
    /// How it is to be read.
    pub asked: Asked,
    /// A picture, or a request.
    pub data: Bytes,
    /// Its share of the bytes that workers may hold, for as long as it is worked on.
    pub(super) _held: Option<Arc<OwnedSemaphorePermit>>,
}

impl Skipped {
    /// How many names are kept.
    pub const MAX_NAMES: usize = 10;

    /// Characters of a name that are kept.
    const MAX_NAME: usize = 200;

    /// Counts one more file.
    pub fn add(&mut self, name: &str) {
        self.count = self.count.saturating_add(1);
        if self.names.len() < Self::MAX_NAMES {
            self.names.push(name.chars().take(Self::MAX_NAME).collect());
        }
    }
}

impl JobId {
    /// A new one.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel has random bytes");
        Self(u128::from_ne_bytes(bytes))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for JobId {
    type Err = NoJobId;

    fn from_str(text: &str) -> Result<Self, NoJobId> {
        let is_ours = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let id = is_ours.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.map(Self).ok_or(NoJobId)
    }
}

/// 32 hexadecimal digits are the name of a job; this is something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no id of a job")]
pub struct NoJobId;

impl Status {
    /// Whether nothing more will happen by itself.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As it is written.
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

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];
        all.into_iter().find(|status| status.as_str() == text).ok_or(())
    }
}

impl Told {
    /// As it is written in the job.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl Webhook {
    /// That of a job which has just been accepted.
    pub(super) fn new(url: String) -> Self {
        Self { url, tries: 0, told: None, error: None }
    }
}

impl Outcome {
    pub(super) fn json(&self) -> &str {
        let (Self::Answer(json) | Self::Error(json)) = self;
        json
    }

    /// With a sign before it, as it stands in Redis.
    pub(super) fn to_signed(&self) -> String {
        match self {
            Self::Answer(json) => format!("+{json}"),
            Self::Error(json) => format!("-{json}"),
        }
    }

    pub(super) fn from_signed(mut text: String) -> Option<Self> {
        match text.as_bytes().first()? {
            b'+' => Some(Self::Answer(text.split_off(1))),
            b'-' => Some(Self::Error(text.split_off(1))),
            _ => None,
        }
    }
}
