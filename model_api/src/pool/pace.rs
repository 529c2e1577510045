//! Cost estimate of a model's batches: `duration(n rows) = fixed + per_row × n`.
//!
//! The line goes through two points: the mean size and duration of the smaller batches, and of the larger ones. A batch counts
//! for the point whose size is nearer. As long as all batches have one size, the whole duration is the fixed part: nothing
//! shows that a larger batch takes longer, and on a busy machine most of a small batch's time is not the rows'.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a model's batches take. Several sessions write without a lock: a value that is overwritten is one of many.
#[derive(Debug, Default)]
pub struct Pace {
    /// Of any batch, ns.
    batch: Average,
    /// Of any batch, ns for each of its rows.
    row: Average,
    smaller: Point,
    larger: Point,
    /// The largest batch of the last few, in parts of a row.
    largest: AtomicU64,
    /// Batches of one row since there was one of several.
    singles: AtomicU64,
    /// After so many of them a batch of several is tried again.
    patience: AtomicU64,
}

/// The duration of a batch, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    fixed: f64,
    per_row: f64,
}

/// An exponentially weighted moving average with a weight of one eighth, as the round-trip time has in RFC 6298; zero as
/// long as nothing is known.
#[derive(Debug, Default)]
struct Average(AtomicU64);

/// Mean size and duration of some batches.
#[derive(Debug, Default)]
struct Point {
    /// In parts of a row.
    rows: Average,
    nanos: Average,
}

/// Parts of a row.
const PARTS: u64 = 256;

/// A batch counts for no more than so many times what is usual, so that one during which the process was not scheduled does
/// not change the estimate. A lasting change does, within a dozen batches.
const OUTLIER: f64 = 4.0;

/// Where a batch of several rows has saved nothing, another one is tried after so many batches of one row. The number doubles
/// each time: what a busy moment has shown is soon corrected, and what is so costs nothing.
const FIRST_PATIENCE: u64 = 32;
const LAST_PATIENCE: u64 = 4096;

