//! Settings of a pool: limits of its queue, its batches and its chunks.

use std::time::Duration;

use super::estimator::CostEstimator;
use super::metrics::PoolMetrics;

/// Limits and metrics of a pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Size of the model's files, bytes.
    pub model_bytes: u64,
    /// Number of sessions.
    pub sessions: usize,
    /// Limits of the queue.
    pub queue: QueueLimits,
    /// Limits of batches.
    pub batch: BatchSettings,
    /// Metrics of the model.
    pub metrics: PoolMetrics,
}

/// Limits of a queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Rows. An empty queue accepts a request with more.
    pub rows: usize,
    /// Bytes of inputs. An empty queue accepts a request with more.
    pub bytes: usize,
}

/// Limits of batches and chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Maximum rows of a batch. 1 disables batching. A single request may have more, and then runs in chunks.
    pub max_rows: usize,
    /// Maximum rows of a chunk. `None` if the settings have no `max_batch_size`.
    pub max_chunk_rows: Option<usize>,
    /// How long a request waits for others to join its batch while a session is idle.
    pub max_wait: Duration,
    /// Maximum estimated duration of a batch.
    pub max_duration: Duration,
    /// `independent_rows` of the model settings, which overrides every other evidence.
    pub independent_rows: Option<bool>,
    /// Whether the model settings contain `"batching": "off"`.
    pub batching_off: bool,
    /// Maximum run time of one request. A batch may use half of it, so that its requests can run alone afterwards.
    pub run_timeout: Duration,
}

/// Default of `max_batch_size`. Larger batches gain nothing on a CPU and little on a GPU.
const DEFAULT_MAX_ROWS: usize = 32;

/// Default of the maximum batch duration: a longer batch delays each request by more than it saves.
const DEFAULT_MAX_DURATION: Duration = Duration::from_millis(10);

/// Minimum of the maximum batch duration on a GPU, where more rows take little longer. With less, small batches would never show
/// that.
const GPU_MAX_DURATION: Duration = Duration::from_millis(50);

/// Divides the maximum batch duration if batching does not pay. A batch then saves only transfers to the session, while each
/// request waits for all rows.
const UNPROFITABLE_DIVISOR: u32 = 4;

/// Maximum rows of a chunk without `max_batch_size`.
pub const MAX_CHUNK_ROWS: usize = 256;

/// Maximum size of the inputs of a chunk without `max_batch_size`, bytes. A chunk may always have as many rows as a batch.
pub const MAX_CHUNK_BYTES: usize = 4 << 20;

impl BatchSettings {
    /// For a model with this `max_batch_size` (0: not set), `max_batch_time` and `independent_rows`.
    pub fn new(max_rows: usize, max_wait: Duration, independent_rows: Option<bool>, run_timeout: Duration) -> Self {
        let (rows, max_duration) = match max_rows {
            0 => (DEFAULT_MAX_ROWS, DEFAULT_MAX_DURATION),
            // Far below the time budget of a batch, because the estimate may be wrong.
            rows => (rows, run_timeout / 16),
        };
        let rows = if independent_rows == Some(false) { 1 } else { rows };
        let max_chunk_rows = (max_rows > 0).then_some(max_rows);
        Self {
            max_rows: rows,
            max_chunk_rows,
            max_wait,
            max_duration,
            independent_rows,
            batching_off: false,
            run_timeout,
        }
    }

    /// The same settings with `"batching": "off"`: each request runs alone, whatever the evidence.
    #[must_use]
    pub fn without_batching(self) -> Self {
        Self { batching_off: true, ..self.unbatched() }
    }

