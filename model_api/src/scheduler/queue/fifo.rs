//! FIFO of the waiting requests of one priority class.

use std::collections::VecDeque;

use super::entry::{Admission, Entry};

/// Requests in order of arrival, with their total size.
#[derive(Debug, Default)]
pub struct Fifo {
    entries: VecDeque<Entry>,
    rows: usize,
    bytes: usize,
}

/// Remaining capacity of a batch.
pub struct BatchBudget {
    /// Rows.
    pub rows: usize,
    /// Bytes of inputs.
    pub bytes: usize,
}

impl Fifo {
    /// Rows of all requests.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of all inputs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest request.
    pub fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether it holds more than one request.
    pub fn has_several(&self) -> bool {
        self.entries.len() > 1
    }

    /// All requests.
    pub fn into_entries(self) -> VecDeque<Entry> {
        self.entries
    }

    /// Adds a request at the end.
    pub fn push_back(&mut self, entry: Entry) {
        self.rows += entry.weight();
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Adds a request at the front.
    pub fn push_front(&mut self, entry: Entry) {
        self.rows += entry.weight();
        self.bytes += entry.bytes();
        self.entries.push_front(entry);
    }

    /// Removes the newest request. `None` if that is part of an admitted request.
    pub fn pop_newest(&mut self) -> Option<Entry> {
        self.entries.back().filter(|entry| entry.admission == Admission::IfCapacity)?;
        let entry = self.entries.pop_back();
        self.subtract(entry)
    }

    fn remove(&mut self, index: usize) -> Option<Entry> {
        let entry = self.entries.remove(index);
        self.subtract(entry)
    }

    fn subtract(&mut self, entry: Option<Entry>) -> Option<Entry> {
        let entry = entry?;
        self.rows -= entry.weight();
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Drops the requests whose callers have gone.
    pub fn drop_cancelled(&mut self) {
        self.entries.retain(|entry| !entry.is_cancelled());
        self.rows = self.entries.iter().map(Entry::weight).sum();
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
    }

    /// Moves the requests that fit into one batch to `entries`. Drops requests whose callers have gone.
    pub fn drain_into(&mut self, entries: &mut Vec<Entry>, budget: &mut BatchBudget) {
        let mut index = 0;
        while budget.rows > 0
            && let Some(entry) = self.entries.get(index)
        {
            let (rows, bytes) = (entry.weight(), entry.bytes());
            let fits = entries.first().is_none_or(|first: &Entry| {
                rows <= budget.rows && bytes <= budget.bytes && first.can_batch_with(entry)
            });
            if entry.is_cancelled() {
                self.remove(index);
            } else if fits {
                entries.extend(self.remove(index));
                budget.rows = budget.rows.saturating_sub(rows);
                budget.bytes = budget.bytes.saturating_sub(bytes);
            } else {
                index += 1;
            }
        }
    }
}
