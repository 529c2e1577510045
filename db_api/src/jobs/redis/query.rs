//! Read-only operations of the queue in Redis.

use std::collections::HashMap;
use std::ops::Range;

use redis::{cmd, pipe};
use tokio::sync::SemaphorePermit;

use super::RedisJobs;
use super::command::{CHUNK_INPUTS, MAX_READ_BYTES};
use super::job_fields::parse_job;
use crate::jobs::error::JobError;
use crate::jobs::id::JobId;
use crate::jobs::keys::{JOBS, TOMBSTONES, job_key};
use crate::jobs::types::{Event, EventKind, Job, JobLookup, Outcome};

/// Names read by one command: each has at most [`MAX_NAME_BYTES`](super::upload::MAX_NAME_BYTES).
const NAMES_BATCH: u32 = 200;

/// Jobs that one list visits; older jobs are not listed.
const MAX_LISTED: isize = 10_000;

/// Jobs read by one command for a list.
const LIST_BATCH: isize = 200;

impl RedisJobs {
    pub(in crate::jobs) async fn find(&self, id: JobId) -> Result<JobLookup, JobError> {
        let fields: HashMap<String, String> = self.connection.execute(cmd("HGETALL").arg(job_key("job", id))).await?;
        if let Some(job) = parse_job(id, &fields)? {
            return Ok(JobLookup::Found(Box::new(job)));
        }
        let tombstone: Option<f64> = self.connection.execute(cmd("ZSCORE").arg(TOMBSTONES).arg(id.to_string())).await?;
        Ok(if tombstone.is_some() { JobLookup::Gone } else { JobLookup::Unknown })
    }

    pub(in crate::jobs) async fn list(
        &self,
        filter: impl Fn(&Job) -> bool,
        mut offset: usize,
        limit: usize,
    ) -> Result<Vec<Job>, JobError> {
        let mut found = Vec::new();
        for first in (0..MAX_LISTED).step_by(LIST_BATCH as usize) {
            let mut range = cmd("ZREVRANGE");
            range.arg(JOBS).arg(first).arg(first + LIST_BATCH - 1);
            let ids: Vec<String> = self.connection.execute(&range).await?;
            let ids: Vec<JobId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
            let mut all = pipe();
            for id in &ids {
                all.cmd("HGETALL").arg(job_key("job", *id));
            }
            if ids.is_empty() {
                break;
            }
            let jobs: Vec<HashMap<String, String>> = self.connection.execute_all(&all).await?;
            // A corrupt job does not hide the others.
            let jobs = ids.iter().zip(&jobs).filter_map(|(id, fields)| parse_job(*id, fields).ok().flatten());
            for job in jobs.filter(&filter) {
                if offset > 0 {
                    offset -= 1;
                } else {
                    found.push(job);
                }
                if found.len() == limit {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    pub(in crate::jobs) async fn names(&self, id: JobId, inputs: Range<u32>) -> Result<Vec<String>, JobError> {
        let mut names = Vec::new();
        for first in inputs.clone().step_by(NAMES_BATCH as usize) {
            let last = inputs.end.min(first.saturating_add(NAMES_BATCH)) - 1;
            let mut range = cmd("LRANGE");
            range.arg(job_key("names", id)).arg(first).arg(last);
            let batch: Vec<String> = self.data_connection.execute(&range).await?;
            names.extend(batch);
        }
        // The name of a job's only input is a field of the job.
        if names.is_empty() && inputs.contains(&0) {
            let name: Option<String> = self.connection.execute(cmd("HGET").arg(job_key("job", id)).arg("name")).await?;
            names.extend(name);
        }
        Ok(names)
    }

    /// Reads the lengths first, so that the size of each reply is known before it is requested.
    pub(in crate::jobs) async fn results(
        &self,
        id: JobId,
        indices: &[u32],
        max_bytes: usize,
    ) -> Result<Vec<Option<Outcome>>, JobError> {
        let (mut results, mut bytes) = (Vec::new(), 0);
        for chunk in indices.chunks(CHUNK_INPUTS) {
            let mut lengths = pipe();
            for index in chunk {
                lengths.cmd("HSTRLEN").arg(job_key("results", id)).arg(index);
            }
            let lengths: Vec<usize> = self.connection.execute_all(&lengths).await?;
            let mut from = 0;
            while from < chunk.len() {
                let to = from + count_within(&lengths[from..], MAX_READ_BYTES / 2, true);
                let page = count_within(&lengths[from..to], max_bytes.saturating_sub(bytes), results.is_empty());
                let page_bytes = lengths[from..from + page].iter().sum::<usize>();
                results.extend(self.read_results(id, &chunk[from..from + page], page_bytes).await?);
                bytes += page_bytes;
                if from + page < to {
                    return Ok(results);
                }
                from = to;
            }
        }
        Ok(results)
    }

    async fn read_results(&self, id: JobId, indices: &[u32], bytes: usize) -> Result<Vec<Option<Outcome>>, JobError> {
        if bytes == 0 {
            return Ok(vec![None; indices.len()]);
        }
        let _reservation = self.reserve_read(bytes).await?;
        let mut read = cmd("HMGET");
        read.arg(job_key("results", id)).arg(indices);
        let results: Vec<Option<String>> = self.data_connection.execute_large(&read, bytes).await?;
        Ok(results.into_iter().map(|result| result.and_then(Outcome::from_signed)).collect())
    }

    pub(super) async fn reserve_read(&self, bytes: usize) -> Result<SemaphorePermit<'_>, JobError> {
        let bytes = bytes.clamp(1, MAX_READ_BYTES) as u32;
        self.reads.acquire_many(bytes).await.map_err(|_| JobError::Unavailable)
    }

    pub(in crate::jobs) async fn events(&self, id: JobId, after: &str, limit: usize) -> Result<Vec<Event>, JobError> {
        let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        let mut range = cmd("XRANGE");
        range.arg(job_key("events", id)).arg(from).arg("+").arg("COUNT").arg(limit);
        let entries: Vec<(String, Vec<String>)> = self.connection.execute(&range).await?;
        let parse = |(id, fields): (String, Vec<String>)| {
            let kind = match (fields.first()?.as_str(), fields.get(1)?) {
                ("index", index) => EventKind::InputFinished(index.parse().ok()?),
                (_, status) => EventKind::StatusChanged(status.parse().ok()?),
            };
            Some(Event { id, kind })
        };
        Ok(entries.into_iter().filter_map(parse).collect())
    }
}

/// How many of the first `lengths` have at most `limit` bytes together; at least one where `at_least_one`.
fn count_within(lengths: &[usize], limit: usize, at_least_one: bool) -> usize {
    let mut bytes = 0_usize;
    let fits = |length: &&usize| {
        bytes = bytes.saturating_add(**length);
        bytes <= limit
    };
    let count = lengths.iter().take_while(fits).count();
    count.max(usize::from(at_least_one)).min(lengths.len())
}

#[cfg(test)]
mod tests {
    use super::count_within;

    #[test]
    fn a_page_has_as_many_results_as_fit_and_at_least_one_if_required() {
        assert_eq!(count_within(&[1, 2, 3, 4], 6, false), 3);
        assert_eq!(count_within(&[7, 1], 6, false), 0);
        assert_eq!(count_within(&[7, 1], 6, true), 1);
        assert_eq!(count_within(&[], 6, true), 0);
        assert_eq!(count_within(&[usize::MAX, usize::MAX], 6, true), 1);
    }
}