    /// The setting that makes each request run alone, if any. `independent_rows: false` does not count: it is a property of the
    /// model.
    pub fn unbatched_reason(&self) -> Option<&'static str> {
        match self {
            Self { batching_off: true, .. } => Some("the settings say \"batching\": \"off\""),
            Self { max_rows: 1, independent_rows, .. } if *independent_rows != Some(false) => {
                Some("the settings say max_batch_size: 1")
            }
            _ => None,
        }
    }

    /// The same settings on a GPU.
    #[must_use]
    pub fn on_gpu(self) -> Self {
        Self { max_duration: self.max_duration.max(GPU_MAX_DURATION), ..self }
    }

    /// The same settings with each request alone.
    #[must_use]
    pub fn unbatched(self) -> Self {
        Self { max_rows: 1, ..self }
    }

    /// Maximum rows of a chunk, at least 1. `row_bytes` is the size of the inputs of one row.
    pub fn chunk_rows(&self, row_bytes: usize) -> usize {
        let by_bytes = || (MAX_CHUNK_BYTES / row_bytes.max(1)).clamp(DEFAULT_MAX_ROWS, MAX_CHUNK_ROWS);
        self.max_chunk_rows.unwrap_or_else(by_bytes)
    }

    /// Maximum rows of the next batch.
    pub fn batch_rows(&self, estimator: &CostEstimator) -> usize {
        self.max_rows.min(estimator.rows_within(self.time_budget(estimator)))
    }

    /// Rows that batches are expected to have once many requests wait.
    pub fn expected_batch_rows(&self, estimator: &CostEstimator) -> usize {
        self.max_rows.min(estimator.expected_rows_within(self.time_budget(estimator)))
    }

    /// Time budget of a batch. If batching pays, it is at least twice the time of one row: otherwise a model whose single row takes
    /// longer than `max_duration` would never run two.
    fn time_budget(&self, estimator: &CostEstimator) -> Duration {
        if estimator.batching_pays() {
            self.max_duration.max(estimator.duration(1) * 2)
        } else {
            self.max_duration / UNPROFITABLE_DIVISOR
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN_TIMEOUT: Duration = Duration::from_secs(32);

    fn rows(max_rows: usize, independent_rows: Option<bool>, row: Duration) -> usize {
        let estimator = CostEstimator::default();
        estimator.record(1, row);
        BatchSettings::new(max_rows, Duration::ZERO, independent_rows, RUN_TIMEOUT).batch_rows(&estimator)
    }

    #[test]
    fn batches_may_take_longer_on_a_gpu_unless_the_settings_set_their_size() {
        let max_duration =
            |max_rows| BatchSettings::new(max_rows, Duration::ZERO, None, RUN_TIMEOUT).on_gpu().max_duration;
        assert_eq!((max_duration(0), max_duration(64)), (GPU_MAX_DURATION, RUN_TIMEOUT / 16));
    }

    #[test]
    fn batch_size_is_limited_by_the_settings_and_by_the_estimated_duration() {
        assert_eq!(rows(0, None, Duration::from_micros(40)), DEFAULT_MAX_ROWS);
        assert_eq!(rows(0, None, Duration::from_millis(3)), 3);
        assert_eq!(rows(64, Some(true), Duration::from_millis(3)), 64);
        assert_eq!(rows(64, Some(true), Duration::from_millis(500)), 4);
        assert_eq!(rows(64, Some(false), Duration::from_micros(1)), 1);
        assert_eq!(rows(1, None, Duration::from_micros(1)), 1);
    }

    #[test]
    fn batches_stay_small_if_batching_does_not_pay() {
        let estimator = CostEstimator::default();
        estimator.record(2, Duration::from_millis(4));
        let rows =
            |max_rows: usize| BatchSettings::new(max_rows, Duration::ZERO, None, RUN_TIMEOUT).batch_rows(&estimator);
        assert_eq!(rows(0), 5);
        estimator.record(1, Duration::from_millis(2));
        assert_eq!((rows(0), rows(64)), (1, 64), "unless the settings set a size");
    }

    #[test]
    fn batches_grow_by_doubling_if_more_rows_take_no_longer_however_long_one_row_takes() {
        let (estimator, settings) =
            (CostEstimator::default(), BatchSettings::new(0, Duration::ZERO, None, RUN_TIMEOUT));
        let mut sizes = vec![1];
        while sizes.len() < 7 {
            estimator.record(*sizes.last().unwrap(), Duration::from_millis(25));
            assert_eq!(settings.expected_batch_rows(&estimator), DEFAULT_MAX_ROWS);
            sizes.push(settings.batch_rows(&estimator));
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 32]);
    }
}
