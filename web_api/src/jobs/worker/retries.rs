use std::time::Duration;

use db_api::jobs::{JobError, JobId, Jobs};

/// Delay between calls to a queue that fails: doubled each time, up to the maximum.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Number of times that a queue that serves other calls may fail the same call, before the call itself is taken as the cause.
const MAX_REJECTIONS: u32 = 8;

/// Decides whether a call to the queue is retried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retries {
    failed: u32,
    rejected: u32,
}

impl Retries {
    /// Whether a retry of the call cannot succeed: because of the kind of error, or because the queue has failed it several times while
    /// it served other calls.
    pub async fn is_permanent(&mut self, error: &JobError, jobs: &Jobs, job: JobId) -> bool {
        self.failed += 1;
        match error {
            JobError::OutOfMemory => false,
            JobError::Unavailable => {
                let is_reachable = jobs.find(job).await.is_ok();
                self.rejected = if is_reachable { self.rejected + 1 } else { 0 };
                self.rejected >= MAX_REJECTIONS
            }
            _ => true,
        }
    }

    /// Time until the next attempt.
    pub fn delay(self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failed.saturating_sub(1));
        MIN_RETRY_DELAY.saturating_mul(factor).min(MAX_RETRY_DELAY)
    }
}
