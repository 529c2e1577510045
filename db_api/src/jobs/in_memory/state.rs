//! State of the in-memory queue, behind one lock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::{JobState, MAX_BYTES, outcome_bytes, too_large};
use crate::jobs::id::JobId;
use crate::jobs::types::{DedupKey, EventKind, JobStatus, Outcome};

/// How many ids of deleted jobs are kept, to distinguish them from unknown ids.
const MAX_TOMBSTONES: usize = 10_000;

/// The state and its lock. Clones share the state.
#[derive(Clone, Default)]
pub(super) struct SharedState(Arc<Mutex<State>>);

#[derive(Default)]
pub(super) struct State {
    pub jobs: HashMap<JobId, JobState>,
    /// Waiting inputs, by model.
    pub queues: HashMap<String, VecDeque<(JobId, u32)>>,
    /// Digest of the submission and job, by idempotency key.
    pub idempotency_keys: HashMap<String, (String, JobId)>,
    /// Jobs by the digest of their deduplication key, for each model.
    pub dedup_index: HashMap<String, HashMap<String, JobId>>,
    pub tombstones: VecDeque<JobId>,
    /// Bytes of all jobs and uploads, at most [`MAX_BYTES`].
    pub bytes: usize,
    /// Number of webhook claims so far.
    pub claims: u64,
}

impl SharedState {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub fn queue_length(&self, model: &str) -> usize {
        self.queues.get(model).map_or(0, VecDeque::len)
    }

    /// Inputs in all queues.
    pub fn waiting(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Records the outcome of an input and returns whether it counted: only the first outcome does.
    pub fn record_outcome(&mut self, id: JobId, index: u32, outcome: &Outcome) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        if job.job.status.has_ended() || job.results.contains_key(&index) {
            return false;
        }
        let too_large = (self.bytes + outcome_bytes(outcome) > MAX_BYTES).then(|| too_large(outcome));
        let outcome = too_large.as_ref().unwrap_or(outcome);
        let mut bytes = outcome_bytes(outcome).cast_signed();
        if matches!(outcome, Outcome::Success(_)) {
            job.job.done += 1;
            bytes -= job.inputs.remove(&index).map_or(0, |input| input.len()).cast_signed();
        } else {
            job.job.failed += 1;
        }
        job.results.insert(index, outcome.clone());
        bytes += job.add_event(EventKind::InputFinished(index));
        if job.job.done + job.job.failed == job.job.total {
            let status = if job.job.failed == 0 { JobStatus::Succeeded } else { JobStatus::Failed };
            bytes += job.end(status);
        }
        job.charge(&mut self.bytes, bytes);
        let is_of = |key: &DedupKey| outcome.json().contains(&format!("\"model_digest\":\"{}\"", key.model_digest));
        if !job.dedup_key.as_ref().is_none_or(is_of) {
            let (model, key) = (job.job.model.clone(), job.dedup_key.take());
            self.remove_dedup(id, &model, key);
        }
        true
    }

    /// Deletes a job, except its tombstone.
    pub fn remove(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.bytes -= job.bytes;
        if let Some(key) = job.idempotency_key {
            self.idempotency_keys.remove(&key);
        }
        self.remove_dedup(id, &job.job.model, job.dedup_key);
        self.tombstones.push_back(id);
        let excess = self.tombstones.len().saturating_sub(MAX_TOMBSTONES);
        self.tombstones.drain(..excess);
    }

    /// Removes a job from the deduplication index, unless another job has taken its place.
    fn remove_dedup(&mut self, id: JobId, model: &str, key: Option<DedupKey>) {
        if let Some(index) = self.dedup_index.get_mut(model)
            && let Some(key) = key
            && index.get(&key.digest) == Some(&id)
        {
            index.remove(&key.digest);
        }
    }
}
