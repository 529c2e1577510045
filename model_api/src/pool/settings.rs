use std::time::Duration;

use super::pace::Pace;
use super::pieces::{MAX_PIECE_BYTES, MAX_PIECE_ROWS};
use super::{Meters, QueueLimits};

/// Bounds and counters of a pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Of the model's files.
    pub bytes: u64,
    /// How many sessions.
    pub sessions: usize,
    /// How much may wait.
    pub queue: QueueLimits,
    /// How requests are put together.
    pub batch: BatchSettings,
    /// What it counts.
    pub meters: Meters,
}

/// How requests are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Rows of a batch at the most; 1 runs every request alone. A single request may have more, and is then run in pieces (`pieces.rs`).
    pub max_rows: usize,
    /// The same for one run of a request whose rows are independent; `None` where the settings name no `max_batch_size`.
    pub max_piece_rows: Option<usize>,
    /// So long a request waits, while a session is idle, for others to go with.
    pub max_wait: Duration,
    /// A batch is made no larger than what is expected to be done within this time.
    pub longest: Duration,
    /// Whether the model's settings say that its rows are independent, or that they are not; either is obeyed.
    pub independent: Option<bool>,
    /// Whether the model's settings say `"batching": "off"`.
    pub off: bool,
    /// So long one request may run. A batch may run for half of it, so that there is time for its requests alone.
    pub run_timeout: Duration,
}

/// Past this nothing is won on a CPU, and little is lost on a GPU.
const DEFAULT_ROWS: usize = 32;

/// Unless the settings name a size: a larger batch makes everybody in it wait for longer than it saves anybody.
const DEFAULT_LONGEST: Duration = Duration::from_millis(10);

/// The same on a card, where more rows take little longer: with less, batches of few rows would never show that.
const LONGEST_ON_CARD: Duration = Duration::from_millis(50);

/// Where rows together take as long as one after the other, a batch saves no more than its way to the session: it may take
/// this part of the time, since everybody in it waits for all of it.
const LITTLE: u32 = 4;

impl BatchSettings {
    /// For a model whose settings name this `max_batch_size` (0: no opinion), this `max_batch_time`, and whether its rows are
    /// independent.
    pub fn new(max_rows: usize, max_wait: Duration, independent: Option<bool>, run_timeout: Duration) -> Self {
        let (rows, longest) = match max_rows {
            0 => (DEFAULT_ROWS, DEFAULT_LONGEST),
            // Far below what a batch may take before it is ended: the estimate may be wrong.
            rows => (rows, run_timeout / 16),
        };
        let rows = if independent == Some(false) { 1 } else { rows };
        let max_piece_rows = (max_rows > 0).then_some(max_rows);
        Self { max_rows: rows, max_piece_rows, max_wait, longest, independent, off: false, run_timeout }
    }

    /// The same, with `"batching": "off"`: every request runs alone, whatever is known of the model.
    #[must_use]
    pub fn without_batching(self) -> Self {
        Self { off: true, ..self.alone() }
    }

    /// Which setting has every request run alone; `None` where none does. `independent_rows: false` is not among them: it
    /// says something of the model.
    pub fn why_alone(&self) -> Option<&'static str> {
        match self {
            Self { off: true, .. } => Some("the settings say \"batching\": \"off\""),
            Self { max_rows: 1, independent, .. } if *independent != Some(false) => {
                Some("the settings say max_batch_size: 1")
            }
            _ => None,
        }
    }

    /// The same, on a card.
    #[must_use]
    pub fn on_card(self) -> Self {
        Self { longest: self.longest.max(LONGEST_ON_CARD), ..self }
    }

    /// The same, with every request alone.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { max_rows: 1, ..self }
    }

    /// Rows of one piece of a request that is cut, at least 1. `row_bytes` is the size of the inputs of one row.
    pub fn piece_rows(&self, row_bytes: usize) -> usize {
        let by_bytes = || (MAX_PIECE_BYTES / row_bytes.max(1)).clamp(DEFAULT_ROWS, MAX_PIECE_ROWS);
        self.max_piece_rows.unwrap_or_else(by_bytes)
    }

    /// Rows of the next batch at the most.
    pub fn rows(&self, pace: &Pace) -> usize {
        self.max_rows.min(pace.rows_within(self.time(pace)))
    }

    /// Rows that batches are expected to have once many requests wait.
    pub fn expected_rows(&self, pace: &Pace) -> usize {
        self.max_rows.min(pace.expected_rows_within(self.time(pace)))
    }

    /// The time that a batch may take. Where it saves something, that is twice the time of one row at the least: otherwise a
    /// model whose single row takes longer than `longest` would never be run with two.
    fn time(&self, pace: &Pace) -> Duration {
        if pace.saves_together() { self.longest.max(pace.of_rows(1) * 2) } else { self.longest / LITTLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN_TIMEOUT: Duration = Duration::from_secs(32);

    fn rows(max_rows: usize, independent: Option<bool>, row: Duration) -> usize {
        let pace = Pace::default();
        pace.observe(1, row);
        BatchSettings::new(max_rows, Duration::ZERO, independent, RUN_TIMEOUT).rows(&pace)
    }

    #[test]
    fn on_a_card_a_batch_may_take_longer_unless_the_settings_name_its_size() {
        let longest = |max_rows| BatchSettings::new(max_rows, Duration::ZERO, None, RUN_TIMEOUT).on_card().longest;
        assert_eq!((longest(0), longest(64)), (LONGEST_ON_CARD, RUN_TIMEOUT / 16));
    }

    #[test]
    fn a_batch_is_as_large_as_the_settings_say_and_no_larger_than_what_is_done_in_time() {
        assert_eq!(rows(0, None, Duration::from_micros(40)), DEFAULT_ROWS);
        assert_eq!(rows(0, None, Duration::from_millis(3)), 3);
        assert_eq!(rows(64, Some(true), Duration::from_millis(3)), 64);
        assert_eq!(rows(64, Some(true), Duration::from_millis(500)), 4);
        assert_eq!(rows(64, Some(false), Duration::from_micros(1)), 1);
        assert_eq!(rows(1, None, Duration::from_micros(1)), 1);
    }

    #[test]
    fn a_batch_that_saves_little_is_kept_small() {
        let pace = Pace::default();
        pace.observe(2, Duration::from_millis(4));
        let rows = |max_rows: usize| BatchSettings::new(max_rows, Duration::ZERO, None, RUN_TIMEOUT).rows(&pace);
        assert_eq!(rows(0), 5);
        pace.observe(1, Duration::from_millis(2));
        assert_eq!((rows(0), rows(64)), (1, 64), "unless the settings name a size");
    }

    #[test]
    fn a_batch_grows_by_doubling_where_more_rows_take_no_longer_however_long_one_takes() {
        let (pace, settings) = (Pace::default(), BatchSettings::new(0, Duration::ZERO, None, RUN_TIMEOUT));
        let mut sizes = vec![1];
        while sizes.len() < 7 {
            pace.observe(*sizes.last().unwrap(), Duration::from_millis(25));
            assert_eq!(settings.expected_rows(&pace), DEFAULT_ROWS);
            sizes.push(settings.rows(&pace));
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 32]);
    }
}
