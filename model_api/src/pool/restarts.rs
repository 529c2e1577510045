use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// So many failures in a row are no accident: requests are turned away until a session works again.
const KEEPS_DYING: u32 = 3;

/// How long to wait before a new session is started: 100 ms, doubling up to 10 s, from the beginning after a success.
#[derive(Debug, Default)]
pub struct Restarts {
    failures: u32,
}

impl Restarts {
    /// A request was answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A session died that had worked. The first time there is no pause: nothing says that the next will not work, and everybody waits.
    pub fn died(&mut self) -> Duration {
        let pause = self.failed();
        if self.failures == 1 { Duration::ZERO } else { pause }
    }

    /// A session did not start. Gives the pause before the next.
    pub fn failed(&mut self) -> Duration {
        let pause = SHORTEST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        pause
    }

    /// Whether waiting for the next session is still reasonable.
    pub fn keeps_dying(&self) -> bool {
        self.failures >= KEEPS_DYING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_begin_anew_after_a_success() {
        let mut restarts = Restarts::default();
        let pauses: Vec<u128> = (0..9).map(|_| restarts.failed().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!(restarts.keeps_dying());
        restarts.succeeded();
        assert!(!restarts.keeps_dying());
        assert_eq!(restarts.failed().as_millis(), 100);
        assert_eq!(restarts.died().as_millis(), 200);
        restarts.succeeded();
        assert_eq!(restarts.died().as_millis(), 0);
        assert_eq!(restarts.died().as_millis(), 200);
    }
}
