use std::collections::VecDeque;

use super::entry::{Admission, Entry};

/// Those that are equally urgent, in the order in which they came.
#[derive(Debug, Default)]
pub struct Line {
    entries: VecDeque<Entry>,
    rows: usize,
    bytes: usize,
}

/// What a batch still takes.
pub struct Room {
    /// Rows.
    pub rows: usize,
    /// Bytes of inputs.
    pub bytes: usize,
}

impl Line {
    /// Rows of all.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of all inputs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Who came first.
    pub fn first(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Whether several wait.
    pub fn has_several(&self) -> bool {
        self.entries.len() > 1
    }

    /// All of them.
    pub fn into_entries(self) -> VecDeque<Entry> {
        self.entries
    }

    /// At the end.
    pub fn push(&mut self, entry: Entry) {
        self.rows += entry.weight();
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// At the beginning.
    pub fn push_first(&mut self, entry: Entry) {
        self.rows += entry.weight();
        self.bytes += entry.bytes();
        self.entries.push_front(entry);
    }

    /// Takes out who came last; `None` where that is the rest of a request that has been admitted.
    pub fn pop_last(&mut self) -> Option<Entry> {
        self.entries.back().filter(|entry| entry.admission == Admission::Checked)?;
        let entry = self.entries.pop_back();
        self.left(entry)
    }

    fn remove(&mut self, place: usize) -> Option<Entry> {
        let entry = self.entries.remove(place);
        self.left(entry)
    }

    fn left(&mut self, entry: Option<Entry>) -> Option<Entry> {
        let entry = entry?;
        self.rows -= entry.weight();
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes out those whose askers have gone.
    pub fn forget_gone(&mut self) {
        self.entries.retain(|entry| !entry.is_gone());
        self.rows = self.entries.iter().map(Entry::weight).sum();
        self.bytes = self.entries.iter().map(Entry::bytes).sum();
    }

    /// Moves what goes together to `entries`, and drops those whose askers have gone.
    pub fn fill(&mut self, entries: &mut Vec<Entry>, room: &mut Room) {
        let mut place = 0;
        while room.rows > 0
            && let Some(entry) = self.entries.get(place)
        {
            let (rows, bytes) = (entry.weight(), entry.bytes());
            let fits = entries
                .first()
                .is_none_or(|first: &Entry| rows <= room.rows && bytes <= room.bytes && first.goes_with(entry));
            if entry.is_gone() {
                self.remove(place);
            } else if fits {
                entries.extend(self.remove(place));
                room.rows = room.rows.saturating_sub(rows);
                room.bytes = room.bytes.saturating_sub(bytes);
            } else {
                place += 1;
            }
        }
    }
}
