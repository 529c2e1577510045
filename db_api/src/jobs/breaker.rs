use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long nothing is sent after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// Circuit breaker: after a failure calls fail at once, until one of them tries again and succeeds.
pub struct Breaker {
    begun: Instant,
    /// Closed at 0; else the milliseconds since `begun` at which the next call may try.
    next_try: AtomicU64,
}

impl Breaker {
    pub fn new() -> Self {
        Self { begun: Instant::now(), next_try: AtomicU64::new(0) }
    }

    /// Whether a call that lasts at most this long may be made.
    pub fn admits(&self, deadline: Duration) -> bool {
        let next_try = self.next_try.load(Ordering::Relaxed);
        if next_try == 0 {
            return true;
        }
        let now = self.now();
        // One call tries; the others wait for what becomes of it.
        let later = now + deadline.as_millis() as u64;
        now >= next_try && self.next_try.compare_exchange(next_try, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A call came back.
    pub fn close(&self) {
        if self.next_try.load(Ordering::Relaxed) != 0 {
            self.next_try.store(0, Ordering::Relaxed);
        }
    }

    /// A call did not come back. Whether it is the first after one that did.
    pub fn open(&self) -> bool {
        self.next_try.swap(self.now() + PAUSE.as_millis() as u64, Ordering::Relaxed) == 0
    }

    fn now(&self) -> u64 {
        1 + self.begun.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_tries_after_a_pause_and_its_success_lets_the_others_through() {
        let breaker = Breaker::new();
        let deadline = Duration::from_secs(2);
        assert!(breaker.admits(deadline) && breaker.admits(deadline));
        assert!(breaker.open() && !breaker.open());
        assert!(!breaker.admits(deadline));
        tokio::time::advance(PAUSE).await;
        assert!(breaker.admits(deadline));
        assert!(!breaker.admits(deadline), "one call at a time");
        tokio::time::advance(deadline).await;
        assert!(breaker.admits(deadline), "the first was given up without a word");
        breaker.close();
        assert!(breaker.admits(deadline) && breaker.admits(deadline));
    }
}
