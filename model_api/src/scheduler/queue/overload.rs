//! Load shedding: when a queue enters overload mode, how short it is then, and when it recovers.
//!
//! Overload mode begins when two conditions hold. The queue is long, by the cost estimate of its batches ([`is_long`]). And it is
//! a standing queue, by the time that requests have really waited ([`StandingQueue`]). The estimate alone would reject a burst of
//! cheap requests on a busy machine, where batches of one row show little about larger ones. The delay alone would reject a
//! burst that is almost done.
//!
//! From then on the queue is limited to what keeps the sessions busy ([`max_wait`]), until they have been idle for a fraction of
//! a time window. Closed-loop clients within capacity never trigger it. Load beyond capacity does after a short time.

use std::time::Duration;

use tokio::time::Instant;

/// A queue is long if its last request would wait for longer than this, behind more batches than this: a number per session, but
/// at least a minimum.
const LONG_QUEUE_WAIT: Duration = Duration::from_millis(150);
const LONG_QUEUE_BATCHES_PER_SESSION: usize = 32;
const MIN_LONG_QUEUE_BATCHES: usize = 64;

/// Overload mode ends if the sessions are idle for one part in `IDLE_FRACTION` of a window: this time, or this many batches.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_BATCHES: u32 = 16;
pub const IDLE_FRACTION: u32 = 8;

/// Maximum estimated wait in overload mode, unless one batch takes longer.
const MAX_WAIT: Duration = Duration::from_millis(5);

/// Idle time right after overload mode begins does not count: rejecting hundreds of requests takes longer than draining the
/// short queue, and the next hundreds would fill it again.
const OVERLOAD_GRACE: Duration = Duration::from_millis(250);

/// A request that waits for this long has waited in a queue, and not only for the batch before it.
const TARGET_DELAY: Duration = Duration::from_millis(20);

/// A queue is standing if every batch of such an interval had a request that waited for the target delay.
const STANDING_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a queue of `batches` batches and this estimated wait is long.
pub fn is_long(batches: usize, sessions: usize, estimated_wait: Duration) -> bool {
    batches > MIN_LONG_QUEUE_BATCHES.max(LONG_QUEUE_BATCHES_PER_SESSION.saturating_mul(sessions))
        && estimated_wait > LONG_QUEUE_WAIT
}

/// The time window in which idle time is measured, given the mean time of a batch.
pub fn window(batch_duration: Duration) -> Duration {
    WINDOW.max(batch_duration * WINDOW_BATCHES)
}

/// The maximum wait in overload mode, given the mean time of a batch.
pub fn max_wait(batch_duration: Duration) -> Duration {
    MAX_WAIT.max(batch_duration)
}

/// Standing-queue detector as in `CoDel` (RFC 8289): the minimum delay within an interval exceeds a target. One slow batch, or a
/// short burst, is not a standing queue, however long the queue was for a moment.
#[derive(Debug, Default)]
pub struct StandingQueue {
    above_since: Option<Instant>,
    is_standing: bool,
}

impl StandingQueue {
    /// Records how long the first interactive request of a batch has waited, or zero if there is none.
    pub fn record(&mut self, waited: Duration, now: Instant) {
        if waited < TARGET_DELAY {
            *self = Self::default();
        } else {
            let since = *self.above_since.get_or_insert(now);
            self.is_standing = now.saturating_duration_since(since) >= STANDING_INTERVAL;
        }
    }

    /// Whether the latest batches show a standing queue.
    pub fn is_standing(&self) -> bool {
        self.is_standing
    }
}

/// Overload mode of a queue, with the idle time of the current window.
#[derive(Debug)]
pub struct OverloadMode {
    since: Instant,
    idle: Duration,
}

impl OverloadMode {
    /// Enters overload mode. The first window starts after a grace period.
    pub fn enter() -> Self {
        Self::starting_at(Instant::now() + OVERLOAD_GRACE)
    }

    /// Overload mode whose current window starts at `since`.
    pub fn starting_at(since: Instant) -> Self {
        Self { since, idle: Duration::ZERO }
    }

    /// Records that one of `sessions` sessions was idle. Returns whether overload mode ends.
    pub fn record_idle(&mut self, from: Instant, until: Instant, window: Duration, sessions: u32) -> bool {
        self.idle += until.saturating_duration_since(from.max(self.since));
        if self.idle >= window * sessions / IDLE_FRACTION {
            return true;
        }
        if self.since.elapsed() >= window {
            *self = Self::starting_at(Instant::now());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITED: Duration = Duration::from_millis(500);

    #[test]
    fn a_queue_stands_if_every_batch_of_an_interval_has_waited() {
        let (mut queue, start) = (StandingQueue::default(), Instant::now());
        for after in [0, 40, 99] {
            queue.record(WAITED, start + Duration::from_millis(after));
            assert!(!queue.is_standing(), "after {after} ms");
        }
        queue.record(WAITED, start + STANDING_INTERVAL);
        assert!(queue.is_standing());
        queue.record(TARGET_DELAY / 2, start + STANDING_INTERVAL);
        assert!(!queue.is_standing());
    }

    #[test]
    fn one_slow_batch_is_not_a_standing_queue() {
        let (mut queue, start) = (StandingQueue::default(), Instant::now());
        for second in 0..5 {
            queue.record(WAITED, start + Duration::from_secs(second));
            queue.record(Duration::ZERO, start + Duration::from_secs(second) + STANDING_INTERVAL / 2);
        }
        assert!(!queue.is_standing());
    }
}
