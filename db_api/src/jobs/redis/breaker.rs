use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long the circuit stays open before a call may test it.
const OPEN_DURATION: Duration = Duration::from_millis(500);

/// Circuit breaker: after a failure, calls fail immediately until a single test call succeeds (half-open state).
pub struct CircuitBreaker {
    started: Instant,
    /// 0 while closed; else the milliseconds since `started` at which the next call may test the circuit.
    next_test: AtomicU64,
}

impl CircuitBreaker {
    pub fn new() -> Self {
        Self { started: Instant::now(), next_test: AtomicU64::new(0) }
    }

    /// Whether a call with this timeout may be made.
    pub fn admits(&self, timeout: Duration) -> bool {
        let next_test = self.next_test.load(Ordering::Relaxed);
        if next_test == 0 {
            return true;
        }
        let now = self.now();
        // One call tests the circuit; the others fail until its result is known or its timeout has passed.
        let later = now + timeout.as_millis() as u64;
        now >= next_test
            && self.next_test.compare_exchange(next_test, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Records a successful call.
    pub fn close(&self) {
        if self.next_test.load(Ordering::Relaxed) != 0 {
            self.next_test.store(0, Ordering::Relaxed);
        }
    }

    /// Records a failed call. Returns whether the circuit was closed before.
    pub fn open(&self) -> bool {
        self.next_test.swap(self.now() + OPEN_DURATION.as_millis() as u64, Ordering::Relaxed) == 0
    }

    fn now(&self) -> u64 {
        1 + self.started.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_call_tests_an_open_circuit_and_its_success_closes_it() {
        let breaker = CircuitBreaker::new();
        let timeout = Duration::from_secs(2);
        assert!(breaker.admits(timeout) && breaker.admits(timeout));
        assert!(breaker.open() && !breaker.open());
        assert!(!breaker.admits(timeout));
        tokio::time::advance(OPEN_DURATION).await;
        assert!(breaker.admits(timeout));
        assert!(!breaker.admits(timeout), "one call at a time");
        tokio::time::advance(timeout).await;
        assert!(breaker.admits(timeout), "the test call was dropped without a result");
        breaker.close();
        assert!(breaker.admits(timeout) && breaker.admits(timeout));
    }
}
