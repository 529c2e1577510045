use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::cache_control::CacheStatus;

/// Metrics of results and jobs. Metrics of HTTP requests and of Redis are in other crates.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    answers: Family<OutcomeLabels, Counter>,
    inferences: Family<ModelLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    job_inputs: Family<OutcomeLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabel {
    error: &'static str,
}

impl Metrics {
    /// Registers the metrics. The registry adds the prefix of the service.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("answers", "Rows of results returned to clients, by cache outcome", metrics.answers.clone());
        registry.register("inferences", "Rows sent to model_api for inference", metrics.inferences.clone());
        registry.register("errors", "Inference requests that failed, by kind of error", metrics.errors.clone());
        registry.register(
            "job_inputs",
            "Inputs of jobs that this process has worked on, by outcome",
            metrics.job_inputs.clone(),
        );
        metrics
    }

    pub(crate) fn record_results(&self, model: &str, status: CacheStatus, rows: u64) {
        status.for_each_label(rows, |outcome, rows| {
            if rows > 0 {
                self.answers.get_or_create(&OutcomeLabels { model: model.to_owned(), outcome }).inc_by(rows);
            }
        });
    }

    pub(crate) fn record_inferences(&self, model: &str, rows: u64) {
        self.inferences.get_or_create(&ModelLabel { model: model.to_owned() }).inc_by(rows);
    }

    pub(crate) fn record_job_input(&self, model: &str, outcome: &'static str) {
        self.job_inputs.get_or_create(&OutcomeLabels { model: model.to_owned(), outcome }).inc();
    }

    pub(crate) fn record_error(&self, error: &'static str) {
        self.errors.get_or_create(&ErrorLabel { error }).inc();
    }
}
