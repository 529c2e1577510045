use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service::middleware::seconds_histogram;

use crate::session::Meters;

/// What `model_api` counts beside its requests.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Questions answered, or not, by outcome: `ok` or an error's label.
    pub predictions: Family<PredictionLabels, Counter>,
    /// Runs of sessions: how often a model really thought.
    pub runs: Family<ModelLabel, Counter>,
    /// Time of a run, the way to the session's process included.
    pub run_seconds: Family<ModelLabel, Histogram>,
    /// Sessions that died or did not start.
    pub session_restarts: Family<ModelLabel, Counter>,
    /// Versions loaded, or not, by outcome: `ok` or `failed`. Those whose files had not changed do not count.
    pub model_loads: Family<LoadLabels, Counter>,
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

impl Metrics {
    /// Registers `predictions_total`, `runs_total`, `run_seconds`, `session_restarts_total`, `model_loads_total` and
    /// `device_info`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            predictions: Family::default(),
            runs: Family::default(),
            run_seconds: Family::new_with_constructor(seconds_histogram),
            session_restarts: Family::default(),
            model_loads: Family::default(),
            devices: Family::default(),
        };
        registry.register("predictions", "Questions answered, or not, by outcome", metrics.predictions.clone());
        registry.register("runs", "Runs of sessions: how often a model really thought", metrics.runs.clone());
        registry.register("run_seconds", "Time of a run, the way to its process included", metrics.run_seconds.clone());
        registry.register("session_restarts", "Sessions that died or did not start", metrics.session_restarts.clone());
        registry.register("model_loads", "Versions loaded, or not, by outcome", metrics.model_loads.clone());
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
            restarts: self.session_restarts.get_or_create(&label).clone(),
            on_cpu: on("cpu"),
            on_cuda: on("cuda"),
        }
    }

    /// Notes what became of a load.
    pub fn loaded(&self, model: &str, outcome: &'static str) {
        self.model_loads.get_or_create(&LoadLabels { model: model.to_owned(), outcome }).inc();
    }

    /// Notes that a model runs on nothing any more.
    pub fn gone(&self, model: &str) {
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
