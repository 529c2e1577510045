//! Batch of requests, and the split of its outputs.

use std::sync::Arc;
use std::time::Duration;

use open_inference::Tensor;
use tokio::time::Instant;

use super::entry::{Entry, RunOutput};
use crate::scheduler::error::RunError;
use crate::session::SessionInfo;

/// Requests that run together.
#[derive(Debug)]
pub struct Batch {
    /// At least one. Each can be batched with all others.
    pub entries: Vec<Entry>,
    /// Limit on the run time.
    pub time_budget: Duration,
    /// The failure that led to this batch.
    pub stage: RetryStage,
}

/// How the previous run of these requests failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryStage {
    /// There was none.
    #[default]
    New,
    /// The model rejected the batch. This is a part of it.
    Rejected,
    /// The session crashed. Each request runs alone.
    Crashed,
    /// The session exceeded a memory limit. Each request runs alone on a new session.
    OutOfMemory,
    /// The run exceeded its time budget. Each request runs alone.
    TimedOut,
}

impl Batch {
    /// Rows of all requests.
    pub fn rows(&self) -> usize {
        self.entries.iter().map(Entry::weight).sum()
    }

    /// Drops the requests whose callers have gone. `None` if none remains.
    pub fn retain_live(mut self) -> Option<Self> {
        self.entries.retain(|entry| !entry.is_cancelled());
        (!self.entries.is_empty()).then_some(self)
    }

    /// Two halves with the time budget of the whole. The first half is never empty.
    pub fn bisect(mut self) -> [Self; 2] {
        let second = self.entries.split_off(self.entries.len().div_ceil(2));
        let half = |entries| Self { entries, time_budget: self.time_budget, stage: RetryStage::Rejected };
        [half(self.entries), half(second)]
    }

    /// One batch for each request, each with this time budget.
    pub fn into_singles(self, time_budget: Duration, stage: RetryStage) -> impl DoubleEndedIterator<Item = Self> {
        self.entries.into_iter().map(move |entry| Self { entries: vec![entry], time_budget, stage })
    }

    /// Sends the same error to all callers.
    pub fn reject(self, error: impl Fn() -> RunError) {
        self.entries.into_iter().for_each(|entry| entry.send_reply(Err(error())));
    }
}

/// A batch with its outputs, before the replies are sent.
#[derive(Debug)]
pub struct CompletedBatch {
    /// The requests.
    pub batch: Batch,
    /// All rows, in the order of the requests.
    pub outputs: Vec<Tensor>,
    /// The session that ran the batch.
    pub session: Arc<SessionInfo>,
    /// Start of the run.
    pub started_at: Instant,
    /// Duration of the run.
    pub run_time: Duration,
}

impl CompletedBatch {
    /// Whether the outputs can be split by request. Outputs without a batch axis cannot, unless there is only one request.
    pub fn is_splittable(&self) -> bool {
        let rows = self.batch.rows();
        self.batch.entries.len() == 1 || self.outputs.iter().all(|output| output.rows() == Some(rows))
    }

    /// Sends each caller its rows.
    pub fn send_replies(self) {
        let Self { batch, outputs, session, started_at, run_time } = self;
        let result = |entry: &Entry, outputs| {
            let queue_time = started_at.saturating_duration_since(entry.queued_at);
            RunOutput { outputs, session: Arc::clone(&session), queue_time, run_time }
        };
        if batch.entries.len() == 1 {
            batch.entries.into_iter().for_each(|entry| {
                let result = result(&entry, outputs.clone());
                entry.send_reply(Ok(result));
            });
            return;
        }
        let rows: Vec<usize> = batch.entries.iter().map(Entry::weight).collect();
        let mut columns: Vec<_> = outputs.iter().map(|output| output.split(&rows).into_iter()).collect();
        for entry in batch.entries {
            let outputs = columns.iter_mut().filter_map(Iterator::next).collect();
            let result = result(&entry, outputs);
            entry.send_reply(Ok(result));
        }
    }
}
