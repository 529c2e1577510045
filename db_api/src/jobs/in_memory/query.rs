//! Read-only operations of the in-memory queue.

use std::cmp::Reverse;
use std::ops::Range;

use super::InMemoryJobs;
use crate::jobs::id::JobId;
use crate::jobs::types::{Event, EventKind, Job, JobLookup, Outcome};

impl InMemoryJobs {
    pub(in crate::jobs) fn find(&self, id: JobId) -> JobLookup {
        let state = self.state.lock();
        match state.jobs.get(&id) {
            Some(job) => JobLookup::Found(Box::new(job.job.clone())),
            None if state.tombstones.contains(&id) => JobLookup::Gone,
            None => JobLookup::Unknown,
        }
    }

    pub(in crate::jobs) fn list(&self, filter: impl Fn(&Job) -> bool, offset: usize, limit: usize) -> Vec<Job> {
        let state = self.state.lock();
        let mut jobs: Vec<_> = state.jobs.values().map(|job| &job.job).filter(|job| filter(job)).collect();
        jobs.sort_by_key(|job| Reverse((job.created_ms, job.id.to_string())));
        jobs.into_iter().skip(offset).take(limit).cloned().collect()
    }

    pub(in crate::jobs) fn names(&self, id: JobId, inputs: Range<u32>) -> Vec<String> {
        let (first, count) = (inputs.start as usize, inputs.len());
        let state = self.state.lock();
        state.jobs.get(&id).map_or_else(Vec::new, |job| job.names.iter().skip(first).take(count).cloned().collect())
    }

    pub(in crate::jobs) fn results(&self, id: JobId, indices: &[u32], max_bytes: usize) -> Vec<Option<Outcome>> {
        let state = self.state.lock();
        let (mut results, mut bytes) = (Vec::new(), 0);
        for index in indices {
            let result = state.jobs.get(&id).and_then(|job| job.results.get(index));
            bytes += result.map_or(0, |result| result.json().len());
            if bytes > max_bytes && !results.is_empty() {
                break;
            }
            results.push(result.cloned());
        }
        results
    }

    /// The id of an event is its number, followed by `-0` as in Redis.
    pub(in crate::jobs) fn events(&self, id: JobId, after: &str, limit: usize) -> Vec<Event> {
        let state = self.state.lock();
        let first = after.split('-').next().and_then(|number| number.parse().ok()).unwrap_or(0_usize);
        let events = state.jobs.get(&id).map_or(&[][..], |job| job.events.get(first..).unwrap_or_default());
        let with_id = |(number, kind): (usize, &EventKind)| Event { id: format!("{number}-0"), kind: *kind };
        (first + 1..).zip(events).take(limit).map(with_id).collect()
    }
}
