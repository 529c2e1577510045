//! Redis keys of the job queue. They have no time-to-live, so Redis never evicts them; jobs are deleted when they expire.
//!
//! The braces are a hash tag: all keys of jobs share one slot of a Redis Cluster, since a function may touch only one slot.

use super::id::JobId;

/// Consumer group of every queue.
pub(super) const CONSUMER_GROUP: &str = "workers";

/// Sorted set: every job, by the time of its submission.
pub(super) const JOBS: &str = "mlserve:{jobs}:known";

/// Hash: models that external workers serve, with their metadata.
pub(super) const ANNOUNCED_MODELS: &str = "mlserve:{jobs}:models";

/// Sorted set: finished jobs, by their expiry.
pub(super) const EXPIRING: &str = "mlserve:{jobs}:expiring";

/// Hash: the bytes that all jobs use.
pub(super) const COUNTS: &str = "mlserve:{jobs}:counts";

/// Set: jobs with inputs that are not queued yet.
pub(super) const FILLING: &str = "mlserve:{jobs}:filling";

/// Sorted set: jobs with a pending webhook, by the time of its next attempt.
pub(super) const WEBHOOKS: &str = "mlserve:{jobs}:webhooks";

/// Sorted set: ids of deleted jobs, kept for a week.
pub(super) const TOMBSTONES: &str = "mlserve:{jobs}:gone";

/// Queue of `model`: a stream whose entries have the fields `job` and `index`.
pub(super) fn queue_key(model: &str) -> String {
    ["mlserve:{jobs}:queue:", model].concat()
}

/// Deduplication index of `model`: a hash from a [`DedupKey`](super::DedupKey) to a job.
pub(super) fn dedup_index_key(model: &str) -> String {
    format!("mlserve:{{jobs}}:same:{model}")
}

/// A part of a job: `job` (hash of its fields), `inputs` and `results` (hashes by index), `events` (stream), `names` (list).
pub(super) fn job_key(part: &str, id: JobId) -> String {
    format!("mlserve:{{jobs}}:{part}:{id}")
}
