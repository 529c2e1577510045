//! Online cost estimator for batches: `duration(n rows) = fixed + per_row × n`, from exponentially weighted moving averages.
//!
//! The line passes through two points: the mean size and duration of the smaller batches, and of the larger ones. Each batch
//! counts for the point of the nearer size. While all batches have the same size, the estimate attributes their whole duration
//! to the fixed part. Nothing shows then that a larger batch takes longer, and on a busy machine the rows take only a small
//! part of that time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Cost estimate of one model. Several sessions update it without a lock: a lost update is one of many.
#[derive(Debug, Default)]
pub struct CostEstimator {
    /// Duration of a batch, ns.
    batch: Ewma,
    /// Duration of a batch divided by its rows, ns.
    row: Ewma,
    smaller: MeanBatch,
    larger: MeanBatch,
    /// The largest recent batch, in fractions of a row.
    largest: AtomicU64,
    /// Batches of one row since the last batch of several rows.
    single_row_batches: AtomicU64,
    /// After this many of them, a batch of several rows is tried again.
    retry_interval: AtomicU64,
}

/// Cost function of a batch, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    fixed: f64,
    per_row: f64,
}

/// Exponentially weighted moving average with a weight of one eighth, as for the round-trip time in RFC 6298. Zero before the
/// first value.
#[derive(Debug, Default)]
struct Ewma(AtomicU64);

/// Mean size and duration of some batches.
#[derive(Debug, Default)]
struct MeanBatch {
    /// In fractions of a row.
    rows: Ewma,
    nanos: Ewma,
}

/// Fractions of a row, for fixed-point averages.
const ROW_SCALE: u64 = 256;

/// A batch counts for at most this multiple of the expected duration. So a batch during which the process was not scheduled
/// does not distort the estimate, while a lasting change takes effect within a dozen batches.
const MAX_OUTLIER_FACTOR: f64 = 4.0;

/// If batching does not pay, a batch of several rows is tried again after this many batches of one row. The interval doubles
/// each time: a result of a busy moment is corrected soon, and a true one costs nothing.
const MIN_RETRY_INTERVAL: u64 = 32;
const MAX_RETRY_INTERVAL: u64 = 4096;

