use std::sync::Arc;
use std::time::Duration;

use open_inference::Tensor;
use tokio::time::Instant;

use super::entry::Entry;
use super::{Ran, RunError};
use crate::session::Hello;

/// Requests that are run together, and how long they may take.
#[derive(Debug)]
pub struct Batch {
    /// One at the least. Of several, all go with each other.
    pub entries: Vec<Entry>,
    /// After which the run is ended.
    pub allowance: Duration,
    /// What is known of the batch that these requests come from.
    pub past: Past,
}

/// What became of a batch that a request was in before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// It was in none.
    #[default]
    New,
    /// It was refused, and this is a part of it.
    Refused,
    /// Its session died, so each request is now run alone.
    Died,
    /// Its session used too much memory, so each request is now run alone, on a new one.
    OutOfMemory,
    /// It took too long, so each request is now run alone.
    TimedOut,
}

impl Batch {
    /// Of all requests.
    pub fn rows(&self) -> usize {
        self.entries.iter().map(Entry::weight).sum()
    }

    /// Leaves out those whose askers have gone; `None` when there is nobody left.
    pub fn of_those_who_wait(mut self) -> Option<Self> {
        self.entries.retain(|entry| !entry.is_gone());
        (!self.entries.is_empty()).then_some(self)
    }

    /// Two halves, the first of which is never empty, and both of which may take what the whole could.
    pub fn halves(mut self) -> [Self; 2] {
        let second = self.entries.split_off(self.entries.len().div_ceil(2));
        let half = |entries| Self { entries, allowance: self.allowance, past: Past::Refused };
        [half(self.entries), half(second)]
    }

    /// Each request by itself, each with this much time.
    pub fn singles(self, allowance: Duration, past: Past) -> impl DoubleEndedIterator<Item = Self> {
        self.entries.into_iter().map(move |entry| Self { entries: vec![entry], allowance, past })
    }

    /// Tells all the same.
    pub fn refuse(self, error: impl Fn() -> RunError) {
        self.entries.into_iter().for_each(|entry| entry.tell(Err(error())));
    }
}

/// An answer to a batch, of which nobody has been told yet.
#[derive(Debug)]
pub struct Answered {
    /// Who asked.
    pub batch: Batch,
    /// All rows, in the requests' order.
    pub outputs: Vec<Tensor>,
    /// Who answered.
    pub session: Arc<Hello>,
    /// When the run began.
    pub begun: Instant,
    /// What it took.
    pub ran: Duration,
}

impl Answered {
    /// Whether every request finds its rows in the outputs. A model whose outputs do not follow its batch has none to give.
    pub fn can_be_cut(&self) -> bool {
        let rows = self.batch.rows();
        self.batch.entries.len() == 1 || self.outputs.iter().all(|output| output.rows() == Some(rows))
    }

    /// Tells every asker his rows.
    pub fn tell(self) {
        let Self { batch, outputs, session, begun, ran } = self;
        let ran = |entry: &Entry, outputs| {
            let waited = begun.saturating_duration_since(entry.since);
            Ran { outputs, session: Arc::clone(&session), waited, ran }
        };
        if batch.entries.len() == 1 {
            batch.entries.into_iter().for_each(|entry| {
                let ran = ran(&entry, outputs.clone());
                entry.tell(Ok(ran));
            });
            return;
        }
        let rows: Vec<usize> = batch.entries.iter().map(Entry::weight).collect();
        let mut columns: Vec<_> = outputs.iter().map(|output| output.split(&rows).into_iter()).collect();
        for entry in batch.entries {
            let outputs = columns.iter_mut().filter_map(Iterator::next).collect();
            let ran = ran(&entry, outputs);
            entry.tell(Ok(ran));
        }
    }
}
