use std::collections::HashSet;
use std::sync::Arc;

use redis::Cmd;
use serde_json::json;

use super::{MAX_VALUE_BYTES, PIECE_BYTES, PIECE_INPUTS, call};
use crate::jobs::link::Link;
use crate::jobs::{Asked, Caller, Input, JobError, JobId, JobLimits, NewJob};
use crate::keys::job_key;

/// Longer names are cut.
pub const MAX_NAME_BYTES: usize = 4096;

/// Inputs of a job that is not submitted yet. They go to Redis in pieces: a job is accepted in one step, and that step is short.
pub struct RedisUpload {
    link: Arc<Link>,
    id: JobId,
    caller: Caller,
    count: usize,
    inputs: Piece,
    known: Piece,
    names: Names,
    /// The models that gave the known outcomes, by their digests; empty for an error.
    digests: HashSet<String>,
    /// Whether Redis has any of it.
    is_begun: bool,
}

/// Inputs, or outcomes, that go to Redis together.
struct Piece {
    function: &'static str,
    command: Cmd,
    bytes: usize,
    count: usize,
}

/// Names that go to Redis together.
#[derive(Default)]
struct Names {
    /// Those that Redis has.
    sent: usize,
    held: Vec<String>,
    bytes: usize,
}

impl RedisUpload {
    pub(super) fn new(link: Arc<Link>, caller: Caller) -> Self {
        let id = JobId::random();
        let (inputs, known) = (Piece::new("upload", id, &caller), Piece::new("upload_known", id, &caller));
        let (names, digests) = (Names::default(), HashSet::new());
        Self { link, id, caller, count: 0, inputs, known, names, digests, is_begun: false }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn is_begun(&self) -> bool {
        self.is_begun
    }

    pub(in crate::jobs) async fn push(&mut self, mut input: Input) -> Result<(), JobError> {
        let index = self.count;
        let end = input.name.floor_char_boundary(MAX_NAME_BYTES);
        input.name.truncate(end);
        if self.names.held.len() == PIECE_INPUTS || self.names.bytes + input.name.len() > PIECE_BYTES {
            self.send_names().await?;
        }
        if let Some(outcome) = input.known.filter(|outcome| outcome.json().len() < MAX_VALUE_BYTES) {
            let outcome = outcome.to_signed();
            self.digests.insert(model_digest(&outcome).to_owned());
            self.add(index, outcome.as_bytes(), true).await?;
        } else if input.data.len() > MAX_VALUE_BYTES {
            return Err(JobError::LargeInput { bytes: input.data.len(), most: MAX_VALUE_BYTES });
        } else {
            self.add(index, &input.data, false).await?;
        }
        self.names.bytes += input.name.len();
        self.names.held.push(input.name);
        self.count += 1;
        Ok(())
    }

    async fn add(&mut self, index: usize, value: &[u8], is_known: bool) -> Result<(), JobError> {
        let piece = if is_known { &mut self.known } else { &mut self.inputs };
        if piece.count == PIECE_INPUTS || piece.bytes + value.len() > PIECE_BYTES {
            self.is_begun = true;
            piece.send(&self.link, self.id, &self.caller).await?;
        }
        piece.command.arg(index).arg(value);
        piece.bytes += value.len();
        piece.count += 1;
        Ok(())
    }

    async fn send_names(&mut self) -> Result<(), JobError> {
        self.is_begun = true;
        let names = std::mem::take(&mut self.names);
        let mut command = call("upload_names", &job_key("inputs", self.id));
        command.arg(self.caller.as_str()).arg(names.sent).arg(&names.held);
        self.names.sent = names.sent + names.held.len();
        self.link.ask_for::<i64>(&command, names.bytes).await.map(drop)
    }

    /// Sends what has been collected, and gives the command that submits it.
    pub(super) async fn finish(&mut self, job: &NewJob, limits: &JobLimits) -> Result<Cmd, JobError> {
        self.is_begun = true;
        self.inputs.send(&self.link, self.id, &self.caller).await?;
        self.known.send(&self.link, self.id, &self.caller).await?;
        // Outcomes of other models are not those of the content.
        let content =
            job.content.as_ref().filter(|content| self.digests.iter().all(|one| *one == content.model_digest));
        let Asked { kind, version, content_type, json_length, top_k } = &job.asked;
        let mut fields = json!({ "kind": kind });
        let optional = [
            ("version", version.clone()),
            ("content_type", Some(content_type.clone()).filter(|text| !text.is_empty())),
            ("json_length", json_length.map(|length| length.to_string())),
            ("top_k", top_k.clone()),
            ("webhook", job.webhook.clone()),
            ("content", content.map(|content| content.digest.clone())),
            ("digest", content.map(|content| content.model_digest.clone())),
            ("skipped", (job.skipped.count > 0).then(|| json!(job.skipped).to_string())),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                fields[field] = value.into();
            }
        }
        let once = job.once.as_ref();
        let mut submit = call("submit", &job_key("job", self.id));
        submit.arg(&job.model).arg(self.count).arg(job.ttl.unwrap_or(limits.ttl).as_millis() as u64);
        submit.arg(limits.queue_length);
        submit.arg(once.map_or("", |once| &once.key)).arg(once.map_or("", |once| &once.digest));
        submit.arg(json!(self.names.held).to_string()).arg(fields.to_string());
        Ok(submit)
    }
}

impl Piece {
    fn new(function: &'static str, id: JobId, caller: &Caller) -> Self {
        let mut command = call(function, &job_key("inputs", id));
        command.arg(caller.as_str());
        Self { function, command, bytes: 0, count: 0 }
    }

    async fn send(&mut self, link: &Link, id: JobId, caller: &Caller) -> Result<(), JobError> {
        if self.count == 0 {
            return Ok(());
        }
        let piece = std::mem::replace(self, Self::new(self.function, id, caller));
        link.ask_for::<i64>(&piece.command, piece.bytes).await.map(drop)
    }
}

/// Of the model that gave this outcome.
fn model_digest(outcome: &str) -> &str {
    const FIELD: &str = "\"model_digest\":\"";
    let digest = outcome.split_once(FIELD).and_then(|(_, rest)| rest.split_once('"'));
    digest.map_or("", |(digest, _)| digest)
}