impl CostEstimator {
    /// Records a batch of `rows` rows.
    pub fn record(&self, rows: usize, duration: Duration) {
        let (rows, nanos) = (rows.max(1) as u64, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1));
        self.batch.record(nanos);
        self.row.record(nanos / rows);
        let scaled_rows = rows * ROW_SCALE;
        let largest = self.largest.load(Ordering::Relaxed);
        self.largest
            .store(scaled_rows.max(largest - largest.saturating_sub(scaled_rows).div_ceil(8)), Ordering::Relaxed);
        self.count_single_row_batches(rows);
        self.nearest(scaled_rows).record(scaled_rows, nanos);
    }

    /// Whether larger batches save at least a quarter of the time of their rows in smaller batches. `true` without evidence.
    pub fn batching_pays(&self) -> bool {
        let (smaller, larger) = (self.smaller.time_per_row(), self.larger.time_per_row());
        larger == 0.0 || larger < smaller * 0.75
    }

    /// Mean duration of recent batches. Zero without data.
    pub fn batch_duration(&self) -> Duration {
        Duration::from_nanos(self.batch.get())
    }

    /// Estimated duration of a batch of `rows` rows. Zero without data.
    pub fn duration(&self, rows: usize) -> Duration {
        self.cost().duration(rows)
    }

    /// Upper bound of [`Self::duration`] for batches that may be larger than all recent ones: without a fixed part.
    pub fn max_duration(&self, rows: usize) -> Duration {
        Duration::from_nanos(self.row.get().saturating_mul(rows as u64)).max(self.duration(rows))
    }

    /// Estimated time for `rows` rows in consecutive batches of at most `max_rows` rows.
    pub fn total_duration(&self, rows: usize, max_rows: usize) -> Duration {
        let max_rows = max_rows.clamp(1, rows.max(1));
        let cost = self.cost();
        let full = cost.duration(max_rows).saturating_mul(u32::try_from(rows / max_rows).unwrap_or(u32::MAX));
        if rows.is_multiple_of(max_rows) { full } else { full.saturating_add(cost.duration(rows % max_rows)) }
    }

    /// Maximum rows of a batch that takes no longer than `time`, at least 1. Unlimited without data. Beyond the largest recent
    /// batch, the size at most doubles. At least 2 if a retry is due.
    pub fn rows_within(&self, time: Duration) -> usize {
        let max_tried = usize::try_from(self.largest.load(Ordering::Relaxed) * 2 / ROW_SCALE).unwrap_or(usize::MAX);
        let min_rows = if self.is_retry_due() { 2 } else { 1 };
        self.proportional_rows(time).max(self.cost().rows_within(time).min(max_tried)).max(min_rows)
    }

    /// Like [`Self::rows_within`], without the limit of doubling.
    pub fn expected_rows_within(&self, time: Duration) -> usize {
        self.proportional_rows(time).max(self.cost().rows_within(time)).max(1)
    }

    /// Maximum rows within `time` if batches have no fixed cost.
    fn proportional_rows(&self, time: Duration) -> usize {
        match self.row.get() {
            0 => usize::MAX,
            row => usize::try_from(time.as_nanos() / u128::from(row)).unwrap_or(usize::MAX),
        }
    }

    /// The point to which a batch of this size counts.
    fn nearest(&self, scaled_rows: u64) -> &MeanBatch {
        let (smaller, larger) = (self.smaller.rows.get(), self.larger.rows.get());
        if smaller == 0 || smaller == scaled_rows {
            return &self.smaller;
        }
        if larger == 0 && scaled_rows < smaller {
            // All batches so far were the larger ones.
            self.larger.move_from(&self.smaller);
            return &self.smaller;
        }
        if larger == 0 || smaller.abs_diff(scaled_rows) > larger.abs_diff(scaled_rows) {
            &self.larger
        } else {
            &self.smaller
        }
    }

    /// Counts batches of one row. A due retry replaces the data of larger batches.
    fn count_single_row_batches(&self, rows: u64) {
        if rows > 1 {
            if self.is_retry_due() {
                self.larger.move_from(&MeanBatch::default());
                self.retry_interval.store((self.retry_interval() * 2).min(MAX_RETRY_INTERVAL), Ordering::Relaxed);
            }
            self.single_row_batches.store(0, Ordering::Relaxed);
        } else if !self.batching_pays() {
            self.single_row_batches.fetch_add(1, Ordering::Relaxed);
        } else if self.larger.get().is_some() {
            self.retry_interval.store(MIN_RETRY_INTERVAL, Ordering::Relaxed);
        }
    }

    /// Whether a batch of two rows is to be tried again.
    fn is_retry_due(&self) -> bool {
        self.single_row_batches.load(Ordering::Relaxed) > self.retry_interval()
    }

    fn retry_interval(&self) -> u64 {
        self.retry_interval.load(Ordering::Relaxed).max(MIN_RETRY_INTERVAL)
    }

    fn cost(&self) -> Cost {
        let Some((rows, nanos)) = self.smaller.get() else { return Cost::default() };
        let Some((more_rows, more_nanos)) = self.larger.get().filter(|(more, _)| *more > rows) else {
            return Cost { fixed: nanos, per_row: 0.0 };
        };
        let per_row = ((more_nanos - nanos) / (more_rows - rows)).max(0.0);
        let fixed = nanos - per_row * rows;
        if fixed < 0.0 { Cost { fixed: 0.0, per_row: more_nanos / more_rows } } else { Cost { fixed, per_row } }
    }
}

impl Cost {
    fn duration(self, rows: usize) -> Duration {
        Duration::from_nanos((self.fixed + self.per_row * rows as f64).round() as u64)
    }

    /// Zero if the fixed part alone exceeds `time`.
    fn rows_within(self, time: Duration) -> usize {
        let left = time.as_nanos() as f64 - self.fixed;
        match (left < 0.0, self.per_row > 0.0) {
            (true, _) => 0,
            (false, true) => (left / self.per_row) as usize,
            (false, false) => usize::MAX,
        }
    }
}

