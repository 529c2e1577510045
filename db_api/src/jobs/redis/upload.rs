//! Upload of a job's inputs to Redis, in chunks.

use std::collections::HashSet;
use std::sync::Arc;

use redis::Cmd;
use serde_json::json;

use super::command::{CHUNK_BYTES, CHUNK_INPUTS, MAX_VALUE_BYTES, call};
use super::connection::JobConnection;
use crate::jobs::caller::Caller;
use crate::jobs::error::JobError;
use crate::jobs::id::JobId;
use crate::jobs::keys::job_key;
use crate::jobs::types::{Input, InputSpec, JobLimits, NewJob};

/// Longest name of an input, in bytes; a longer name is truncated.
pub const MAX_NAME_BYTES: usize = 4096;

/// Inputs of a job that is not submitted yet. They are sent in chunks, so that the step that accepts the job is short.
pub struct RedisUpload {
    connection: Arc<JobConnection>,
    id: JobId,
    caller: Caller,
    count: usize,
    inputs: Chunk,
    outcomes: Chunk,
    names: Names,
    /// Model digests in the outcomes; empty for an error.
    digests: HashSet<String>,
    /// Whether Redis has any part of the upload.
    is_started: bool,
}

/// Inputs or outcomes that are sent together.
struct Chunk {
    function: &'static str,
    command: Cmd,
    bytes: usize,
    count: usize,
}

/// Names that are sent together.
#[derive(Default)]
struct Names {
    /// How many names Redis has.
    sent: usize,
    pending: Vec<String>,
    bytes: usize,
}

impl RedisUpload {
    pub(super) fn new(connection: Arc<JobConnection>, caller: Caller) -> Self {
        let id = JobId::random();
        let (inputs, outcomes) = (Chunk::new("upload", id, &caller), Chunk::new("upload_known", id, &caller));
        let (names, digests) = (Names::default(), HashSet::new());
        Self { connection, id, caller, count: 0, inputs, outcomes, names, digests, is_started: false }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }

    pub(super) fn is_started(&self) -> bool {
        self.is_started
    }

    pub(in crate::jobs) async fn push(&mut self, mut input: Input) -> Result<(), JobError> {
        let index = self.count;
        let end = input.name.floor_char_boundary(MAX_NAME_BYTES);
        input.name.truncate(end);
        if self.names.pending.len() == CHUNK_INPUTS || self.names.bytes + input.name.len() > CHUNK_BYTES {
            self.send_names().await?;
        }
        if let Some(outcome) = input.outcome.filter(|outcome| outcome.json().len() < MAX_VALUE_BYTES) {
            let outcome = outcome.to_signed();
            self.digests.insert(model_digest(&outcome).to_owned());
            self.add(index, outcome.as_bytes(), true).await?;
        } else if input.data.len() > MAX_VALUE_BYTES {
            return Err(JobError::InputTooLarge { bytes: input.data.len(), limit: MAX_VALUE_BYTES });
        } else {
            self.add(index, &input.data, false).await?;
        }
        self.names.bytes += input.name.len();
        self.names.pending.push(input.name);
        self.count += 1;
        Ok(())
    }

    async fn add(&mut self, index: usize, value: &[u8], is_outcome: bool) -> Result<(), JobError> {
        let chunk = if is_outcome { &mut self.outcomes } else { &mut self.inputs };
        if chunk.count == CHUNK_INPUTS || chunk.bytes + value.len() > CHUNK_BYTES {
            self.is_started = true;
            chunk.send(&self.connection, self.id, &self.caller).await?;
        }
        chunk.command.arg(index).arg(value);
        chunk.bytes += value.len();
        chunk.count += 1;
        Ok(())
    }

    async fn send_names(&mut self) -> Result<(), JobError> {
        self.is_started = true;
        let names = std::mem::take(&mut self.names);
        let mut command = call("upload_names", &job_key("inputs", self.id));
        command.arg(self.caller.as_str()).arg(names.sent).arg(&names.pending);
        self.names.sent = names.sent + names.pending.len();
        self.connection.execute_large::<i64>(&command, names.bytes).await.map(drop)
    }

    /// Sends the last chunks, and returns the command that submits the job.
    pub(super) async fn finish(&mut self, job: &NewJob, limits: &JobLimits) -> Result<Cmd, JobError> {
        self.is_started = true;
        self.inputs.send(&self.connection, self.id, &self.caller).await?;
        self.outcomes.send(&self.connection, self.id, &self.caller).await?;
        // Outcomes of another model version make the job unsuitable for reuse.
        let dedup_key =
            job.dedup_key.as_ref().filter(|key| self.digests.iter().all(|digest| *digest == key.model_digest));
        let InputSpec { kind, version, content_type, json_length, top_k } = &job.spec;
        let mut fields = json!({ "kind": kind });
        let optional = [
            ("version", version.clone()),
            ("content_type", Some(content_type.clone()).filter(|text| !text.is_empty())),
            ("json_length", json_length.map(|length| length.to_string())),
            ("top_k", top_k.clone()),
            ("webhook", job.webhook.clone()),
            ("content", dedup_key.map(|key| key.digest.clone())),
            ("digest", dedup_key.map(|key| key.model_digest.clone())),
            ("skipped", (job.skipped.count > 0).then(|| json!(job.skipped).to_string())),
        ];
        for (field, value) in optional {
            if let Some(value) = value {
                fields[field] = value.into();
            }
        }
        let key = job.idempotency_key.as_ref();
        let mut submit = call("submit", &job_key("job", self.id));
        submit.arg(&job.model).arg(self.count).arg(job.ttl.unwrap_or(limits.ttl).as_millis() as u64);
        submit.arg(limits.max_queue_length);
        submit.arg(key.map_or("", |key| &key.key)).arg(key.map_or("", |key| &key.digest));
        submit.arg(json!(self.names.pending).to_string()).arg(fields.to_string());
        Ok(submit)
    }
}

impl Chunk {
    fn new(function: &'static str, id: JobId, caller: &Caller) -> Self {
        let mut command = call(function, &job_key("inputs", id));
        command.arg(caller.as_str());
        Self { function, command, bytes: 0, count: 0 }
    }

    async fn send(&mut self, connection: &JobConnection, id: JobId, caller: &Caller) -> Result<(), JobError> {
        if self.count == 0 {
            return Ok(());
        }
        let chunk = std::mem::replace(self, Self::new(self.function, id, caller));
        connection.execute_large::<i64>(&chunk.command, chunk.bytes).await.map(drop)
    }
}

/// The model digest in an outcome; empty where it has none.
fn model_digest(outcome: &str) -> &str {
    const FIELD: &str = "\"model_digest\":\"";
    let digest = outcome.split_once(FIELD).and_then(|(_, rest)| rest.split_once('"'));
    digest.map_or("", |(digest, _)| digest)
}
