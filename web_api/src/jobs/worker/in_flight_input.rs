use std::sync::Arc;
use std::time::Duration;

use db_api::jobs::{Delivery, JobError, Outcome, Work};
use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::availability::{Availability, ModelStatus};
use super::context::{POLL_INTERVAL, WorkerContext};
use super::retries::Retries;
use crate::jobs::executor::{Execution, Scope};
use crate::jobs::throttle::SerialSlot;

/// Upper bound of the delay after an overload, also where `Retry-After` is larger.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Attempts without a result in time before the input fails.
const MAX_ATTEMPTS: u32 = 3;

/// State that all inputs of a model share.
pub struct ModelContext {
    pub name: String,
    /// Used while interactive requests are served.
    pub slot: SerialSlot,
    pub availability: Availability,
}

/// An input that this process has claimed.
pub struct InFlightInput {
    context: WorkerContext,
    model: Arc<ModelContext>,
    delivery: Delivery,
}

/// Reason why an input ends without a recorded outcome.
enum Unfinished {
    /// The worker stops, and another one continues.
    HandBack,
    /// The input has been dropped from the queue, or cannot be recorded.
    Abandon,
}

impl ModelContext {
    /// Whether inputs of this model can run now.
    pub fn status(&self, context: &WorkerContext) -> ModelStatus {
        self.availability.status(&self.name, &context.catalog.snapshot())
    }
}

impl InFlightInput {
    /// Execution starts with [`Self::run`].
    pub fn new(context: WorkerContext, model: Arc<ModelContext>, delivery: Delivery) -> Self {
        Self { context, model, delivery }
    }

    /// Reads the input, runs the model, and records the outcome. Hands the input back if the worker stops before that.
    pub async fn run(self) {
        if let Err(Unfinished::HandBack) = self.finish().await {
            self.context.hand_back(std::slice::from_ref(&self.delivery)).await;
            self.context.metrics.record_job_input(&self.delivery.model, "handed_back");
        }
    }

    async fn finish(&self) -> Result<(), Unfinished> {
        let work = self.fetch().await?;
        let outcome = self.compute(work).await?;
        self.record(outcome).await
    }

    /// Reads the input from the queue.
    async fn fetch(&self) -> Result<Work, Unfinished> {
        let WorkerContext { jobs, stopping, .. } = &self.context;
        let mut retries = Retries::default();
        loop {
            let work = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Unfinished::HandBack),
                work = jobs.start(&self.delivery) => work,
            };
            match work {
                Ok(Some(work)) => return Ok(work),
                Ok(None) => return Err(Unfinished::Abandon),
                Err(error) if retries.is_permanent(&error, jobs, self.delivery.job).await => {
                    self.record(queue_failure("content", "read", &error)).await?;
                    return Err(Unfinished::Abandon);
                }
                Err(_) => self.context.pause(retries.delay()).await,
            }
        }
    }

    /// Runs the model.
    async fn compute(&self, work: Work) -> Result<Outcome, Unfinished> {
        let WorkerContext { throttle, executor, stopping, drained, .. } = &self.context;
        let mut attempts = 0;
        loop {
            let permit = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Unfinished::HandBack),
                permit = throttle.acquire(&self.model.slot) => permit,
            };
            match self.model.status(&self.context) {
                ModelStatus::Ready => {}
                ModelStatus::Waiting => {
                    drop(permit);
                    self.context.pause(POLL_INTERVAL).await;
                    continue;
                }
                ModelStatus::Failed(detail) => {
                    return Ok(Outcome::Error(json!({ "status": 503, "detail": detail }).to_string()));
                }
            }
            let execution = executor.execute(&self.delivery.model, &work.spec, work.data.clone(), Scope::Full);
            let result = tokio::select! {
                result = permit.run(execution) => result,
                () = drained.cancelled() => return Err(Unfinished::HandBack),
            };
            let pause = match result {
                Execution::Done(outcome) => return Ok(outcome),
                // The model is ready, but not in the requested version.
                Execution::ModelNotFound(outcome) if self.is_model_ready() && attempts + 1 >= MAX_ATTEMPTS => {
                    return Ok(outcome);
                }
                Execution::NoResult(outcome) if attempts + 1 >= MAX_ATTEMPTS => return Ok(outcome),
                Execution::NoResult(_) => Duration::ZERO,
                Execution::ModelNotFound(_) => MAX_RETRY_AFTER,
                Execution::RetryAfter(seconds) => Duration::from_secs(seconds).min(MAX_RETRY_AFTER),
            };
            attempts += u32::from(!matches!(result, Execution::RetryAfter(_)));
            self.context.pause(pause).await;
        }
    }

    fn is_model_ready(&self) -> bool {
        self.model.status(&self.context) == ModelStatus::Ready
    }

    /// Records the outcome. If the queue rejects it, records that error instead.
    async fn record(&self, mut outcome: Outcome) -> Result<(), Unfinished> {
        let WorkerContext { jobs, metrics, drained, .. } = &self.context;
        let mut retries = Retries::default();
        let mut is_replaced = false;
        loop {
            // Retried until the drain timeout: a restart of Redis must not discard the outcome.
            let recorded = tokio::select! {
                recorded = jobs.finish(&self.delivery, &outcome) => recorded,
                () = drained.cancelled() => return Err(Unfinished::HandBack),
            };
            match recorded {
                Ok(counted) => {
                    metrics.record_job_input(&self.delivery.model, metric_label(counted, &outcome));
                    return Ok(());
                }
                Err(error) if !retries.is_permanent(&error, jobs, self.delivery.job).await => {
                    let _ = timeout(retries.delay(), drained.cancelled()).await;
                }
                Err(error) if is_replaced => {
                    warn!(%error, model = self.delivery.model, "outcome of a job input cannot be recorded");
                    metrics.record_job_input(&self.delivery.model, "not_recorded");
                    return Err(Unfinished::Abandon);
                }
                Err(error) => {
                    let replacement = queue_failure("result", "recorded", &error);
                    (outcome, is_replaced, retries) = (replacement, true, Retries::default());
                }
            }
        }
    }
}

/// Outcome of an input whose content the queue cannot deliver, or whose result it cannot record.
fn queue_failure(what: &str, action: &str, error: &JobError) -> Outcome {
    let detail =
        format!("The {what} of this input could not be {action}: {error}. POST /jobs/{{id}}/retry tries it again.");
    Outcome::Error(json!({ "status": 500, "detail": detail }).to_string())
}

fn metric_label(counted: bool, outcome: &Outcome) -> &'static str {
    match outcome {
        _ if !counted => "not_counted",
        Outcome::Success(_) => "succeeded",
        Outcome::Error(_) => "failed",
    }
}