impl Ewma {
    fn record(&self, value: u64) {
        let before = self.get();
        let after = if before == 0 { value } else { before - before / 8 + value / 8 };
        self.0.store(after.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl MeanBatch {
    fn record(&self, scaled_rows: u64, nanos: u64) {
        let usual = self.get().map(|(rows, nanos)| nanos * (scaled_rows as f64 / ROW_SCALE as f64 / rows).max(1.0));
        let max_nanos = usual.map_or(u64::MAX, |usual| (usual * MAX_OUTLIER_FACTOR) as u64);
        self.rows.record(scaled_rows);
        self.nanos.record(nanos.min(max_nanos));
    }

    /// Rows and ns. `None` without data.
    fn get(&self) -> Option<(f64, f64)> {
        let rows = self.rows.get();
        (rows > 0).then(|| (rows as f64 / ROW_SCALE as f64, self.nanos.get() as f64))
    }

    /// Time per row, ns. Zero without data.
    fn time_per_row(&self) -> f64 {
        self.get().map_or(0.0, |(rows, nanos)| nanos / rows)
    }

    fn move_from(&self, other: &Self) {
        for (own, other) in [(&self.rows, &other.rows), (&self.nanos, &other.nanos)] {
            own.0.store(other.0.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn batches_of_one_size_have_only_a_fixed_cost() {
        let estimator = CostEstimator::default();
        assert_eq!((estimator.duration(7), estimator.rows_within(ms(1))), (Duration::ZERO, usize::MAX));
        (0..50).for_each(|_| estimator.record(1, ms(8)));
        assert_eq!((estimator.duration(1), estimator.duration(200)), (ms(8), ms(8)), "no larger batch has been seen");
        assert_eq!(estimator.max_duration(200), ms(200 * 8), "the upper bound has no fixed cost");
        assert_eq!((estimator.total_duration(200, 32), estimator.total_duration(200, 1)), (ms(7 * 8), ms(200 * 8)));
        assert_eq!(estimator.rows_within(ms(10)), 2, "the size at most doubles");
        assert_eq!(estimator.expected_rows_within(ms(10)), usize::MAX);
        assert_eq!(estimator.rows_within(ms(1)), 1);
    }

    #[test]
    fn batches_of_several_sizes_show_fixed_and_per_row_cost() {
        for sizes in [[1, 2, 1, 2], [2, 1, 2, 4], [32, 1, 8, 3], [4, 6, 5, 8]] {
            let estimator = CostEstimator::default();
            sizes.iter().cycle().take(40).for_each(|&rows| estimator.record(rows, ms(10 + 3 * rows as u64)));
            for rows in [1, 8, 20] {
                let expected = ms(10 + 3 * rows as u64);
                let error = estimator.duration(rows).abs_diff(expected);
                assert!(
                    error < expected / 10,
                    "{sizes:?}, {rows}: {:?} instead of {expected:?}",
                    estimator.duration(rows)
                );
            }
        }
    }

    #[test]
    fn outliers_have_little_weight_and_lasting_changes_take_effect() {
        let estimator = CostEstimator::default();
        (0..20).for_each(|_| estimator.record(1, ms(2)));
        estimator.record(1, ms(2000));
        assert!(estimator.duration(1) < ms(3), "{:?}", estimator.duration(1));
        (0..36).for_each(|_| estimator.record(1, ms(20)));
        assert!(estimator.duration(1) > ms(18), "{:?}", estimator.duration(1));
        (0..36).for_each(|_| estimator.record(1, ms(2)));
        assert!(estimator.duration(1) < ms(3), "{:?}", estimator.duration(1));
    }

    #[test]
    fn the_costs_are_never_negative() {
        let estimator = CostEstimator::default();
        (0..9).for_each(|_| estimator.record(8, ms(4)));
        (0..9).for_each(|_| estimator.record(1, ms(40)));
        assert!(estimator.cost().per_row.abs() < f64::EPSILON, "the larger batches were faster");
        let estimator = CostEstimator::default();
        (0..9).for_each(|_| estimator.record(1, ms(1)));
        (0..9).for_each(|_| estimator.record(8, ms(80)));
        assert_eq!((estimator.duration(0), estimator.duration(8)), (Duration::ZERO, ms(80)));
    }

    #[test]
    fn batching_pays_until_the_data_shows_that_it_does_not() {
        let estimator = CostEstimator::default();
        let record = |rows: usize, row: u64| estimator.record(rows, Duration::from_micros(rows as u64 * row));
        record(2, 4000);
        assert!(estimator.batching_pays(), "no batch of one row has been seen");
        record(1, 4400);
        assert!(!estimator.batching_pays(), "a tenth is too little");
        for retry_interval in [MIN_RETRY_INTERVAL, MIN_RETRY_INTERVAL * 2] {
            (0..retry_interval).for_each(|_| record(1, 4400));
            assert_eq!(estimator.rows_within(ms(1)), 1);
            record(1, 4400);
            assert_eq!((estimator.rows_within(ms(1)), estimator.expected_rows_within(ms(1))), (2, 1), "a retry is due");
            record(2, 4000);
            assert!(!estimator.batching_pays());
        }
        record(8, 500);
        (0..24).for_each(|_| record(8, 500));
        assert!(estimator.batching_pays());
    }
}
