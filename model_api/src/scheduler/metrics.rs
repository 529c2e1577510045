//! Metrics of one model's scheduler. The service registers them under its own names.

use open_inference::{Batching, RowDependence};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Metrics of one pool.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    /// Runs started.
    pub runs: Counter,
    /// Run time, s.
    pub run_seconds: Histogram,
    /// Rows per batch.
    pub batch_rows: Histogram,
    /// Rows in the queue.
    pub queue_rows: Gauge,
    /// Time in the queue, s.
    pub queue_seconds: Histogram,
    /// Requests rejected because the queue was full or load was shed.
    pub refused: Counter,
    /// Sessions that crashed or failed to start.
    pub restarts: Counter,
    /// Sessions replaced because their memory had grown.
    pub replacements: Counter,
    /// 1 if the most recently started session runs on the CPU.
    pub on_cpu: Gauge,
    /// 1 if the most recently started session runs on CUDA.
    pub on_cuda: Gauge,
    /// Whether requests of different callers share batches, and why.
    pub batching: BatchingInfo,
    /// Batches whose requests were rerun one by one and compared.
    pub batches_checked: Counter,
    /// Checked batches whose results differed.
    pub batches_that_differed: Counter,
}

/// Labels of `batching_info`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "a label")]
pub struct BatchingLabels {
    pub model: String,
    pub rows: &'static str,
    pub enabled: &'static str,
}

/// The info gauge `batching_info` of one model: 1 for the current labels, absent for all others.
#[derive(Clone, Debug)]
pub struct BatchingInfo {
    model: String,
    gauges: Family<BatchingLabels, Gauge>,
}

impl BatchingInfo {
    /// The gauge of `model` within the family `gauges`.
    pub fn new(model: &str, gauges: Family<BatchingLabels, Gauge>) -> Self {
        Self { model: model.to_owned(), gauges }
    }

    /// Replaces the current labels.
    pub fn set(&self, batching: &Batching) {
        self.clear();
        let enabled = if batching.enabled { "true" } else { "false" };
        self.gauges.get_or_create(&self.labels(batching.rows, enabled)).set(1);
    }

    /// Removes all labels of the model.
    pub fn clear(&self) {
        for rows in RowDependence::ALL {
            for enabled in ["true", "false"] {
                self.gauges.remove(&self.labels(rows, enabled));
            }
        }
    }

    fn labels(&self, rows: RowDependence, enabled: &'static str) -> BatchingLabels {
        BatchingLabels { model: self.model.clone(), rows: rows.name(), enabled }
    }
}

#[cfg(test)]
impl PoolMetrics {
    /// Metrics that are not registered.
    pub fn unregistered() -> Self {
        let histogram = || Histogram::new([]);
        Self {
            runs: Counter::default(),
            run_seconds: histogram(),
            batch_rows: histogram(),
            queue_rows: Gauge::default(),
            queue_seconds: histogram(),
            refused: Counter::default(),
            restarts: Counter::default(),
            replacements: Counter::default(),
            on_cpu: Gauge::default(),
            on_cuda: Gauge::default(),
            batching: BatchingInfo::new("m", Family::default()),
            batches_checked: Counter::default(),
            batches_that_differed: Counter::default(),
        }
    }
}
