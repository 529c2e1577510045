use open_inference::{Batching, RowDependence};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service::instrument::seconds_histogram;

use crate::pool::Meters;

/// What `model_api` counts beside its requests.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Questions answered, or not, by outcome: `ok` or an error's label.
    pub predictions: Family<PredictionLabels, Counter>,
    /// Runs of sessions: how often a model really thought.
    pub runs: Family<ModelLabel, Counter>,
    /// Time of a run, the way to the session's process included.
    pub run_seconds: Family<ModelLabel, Histogram>,
    /// Rows that were run together.
    pub batch_rows: Family<ModelLabel, Histogram>,
    /// Rows that wait for a session.
    pub queue_rows: Family<ModelLabel, Gauge>,
    /// Time that requests waited before their run.
    pub queue_seconds: Family<ModelLabel, Histogram>,
    /// Requests that found no room in the queue.
    pub queue_refusals: Family<ModelLabel, Counter>,
    /// Sessions that died or did not start.
    pub session_restarts: Family<ModelLabel, Counter>,
    /// Sessions that were replaced because their memory had grown.
    pub session_replacements: Family<ModelLabel, Counter>,
    /// Versions loaded, or not, by outcome: `ok` or `failed`. Those whose files had not changed do not count.
    pub model_loads: Family<LoadLabels, Counter>,
    /// Whether requests of different callers run in one batch, and why: 1 for what holds now.
    pub batching: Family<BatchingLabels, Gauge>,
    /// Batches whose requests were run again one by one, to compare the results.
    pub batching_checks: Family<ModelLabel, Counter>,
    /// Those whose results differed.
    pub batching_differences: Family<ModelLabel, Counter>,
    /// What a model runs on: 1 for the device that its last session was started on.
    pub devices: Family<DeviceLabels, Gauge>,
}

/// A model.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "a label")]
pub struct ModelLabel {
    pub model: String,
}

/// What became of a question.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct PredictionLabels {
    pub model: String,
    pub version: String,
    pub outcome: &'static str,
}

/// What became of a load.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct LoadLabels {
    pub model: String,
    pub outcome: &'static str,
}

/// A model and a device.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct DeviceLabels {
    pub model: String,
    pub device: String,
}

/// A model, and whether its requests run in one batch.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
#[allow(missing_docs, reason = "labels")]
pub struct BatchingLabels {
    pub model: String,
    pub rows: &'static str,
    pub enabled: &'static str,
}

/// The gauge `batching_info` of one model.
#[derive(Clone, Debug)]
pub struct BatchingInfo {
    model: String,
    gauges: Family<BatchingLabels, Gauge>,
}

impl BatchingInfo {
    /// This holds now, and nothing else.
    pub fn set(&self, batching: &Batching) {
        self.clear();
        let enabled = if batching.enabled { "true" } else { "false" };
        self.gauges.get_or_create(&self.labels(batching.rows, enabled)).set(1);
    }

    fn clear(&self) {
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

impl Metrics {
    /// Registers `predictions_total`, `runs_total`, `run_seconds`, `batch_rows`, `queue_rows`, `queue_seconds`,
    /// `queue_refusals_total`, `session_restarts_total`, `session_replacements_total`, `model_loads_total`, `batching_info`, `batching_checks_total`,
    /// `batching_differences_total` and `device_info`.
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
        registry.register("predictions", "Questions answered, or not, by outcome", metrics.predictions.clone());
        registry.register("runs", "Runs of sessions: how often a model really thought", metrics.runs.clone());
        registry.register("run_seconds", "Time of a run, the way to its process included", metrics.run_seconds.clone());
        registry.register("batch_rows", "Rows that were run together", metrics.batch_rows.clone());
        registry.register("queue_rows", "Rows that wait for a session", metrics.queue_rows.clone());
        registry.register("queue_seconds", "Time that requests waited before their run", metrics.queue_seconds.clone());
        registry.register("queue_refusals", "Requests that found no room in the queue", metrics.queue_refusals.clone());
        registry.register("session_restarts", "Sessions that died or did not start", metrics.session_restarts.clone());
        registry.register(
            "session_replacements",
            "Sessions that were replaced because their memory had grown",
            metrics.session_replacements.clone(),
        );
        registry.register("model_loads", "Versions loaded, or not, by outcome", metrics.model_loads.clone());
        registry.register("batching_info", "Whether requests run in one batch, and why", metrics.batching.clone());
        registry.register(
            "batching_checks",
            "Batches whose requests were run again one by one, to compare",
            metrics.batching_checks.clone(),
        );
        registry.register(
            "batching_differences",
            "Batches whose results were not those of their requests alone",
            metrics.batching_differences.clone(),
        );
        registry.register("device_info", "What a model runs on", metrics.devices.clone());
        metrics
    }

    /// What a model's sessions count.
    pub fn session(&self, model: &str) -> Meters {
        let label = ModelLabel { model: model.to_owned() };
        let on = |device: &str| {
            let labels = DeviceLabels { model: model.to_owned(), device: device.to_owned() };
            self.devices.get_or_create(&labels).clone()
        };
        Meters {
            runs: self.runs.get_or_create(&label).clone(),
            run_seconds: self.run_seconds.get_or_create(&label).clone(),
            batch_rows: self.batch_rows.get_or_create(&label).clone(),
            queue_rows: self.queue_rows.get_or_create(&label).clone(),
            queue_seconds: self.queue_seconds.get_or_create(&label).clone(),
            refused: self.queue_refusals.get_or_create(&label).clone(),
            restarts: self.session_restarts.get_or_create(&label).clone(),
            replacements: self.session_replacements.get_or_create(&label).clone(),
            on_cpu: on("cpu"),
            on_cuda: on("cuda"),
            batching: self.batching_of(model),
            batches_checked: self.batching_checks.get_or_create(&label).clone(),
            batches_that_differed: self.batching_differences.get_or_create(&label).clone(),
        }
    }

    /// Notes what became of a load.
    pub fn loaded(&self, model: &str, outcome: &'static str) {
        self.model_loads.get_or_create(&LoadLabels { model: model.to_owned(), outcome }).inc();
    }

    fn batching_of(&self, model: &str) -> BatchingInfo {
        BatchingInfo { model: model.to_owned(), gauges: self.batching.clone() }
    }

    /// Notes that a model runs on nothing any more.
    pub fn gone(&self, model: &str) {
        self.batching_of(model).clear();
        for device in ["cpu", "cuda"] {
            self.devices.remove(&DeviceLabels { model: model.to_owned(), device: device.to_owned() });
        }
    }

    /// Notes what became of a question.
    pub fn predicted(&self, model: &str, version: &str, outcome: &'static str) {
        let labels = PredictionLabels { model: model.to_owned(), version: version.to_owned(), outcome };
        self.predictions.get_or_create(&labels).inc();
    }
}

/// Powers of two up to what one batch of small rows may hold.
fn rows_histogram() -> Histogram {
    Histogram::new((0..11).map(|power| f64::from(1_u32 << power)))
}
