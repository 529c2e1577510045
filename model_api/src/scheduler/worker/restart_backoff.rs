//! Exponential backoff between session starts: 100 ms, doubled up to 10 s, reset by a successful run.

use std::time::Duration;

const MIN_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Consecutive failures that count as a crash loop.
const CRASH_LOOP_FAILURES: u32 = 3;

/// Backoff of one worker.
#[derive(Debug, Default)]
pub struct RestartBackoff {
    failures: u32,
}

impl RestartBackoff {
    /// Records a successful run.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Records the crash of a session that had started. Returns the delay before the next start. The first crash has none: the
    /// next session probably works, and requests are waiting.
    pub fn on_crash(&mut self) -> Duration {
        let delay = self.on_start_failure();
        if self.failures == 1 { Duration::ZERO } else { delay }
    }

    /// Records a failed start. Returns the delay before the next one.
    pub fn on_start_failure(&mut self) -> Duration {
        let delay = MIN_DELAY.saturating_mul(1 << self.failures.min(16)).min(MAX_DELAY);
        self.failures += 1;
        delay
    }

    /// Whether sessions fail repeatedly. Requests are then rejected instead of waiting for the next session.
    pub fn is_crash_looping(&self) -> bool {
        self.failures >= CRASH_LOOP_FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_ten_seconds_and_reset_after_a_success() {
        let mut backoff = RestartBackoff::default();
        let delays: Vec<u128> = (0..9).map(|_| backoff.on_start_failure().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!(backoff.is_crash_looping());
        backoff.reset();
        assert!(!backoff.is_crash_looping());
        assert_eq!(backoff.on_start_failure().as_millis(), 100);
        assert_eq!(backoff.on_crash().as_millis(), 200);
        backoff.reset();
        assert_eq!(backoff.on_crash().as_millis(), 0);
        assert_eq!(backoff.on_crash().as_millis(), 200);
    }
}
