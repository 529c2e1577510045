//! When a queue sheds load: the evidence that begins it, and the evidence that ends it.

use std::time::Duration;

use tokio::time::Instant;

/// A request that waits for so long has waited in a queue, and not only for the batch before it.
const TARGET: Duration = Duration::from_millis(20);

/// So long every batch must find such a request before the queue counts as standing.
const INTERVAL: Duration = Duration::from_millis(100);

/// For so long after shedding has begun, idle sessions count for nothing: refusing hundreds of requests takes longer than a
/// short queue lasts, and the next hundreds would then fill it.
const TURMOIL: Duration = Duration::from_millis(250);

/// Standing-queue detector, as in `CoDel` (RFC 8289): the shortest delay within an interval is above a target. One slow batch,
/// or a burst that is soon over, is no standing queue, however long the queue was for a moment.
#[derive(Debug, Default)]
pub struct StandingQueue {
    above_since: Option<Instant>,
    stands: bool,
}

impl StandingQueue {
    /// Records how long the first interactive request of a batch has waited; zero where there is none.
    pub fn observe(&mut self, waited: Duration, now: Instant) {
        if waited < TARGET {
            *self = Self::default();
        } else {
            let since = *self.above_since.get_or_insert(now);
            self.stands = now.saturating_duration_since(since) >= INTERVAL;
        }
    }

    /// Whether the last batches show a queue that does not go away.
    pub fn stands(&self) -> bool {
        self.stands
    }
}

/// A part of the time in which a queue sheds load.
#[derive(Debug)]
pub struct Shedding {
    /// When it began.
    pub since: Instant,
    /// How long sessions had nothing to do in it, all together.
    pub idle: Duration,
}

impl Shedding {
    /// Begins now.
    pub fn begin() -> Self {
        Self::since(Instant::now() + TURMOIL)
    }

    /// Begins then.
    pub fn since(since: Instant) -> Self {
        Self { since, idle: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITED: Duration = Duration::from_millis(500);

    #[test]
    fn a_queue_stands_when_every_batch_of_an_interval_has_waited() {
        let (mut queue, begun) = (StandingQueue::default(), Instant::now());
        for after in [0, 40, 99] {
            queue.observe(WAITED, begun + Duration::from_millis(after));
            assert!(!queue.stands(), "after {after} ms");
        }
        queue.observe(WAITED, begun + INTERVAL);
        assert!(queue.stands());
        queue.observe(TARGET / 2, begun + INTERVAL);
        assert!(!queue.stands());
    }

    #[test]
    fn one_slow_batch_is_no_standing_queue() {
        let (mut queue, begun) = (StandingQueue::default(), Instant::now());
        for second in 0..5 {
            queue.observe(WAITED, begun + Duration::from_secs(second));
            queue.observe(Duration::ZERO, begun + Duration::from_secs(second) + INTERVAL / 2);
        }
        assert!(!queue.stands());
    }
}
