use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How fast a model's sessions are: what a row takes, and what a batch takes, averaged over the last few batches.
///
/// Both are exponentially weighted moving averages with a weight of one eighth, as the round-trip time has in RFC 6298.
/// Several sessions write without a lock: one that is overwritten is one of many.
#[derive(Debug, Default)]
pub struct Pace {
    nanos_of_row: AtomicU64,
    nanos_of_batch: AtomicU64,
}

impl Pace {
    /// Notes that `rows` took so long together.
    pub fn observe(&self, rows: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        average(&self.nanos_of_row, nanos / rows.max(1) as u64);
        average(&self.nanos_of_batch, nanos);
    }

    /// What one row takes; zero as long as nothing is known.
    pub fn of_row(&self) -> Duration {
        Duration::from_nanos(self.nanos_of_row.load(Ordering::Relaxed))
    }

    /// What one batch takes; zero as long as nothing is known.
    pub fn of_batch(&self) -> Duration {
        Duration::from_nanos(self.nanos_of_batch.load(Ordering::Relaxed))
    }

    /// What `rows` take one after the other.
    pub fn of_rows(&self, rows: usize) -> Duration {
        self.of_row().saturating_mul(u32::try_from(rows).unwrap_or(u32::MAX))
    }

    /// How many rows are done within `time`, one at the least; as many as one likes as long as nothing is known.
    pub fn rows_within(&self, time: Duration) -> usize {
        match self.nanos_of_row.load(Ordering::Relaxed) {
            0 => usize::MAX,
            row => usize::try_from(time.as_nanos() / u128::from(row)).unwrap_or(usize::MAX).max(1),
        }
    }
}

fn average(average: &AtomicU64, nanos: u64) {
    let before = average.load(Ordering::Relaxed);
    let after = if before == 0 { nanos } else { before - before / 8 + nanos / 8 };
    average.store(after.max(1), Ordering::Relaxed);
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
}
