use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast a model's sessions are: what a row takes, and what a batch takes, averaged over the last few batches.
#[derive(Debug, Default)]
pub struct Pace {
    row: Average,
    batch: Average,
    /// A row in a batch of its own.
    alone: Average,
    /// A row among others.
    together: Average,
}

/// Nanoseconds: an exponentially weighted moving average with a weight of one eighth, as the round-trip time has in RFC 6298;
/// zero as long as nothing is known. Several sessions write without a lock: what is overwritten is one of many.
#[derive(Debug, Default)]
struct Average(AtomicU64);

/// With each row that runs alone, what rows take together is taken to be less by such a part: what was measured long ago,
/// perhaps while others had the processor, is tried again.
const FORGOTTEN: u64 = 8192;

impl Pace {
    /// Notes that `rows` took so long together.
    pub fn observe(&self, rows: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let of_row = nanos / rows.max(1) as u64;
        self.row.observe(of_row);
        self.batch.observe(nanos);
        if rows > 1 {
            self.together.observe(of_row);
        } else {
            self.alone.observe(of_row);
            let together = self.together.nanos();
            self.together.0.store(together - together / FORGOTTEN, Ordering::Relaxed);
        }
    }

    /// Whether a batch of several saves a quarter of what its rows take one after the other, as far as is known.
    pub fn saves_together(&self) -> bool {
        let (alone, together) = (self.alone.nanos(), self.together.nanos());
        alone == 0 || together < alone / 4 * 3
    }

    /// What one row takes; zero as long as nothing is known.
    pub fn of_row(&self) -> Duration {
        Duration::from_nanos(self.row.nanos())
    }

    /// What one batch takes; zero as long as nothing is known.
    pub fn of_batch(&self) -> Duration {
        Duration::from_nanos(self.batch.nanos())
    }

    /// What `rows` take one after the other.
    pub fn of_rows(&self, rows: usize) -> Duration {
        self.of_row().saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))
    }

    /// How many rows are done within `time`, one at the least; as many as one likes as long as nothing is known.
    pub fn rows_within(&self, time: Duration) -> usize {
        match self.row.nanos() {
            0 => usize::MAX,
            row => usize::try_from(time.as_nanos() / u128::from(row)).unwrap_or(usize::MAX).max(1),
        }
    }
}

impl Average {
    fn observe(&self, nanos: u64) {
        let before = self.nanos();
        let after = if before == 0 { nanos } else { before - before / 8 + nanos / 8 };
        self.0.store(after.max(1), Ordering::Relaxed);
    }

    fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_is_measured() {
        let pace = Pace::default();
        assert_eq!((pace.of_rows(7), pace.rows_within(Duration::from_millis(1))), (Duration::ZERO, usize::MAX));
        pace.observe(10, Duration::from_millis(20));
        assert_eq!((pace.of_row(), pace.of_batch()), (Duration::from_millis(2), Duration::from_millis(20)));
        assert_eq!((pace.of_rows(3), pace.rows_within(Duration::from_millis(7))), (Duration::from_millis(6), 3));
        assert_eq!(pace.rows_within(Duration::from_micros(1)), 1);
        (0..100).for_each(|_| pace.observe(1, Duration::from_millis(8)));
        assert!((7900..8001).contains(&pace.of_row().as_micros()), "{:?}", pace.of_row());
    }

    #[test]
    fn rows_together_save_something_until_it_is_known_that_they_do_not() {
        let pace = Pace::default();
        let observe = |rows: usize, row: u64| pace.observe(rows, Duration::from_micros(rows as u64 * row));
        observe(2, 4000);
        assert!(pace.saves_together(), "what one takes alone is not known");
        observe(1, 4400);
        assert!(!pace.saves_together(), "a tenth is not worth the time of all");
        (0..FORGOTTEN / 8).for_each(|_| observe(1, 4400));
        assert!(!pace.saves_together());
        (0..FORGOTTEN / 8).for_each(|_| observe(1, 4400));
        assert!(pace.saves_together(), "it is tried again");
        (0..4).for_each(|_| observe(2, 4000));
        assert!(!pace.saves_together());
        (0..8).for_each(|_| observe(8, 500));
        assert!(pace.saves_together());
    }
}
