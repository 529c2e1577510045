use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::steering::Provenance;

/// What `web_api` counts beside requests and Redis.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    answers: Family<AnswerLabels, Counter>,
    inferences: Family<ModelLabel, Counter>,
    errors: Family<ErrorLabel, Counter>,
    job_inputs: Family<AnswerLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
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
    /// Registers them; the registry carries the service's prefix.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "answers",
            "Answers given, counted in rows, by where they came from",
            metrics.answers.clone(),
        );
        registry.register("inferences", "Rows that model_api was asked", metrics.inferences.clone());
        registry.register("errors", "Questions that got an error, by kind", metrics.errors.clone());
        registry.register(
            "job_inputs",
            "Inputs of jobs that this process has worked on, by what came of them",
            metrics.job_inputs.clone(),
        );
        metrics
    }

    pub(crate) fn answered(&self, model: &str, provenance: Provenance, rows: u64) {
        provenance.each_label(rows, |outcome, rows| {
            if rows > 0 {
                self.answers.get_or_create(&AnswerLabels { model: model.to_owned(), outcome }).inc_by(rows);
            }
        });
    }

    pub(crate) fn inferred(&self, model: &str, rows: u64) {
        self.inferences.get_or_create(&ModelLabel { model: model.to_owned() }).inc_by(rows);
    }

    pub(crate) fn job_input(&self, model: &str, outcome: &'static str) {
        self.job_inputs.get_or_create(&AnswerLabels { model: model.to_owned(), outcome }).inc();
    }

    pub(crate) fn failed(&self, error: &'static str) {
        self.errors.get_or_create(&ErrorLabel { error }).inc();
    }
}
