use std::ops::Range;

use redis::{cmd, pipe};

use super::{MAX_READ_BYTES, PIECE_INPUTS, RedisJobs};
use crate::jobs::{Event, JobError, JobId, Outcome, What};
use crate::keys::job_key;

/// Names read at once: each has at most [`super::upload::MAX_NAME_BYTES`].
const NAMES_AT_A_TIME: u32 = 200;

impl RedisJobs {
    pub(in crate::jobs) async fn names(&self, id: JobId, inputs: Range<u32>) -> Result<Vec<String>, JobError> {
        let mut names = Vec::new();
        for first in inputs.clone().step_by(NAMES_AT_A_TIME as usize) {
            let last = inputs.end.min(first.saturating_add(NAMES_AT_A_TIME)) - 1;
            let mut range = cmd("LRANGE");
            range.arg(job_key("names", id)).arg(first).arg(last);
            let piece: Vec<String> = self.data.ask(&range).await?;
            names.extend(piece);
        }
        // The name of a job's only input is one of the job's fields.
        if names.is_empty() && inputs.contains(&0) {
            let name: Option<String> = self.link.ask(cmd("HGET").arg(job_key("job", id)).arg("name")).await?;
            names.extend(name);
        }
        Ok(names)
    }

    /// The lengths are known before anything is read.
    pub(in crate::jobs) async fn results(
        &self,
        id: JobId,
        indices: &[u32],
        most_bytes: usize,
    ) -> Result<Vec<Option<Outcome>>, JobError> {
        let (mut results, mut bytes) = (Vec::new(), 0);
        for piece in indices.chunks(PIECE_INPUTS) {
            let mut lengths = pipe();
            for index in piece {
                lengths.cmd("HSTRLEN").arg(job_key("results", id)).arg(index);
            }
            let lengths: Vec<usize> = self.link.ask_all(&lengths).await?;
            let mut from = 0;
            while from < piece.len() {
                let till = from + fitting(&lengths[from..], MAX_READ_BYTES / 2, true);
                let page = fitting(&lengths[from..till], most_bytes.saturating_sub(bytes), results.is_empty());
                results
                    .extend(self.read(id, &piece[from..from + page], lengths[from..from + page].iter().sum()).await?);
                bytes += lengths[from..from + page].iter().sum::<usize>();
                if from + page < till {
                    return Ok(results);
                }
                from = till;
            }
        }
        Ok(results)
    }

    async fn read(&self, id: JobId, indices: &[u32], bytes: usize) -> Result<Vec<Option<Outcome>>, JobError> {
        if bytes == 0 {
            return Ok(vec![None; indices.len()]);
        }
        let _read = self.reserve(bytes).await?;
        let mut read = cmd("HMGET");
        read.arg(job_key("results", id)).arg(indices);
        let results: Vec<Option<String>> = self.data.ask_for(&read, bytes).await?;
        Ok(results.into_iter().map(|result| result.and_then(Outcome::from_signed)).collect())
    }

    pub(super) async fn reserve(&self, bytes: usize) -> Result<tokio::sync::SemaphorePermit<'_>, JobError> {
        let bytes = bytes.clamp(1, MAX_READ_BYTES) as u32;
        self.reads.acquire_many(bytes).await.map_err(|_| JobError::Unavailable)
    }

    pub(in crate::jobs) async fn events(&self, id: JobId, after: &str, most: usize) -> Result<Vec<Event>, JobError> {
        let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        let mut range = cmd("XRANGE");
        range.arg(job_key("events", id)).arg(from).arg("+").arg("COUNT").arg(most);
        let entries: Vec<(String, Vec<String>)> = self.link.ask(&range).await?;
        let read = |(id, fields): (String, Vec<String>)| {
            let what = match (fields.first()?.as_str(), fields.get(1)?) {
                ("index", index) => What::Ended(index.parse().ok()?),
                (_, status) => What::Status(status.parse().ok()?),
            };
            Some(Event { id, what })
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }
}

/// How many of the first of these have at most `most` bytes together; at least one where `at_least_one`.
fn fitting(lengths: &[usize], most: usize, at_least_one: bool) -> usize {
    let mut bytes = 0_usize;
    let fits = |length: &&usize| {
        bytes = bytes.saturating_add(**length);
        bytes <= most
    };
    let count = lengths.iter().take_while(fits).count();
    count.max(usize::from(at_least_one)).min(lengths.len())
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn a_page_has_as_many_as_fit_and_at_least_one_where_it_must() {
        assert_eq!(fitting(&[1, 2, 3, 4], 6, false), 3);
        assert_eq!(fitting(&[7, 1], 6, false), 0);
        assert_eq!(fitting(&[7, 1], 6, true), 1);
        assert_eq!(fitting(&[], 6, true), 0);
        assert_eq!(fitting(&[usize::MAX, usize::MAX], 6, true), 1);
    }
}
