//! Prometheus metrics. Their names begin with `model_api_`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service::instrument::seconds_histogram;

use crate::scheduler::{BatchingInfo, BatchingLabels, PoolMetrics};

/// Metrics of `model_api` beside those of its HTTP requests.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Inference requests by outcome: `ok` or the label of an error.
    pub predictions: Family<PredictionLabels, Counter>,
    /// Inference runs executed by sessions.
    pub runs: Family<ModelLabel, Counter>,
    /// Duration of a run, including the transfer to the session process.
    pub run_seconds: Family<ModelLabel, Histogram>,
    /// Rows per batch.
    pub batch_rows: Family<ModelLabel, Histogram>,
    /// Rows in the queue.
    pub queue_rows: Family<ModelLabel, Gauge>,
    /// Time that requests spent in the queue.
    pub queue_seconds: Family<ModelLabel, Histogram>,
    /// Requests rejected because the queue was full.
    pub queue_refusals: Family<ModelLabel, Counter>,
    /// Sessions that crashed or failed to start.
    pub session_restarts: Family<ModelLabel, Counter>,
    /// Sessions replaced because their memory had grown.
    pub session_replacements: Family<ModelLabel, Counter>,
    /// Loads of model versions by outcome: `ok` or `failed`. Loads of unchanged files do not count.
    pub model_loads: Family<LoadLabels, Counter>,
    /// Whether requests share a batch, and why: 1 for the current state.
    pub batching: Family<BatchingLabels, Gauge>,
    /// Batches whose requests were run again one by one to compare the results.
    pub batching_checks: Family<ModelLabel, Counter>,
    /// Checked batches whose results differed.
    pub batching_differences: Family<ModelLabel, Counter>,
    /// Device of a model: 1 for the device of the session that was started last.
    pub devices: Family<DeviceLabels, Gauge>,
}

/// Label of metrics per model.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "a label")]
pub struct ModelLabel {
    pub model: String,
}

/// Labels of `predictions_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct PredictionLabels {
    pub model: String,
    pub version: String,
    pub outcome: &'static str,
}

/// Labels of `model_loads_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct LoadLabels {
    pub model: String,
    pub outcome: &'static str,
}

/// Labels of `device_info`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct DeviceLabels {
    pub model: String,
    pub device: String,
}

impl Metrics {
    /// Registers `predictions_total`, `runs_total`, `run_seconds`, `batch_rows`, `queue_rows`, `queue_seconds`,
    /// `queue_refusals_total`, `session_restarts_total`, `session_replacements_total`, `model_loads_total`, `batching_info`,
    /// `batching_checks_total`, `batching_differences_total` and `device_info`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            predictions: Family::default(),
            runs: Family::default(),
            run_seconds: Family::new_with_constructor(seconds_histogram),
            batch_rows: Family::new_with_constructor(rows_histogram),
            queue_rows: Family::default(),
            queue_seconds: Family::new_with_constructor(seconds_histogram),
            queue_refusals: Family::default(),
            session_restarts: Family::default(),
            session_replacements: Family::default(),
            model_loads: Family::default(),
            batching: Family::default(),
            batching_checks: Family::default(),
            batching_differences: Family::default(),
            devices: Family::default(),
        };
        registry.register("predictions", "Inference requests by outcome", metrics.predictions.clone());
        registry.register("runs", "Inference runs executed by sessions", metrics.runs.clone());
        registry.register(
            "run_seconds",
            "Duration of a run, including the transfer to the session process",
            metrics.run_seconds.clone(),
        );
        registry.register("batch_rows", "Rows per batch", metrics.batch_rows.clone());
        registry.register("queue_rows", "Rows in the queue", metrics.queue_rows.clone());
        registry.register("queue_seconds", "Time that requests spent in the queue", metrics.queue_seconds.clone());
        registry.register(
            "queue_refusals",
            "Requests rejected because the queue was full",
            metrics.queue_refusals.clone(),
        );
        registry.register(
            "session_restarts",
            "Sessions that crashed or failed to start",
            metrics.session_restarts.clone(),
        );
        registry.register(
            "session_replacements",
            "Sessions replaced because their memory had grown",
            metrics.session_replacements.clone(),
        );
        registry.register("model_loads", "Loads of model versions by outcome", metrics.model_loads.clone());
        registry.register("batching_info", "Whether requests share a batch, and why", metrics.batching.clone());
        registry.register(
            "batching_checks",
            "Batches whose requests were run again one by one to compare the results",
            metrics.batching_checks.clone(),
        );
        registry.register(
            "batching_differences",
            "Checked batches whose results differed",
            metrics.batching_differences.clone(),
        );
        registry.register("device_info", "Device of a model", metrics.devices.clone());
        metrics
    }

    /// The metrics of one model's pool.
    pub fn pool_metrics(&self, model: &str) -> PoolMetrics {
        let label = ModelLabel { model: model.to_owned() };
        let device_gauge = |device: &str| {
            let labels = DeviceLabels { model: model.to_owned(), device: device.to_owned() };
            self.devices.get_or_create(&labels).clone()
        };
        PoolMetrics {
            runs: self.runs.get_or_create(&label).clone(),
            run_seconds: self.run_seconds.get_or_create(&label).clone(),
            batch_rows: self.batch_rows.get_or_create(&label).clone(),
            queue_rows: self.queue_rows.get_or_create(&label).clone(),
            queue_seconds: self.queue_seconds.get_or_create(&label).clone(),
            refused: self.queue_refusals.get_or_create(&label).clone(),
            restarts: self.session_restarts.get_or_create(&label).clone(),
            replacements: self.session_replacements.get_or_create(&label).clone(),
            on_cpu: device_gauge("cpu"),
            on_cuda: device_gauge("cuda"),
            batching: self.batching_info(model),
            batches_checked: self.batching_checks.get_or_create(&label).clone(),
            batches_that_differed: self.batching_differences.get_or_create(&label).clone(),
        }
    }

    /// Counts the load of a model version.
    pub fn record_load(&self, model: &str, outcome: &'static str) {
        self.model_loads.get_or_create(&LoadLabels { model: model.to_owned(), outcome }).inc();
    }

    fn batching_info(&self, model: &str) -> BatchingInfo {
        BatchingInfo::new(model, self.batching.clone())
    }

    /// Removes the information gauges of a model that was unloaded.
    pub fn clear_model(&self, model: &str) {
        self.batching_info(model).clear();
        for device in ["cpu", "cuda"] {
            self.devices.remove(&DeviceLabels { model: model.to_owned(), device: device.to_owned() });
        }
    }

    /// Counts an inference request.
    pub fn record_prediction(&self, model: &str, version: &str, outcome: &'static str) {
        let labels = PredictionLabels { model: model.to_owned(), version: version.to_owned(), outcome };
        self.predictions.get_or_create(&labels).inc();
    }
}

/// Buckets are powers of two up to 1024 rows.
fn rows_histogram() -> Histogram {
    Histogram::new((0..11).map(|power| f64::from(1_u32 << power)))
}