impl Pace {
    /// Records that a batch of `rows` has taken so long.
    pub fn observe(&self, rows: usize, took: Duration) {
        let (rows, nanos) = (rows.max(1) as u64, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
        self.batch.observe(nanos);
        self.row.observe(nanos / rows);
        let parts = rows * PARTS;
        let largest = self.largest.load(Ordering::Relaxed);
        self.largest.store(parts.max(largest - largest.saturating_sub(parts).div_ceil(8)), Ordering::Relaxed);
        self.count(rows);
        self.point(parts).observe(parts, nanos);
    }

    /// Whether larger batches save a quarter of what their rows take in smaller ones, as far as is known.
    pub fn saves_together(&self) -> bool {
        let (smaller, larger) = (self.smaller.of_row(), self.larger.of_row());
        larger == 0.0 || larger < smaller * 0.75
    }

    /// The duration of a batch, averaged over all of the last few; zero as long as nothing is known.
    pub fn of_batch(&self) -> Duration {
        Duration::from_nanos(self.batch.get())
    }

    /// The estimated duration of one batch of so many rows; zero as long as nothing is known.
    pub fn of_rows(&self, rows: usize) -> Duration {
        self.cost().of(rows)
    }

    /// An upper bound of the same for a batch that may be larger than all that have been seen: as if it had no fixed part.
    pub fn of_rows_at_most(&self, rows: usize) -> Duration {
        Duration::from_nanos(self.row.get().saturating_mul(rows as u64)).max(self.of_rows(rows))
    }

    /// The estimated time for so many rows in batches of at most `most` rows, one after the other.
    pub fn of_batches(&self, rows: usize, most: usize) -> Duration {
        let most = most.clamp(1, rows.max(1));
        let cost = self.cost();
        let full = cost.of(most).saturating_mul(u32::try_from(rows / most).unwrap_or(u32::MAX));
        if rows.is_multiple_of(most) { full } else { full.saturating_add(cost.of(rows % most)) }
    }

    /// How many rows a batch may have that is to take no longer than `time`, one at the least; as many as one likes as long
    /// as nothing is known. Where no larger batch has been seen lately, its size is at most doubled. Two where that is due.
    pub fn rows_within(&self, time: Duration) -> usize {
        let tried = usize::try_from(self.largest.load(Ordering::Relaxed) * 2 / PARTS).unwrap_or(usize::MAX);
        let least = if self.is_due() { 2 } else { 1 };
        self.proportional_rows(time).max(self.cost().rows_within(time).min(tried)).max(least)
    }

    /// The same, with batches that may be larger than all that have been seen.
    pub fn expected_rows_within(&self, time: Duration) -> usize {
        self.proportional_rows(time).max(self.cost().rows_within(time)).max(1)
    }

    /// As many rows as take so long even where a batch has no fixed part.
    fn proportional_rows(&self, time: Duration) -> usize {
        match self.row.get() {
            0 => usize::MAX,
            row => usize::try_from(time.as_nanos() / u128::from(row)).unwrap_or(usize::MAX),
        }
    }

    /// The point that a batch of this size counts for.
    fn point(&self, parts: u64) -> &Point {
        let (smaller, larger) = (self.smaller.rows.get(), self.larger.rows.get());
        if smaller == 0 || smaller == parts {
            return &self.smaller;
        }
        if larger == 0 && parts < smaller {
            // What has been seen so far were the larger ones.
            self.larger.take(&self.smaller);
            return &self.smaller;
        }
        if larger == 0 || smaller.abs_diff(parts) > larger.abs_diff(parts) { &self.larger } else { &self.smaller }
    }

    /// Counts batches of one row, and replaces what is known of larger ones by the batch that was due.
    fn count(&self, rows: u64) {
        if rows > 1 {
            if self.is_due() {
                self.larger.take(&Point::default());
                self.patience.store((self.patience() * 2).min(LAST_PATIENCE), Ordering::Relaxed);
            }
            self.singles.store(0, Ordering::Relaxed);
        } else if !self.saves_together() {
            self.singles.fetch_add(1, Ordering::Relaxed);
        } else if self.larger.get().is_some() {
            self.patience.store(FIRST_PATIENCE, Ordering::Relaxed);
        }
    }

    /// Whether a batch of two rows is to be tried again.
    fn is_due(&self) -> bool {
        self.singles.load(Ordering::Relaxed) > self.patience()
    }

    fn patience(&self) -> u64 {
        self.patience.load(Ordering::Relaxed).max(FIRST_PATIENCE)
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
    fn of(self, rows: usize) -> Duration {
        Duration::from_nanos((self.fixed + self.per_row * rows as f64).round() as u64)
    }

    /// None where the fixed part alone takes longer.
    fn rows_within(self, time: Duration) -> usize {
        let left = time.as_nanos() as f64 - self.fixed;
        match (left < 0.0, self.per_row > 0.0) {
            (true, _) => 0,
            (false, true) => (left / self.per_row) as usize,
            (false, false) => usize::MAX,
        }
    }
}

impl Average {
    fn observe(&self, value: u64) {
        let before = self.get();
        let after = if before == 0 { value } else { before - before / 8 + value / 8 };
        self.0.store(after.max(1), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Point {
    fn observe(&self, parts: u64, nanos: u64) {
        let usual = self.get().map(|(rows, nanos)| nanos * (parts as f64 / PARTS as f64 / rows).max(1.0));
        let most = usual.map_or(u64::MAX, |usual| (usual * OUTLIER) as u64);
        self.rows.observe(parts);
        self.nanos.observe(nanos.min(most));
    }

    /// Rows and ns; `None` as long as nothing is known.
    fn get(&self) -> Option<(f64, f64)> {
        let rows = self.rows.get();
        (rows > 0).then(|| (rows as f64 / PARTS as f64, self.nanos.get() as f64))
    }

    /// What each row takes, ns; zero as long as nothing is known.
    fn of_row(&self) -> f64 {
        self.get().map_or(0.0, |(rows, nanos)| nanos / rows)
    }

    fn take(&self, other: &Self) {
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
    fn batches_of_one_size_have_a_fixed_part_only() {
        let pace = Pace::default();
        assert_eq!((pace.of_rows(7), pace.rows_within(ms(1))), (Duration::ZERO, usize::MAX));
        (0..50).for_each(|_| pace.observe(1, ms(8)));
        assert_eq!((pace.of_rows(1), pace.of_rows(200)), (ms(8), ms(8)), "nothing shows that 200 take longer");
        assert_eq!(pace.of_rows_at_most(200), ms(200 * 8), "nor that they do not");
        assert_eq!((pace.of_batches(200, 32), pace.of_batches(200, 1)), (ms(7 * 8), ms(200 * 8)));
        assert_eq!(pace.rows_within(ms(10)), 2, "the size is doubled at most");
        assert_eq!(pace.expected_rows_within(ms(10)), usize::MAX);
        assert_eq!(pace.rows_within(ms(1)), 1);
    }

    #[test]
    fn batches_of_several_sizes_show_the_fixed_part_and_that_of_a_row() {
        for sizes in [[1, 2, 1, 2], [2, 1, 2, 4], [32, 1, 8, 3], [4, 6, 5, 8]] {
            let pace = Pace::default();
            sizes.iter().cycle().take(40).for_each(|&rows| pace.observe(rows, ms(10 + 3 * rows as u64)));
            for rows in [1, 8, 20] {
                let expected = ms(10 + 3 * rows as u64);
                let error = pace.of_rows(rows).abs_diff(expected);
                assert!(error < expected / 10, "{sizes:?}, {rows}: {:?} instead of {expected:?}", pace.of_rows(rows));
            }
        }
    }

    #[test]
    fn outliers_count_little_and_a_lasting_change_is_followed() {
        let pace = Pace::default();
        (0..20).for_each(|_| pace.observe(1, ms(2)));
        pace.observe(1, ms(2000));
        assert!(pace.of_rows(1) < ms(3), "{:?}", pace.of_rows(1));
        (0..36).for_each(|_| pace.observe(1, ms(20)));
        assert!(pace.of_rows(1) > ms(18), "{:?}", pace.of_rows(1));
        (0..36).for_each(|_| pace.observe(1, ms(2)));
        assert!(pace.of_rows(1) < ms(3), "{:?}", pace.of_rows(1));
    }

    #[test]
    fn the_parts_are_never_negative() {
        let pace = Pace::default();
        (0..9).for_each(|_| pace.observe(8, ms(4)));
        (0..9).for_each(|_| pace.observe(1, ms(40)));
        assert!(pace.cost().per_row.abs() < f64::EPSILON, "the machine was quiet before");
        let pace = Pace::default();
        (0..9).for_each(|_| pace.observe(1, ms(1)));
        (0..9).for_each(|_| pace.observe(8, ms(80)));
        assert_eq!((pace.of_rows(0), pace.of_rows(8)), (Duration::ZERO, ms(80)));
    }

    #[test]
    fn rows_together_save_something_until_it_is_known_that_they_do_not() {
        let pace = Pace::default();
        let observe = |rows: usize, row: u64| pace.observe(rows, Duration::from_micros(rows as u64 * row));
        observe(2, 4000);
        assert!(pace.saves_together(), "the duration of one alone is not known");
        observe(1, 4400);
        assert!(!pace.saves_together(), "a tenth is not worth the time of all");
        for patience in [FIRST_PATIENCE, FIRST_PATIENCE * 2] {
            (0..patience).for_each(|_| observe(1, 4400));
            assert_eq!(pace.rows_within(ms(1)), 1);
            observe(1, 4400);
            assert_eq!((pace.rows_within(ms(1)), pace.expected_rows_within(ms(1))), (2, 1), "it is tried again");
            observe(2, 4000);
            assert!(!pace.saves_together());
        }
        observe(8, 500);
        (0..24).for_each(|_| observe(8, 500));
        assert!(pace.saves_together());
    }
}
