use std::time::Duration;

use db_api::jobs::{Delivery, JobError, Outcome, Work};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::availability::Outlook;
use super::model_loop::ModelLoop;
use super::{JobWorker, LOOK_EVERY};
use crate::replay::{Reach, Replayed};

/// The longest until a model that said "later" is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So often no answer in time is no answer.
const TRIES: u32 = 3;

/// Pauses between calls to a queue that does not answer: doubled each time, up to the longest.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(100);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// So often a queue that answers other calls may fail to take a result, before the result is taken for the cause.
const MAX_REJECTIONS: u32 = 8;

/// An input that this process holds, for as long as this lives.
pub struct Input {
    of: ModelLoop,
    delivery: Delivery,
    _place: OwnedSemaphorePermit,
}

/// Why an input ends here without a record.
enum Unfinished {
    /// The worker stops: another one is to have it.
    HandBack,
    /// There is nothing to do for it, or nothing that can be done.
    Leave,
}

/// Whether a call to the queue is to be made again.
#[derive(Clone, Copy, Debug, Default)]
struct Retries {
    failed: u32,
    rejected: u32,
}

impl Input {
    /// Does nothing before it is worked on.
    pub fn new(of: ModelLoop, delivery: Delivery, place: OwnedSemaphorePermit) -> Self {
        Self { of, delivery, _place: place }
    }

    /// From the queue to the model, and with the outcome back to the queue.
    pub async fn work(self) {
        if let Err(Unfinished::HandBack) = self.finish().await {
            self.of.hand_back(std::slice::from_ref(&self.delivery)).await;
            self.of.worker.metrics.record_job_input(&self.delivery.model, "handed_back");
        }
    }

    async fn finish(&self) -> Result<(), Unfinished> {
        let work = self.fetch().await?;
        let outcome = self.compute(work).await?;
        self.record(outcome).await
    }

    /// What the input is.
    async fn fetch(&self) -> Result<Work, Unfinished> {
        let JobWorker { jobs, stopping, .. } = &self.of.worker;
        let mut retries = Retries::default();
        loop {
            let begun = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Unfinished::HandBack),
                begun = jobs.begin(&self.delivery) => begun,
            };
            match begun {
                Ok(Some(work)) => return Ok(work),
                Ok(None) => return Err(Unfinished::Leave),
                Err(error) if self.is_permanent(&error, &mut retries).await => {
                    self.record(unusable("read", &error)).await?;
                    return Err(Unfinished::Leave);
                }
                Err(_) => self.of.pause(retries.delay()).await,
            }
        }
    }

    /// What comes of it.
    async fn compute(&self, work: Work) -> Result<Outcome, Unfinished> {
        let JobWorker { people, replay, stopping, drained, .. } = &self.of.worker;
        let mut tries = 0;
        loop {
            let turn = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(Unfinished::HandBack),
                turn = people.turn(&self.of.lane) => turn,
            };
            match self.of.outlook() {
                Outlook::Ready => {}
                Outlook::Waiting => {
                    drop(turn);
                    self.of.pause(LOOK_EVERY).await;
                    continue;
                }
                Outlook::Failed(detail) => {
                    return Ok(Outcome::Error(json!({ "status": 503, "detail": detail }).to_string()));
                }
            }
            let asked = replay.ask(&self.delivery.model, &work.asked, work.data.clone(), Reach::Model);
            let replayed = tokio::select! {
                replayed = turn.run(asked) => replayed,
                () = drained.cancelled() => return Err(Unfinished::HandBack),
            };
            let pause = match replayed {
                Replayed::Ended(outcome) => return Ok(outcome),
                // The default version answers, but not the one that is asked for.
                Replayed::NoModel(outcome) if self.of.outlook() == Outlook::Ready && tries + 1 >= TRIES => {
                    return Ok(outcome);
                }
                Replayed::NoAnswer(outcome) if tries + 1 >= TRIES => return Ok(outcome),
                Replayed::NoAnswer(_) => Duration::ZERO,
                Replayed::NoModel(_) => LONGEST_PAUSE,
                Replayed::Later(seconds) => Duration::from_secs(seconds).min(LONGEST_PAUSE),
            };
            tries += u32::from(!matches!(replayed, Replayed::Later(_)));
            self.of.pause(pause).await;
        }
    }

    /// Notes the outcome; in its place an error that says so, where the queue does not take it.
    async fn record(&self, mut outcome: Outcome) -> Result<(), Unfinished> {
        let JobWorker { jobs, metrics, drained, .. } = &self.of.worker;
        let mut retries = Retries::default();
        let mut is_replaced = false;
        loop {
            // What has been computed is not thrown away because Redis is being started anew.
            let recorded = tokio::select! {
                recorded = jobs.finish(&self.delivery, &outcome) => recorded,
                () = drained.cancelled() => return Err(Unfinished::HandBack),
            };
            match recorded {
                Ok(counted) => {
                    metrics.record_job_input(&self.delivery.model, label(counted, &outcome));
                    return Ok(());
                }
                Err(error) if !self.is_permanent(&error, &mut retries).await => {
                    let _ = tokio::time::timeout(retries.delay(), drained.cancelled()).await;
                }
                Err(error) if is_replaced => {
                    warn!(%error, model = self.delivery.model, "the queue takes no outcome of an input of a job");
                    metrics.record_job_input(&self.delivery.model, "not_recorded");
                    return Err(Unfinished::Leave);
                }
                Err(error) => {
                    (outcome, is_replaced, retries) = (unusable("recorded", &error), true, Retries::default());
                }
            }
        }
    }

    /// Whether another call with the same content cannot succeed: by the kind of the error, or because the queue has refused it several times
    /// while it answered other calls.
    async fn is_permanent(&self, error: &JobError, retries: &mut Retries) -> bool {
        retries.failed += 1;
        match error {
            JobError::Full => false,
            JobError::Unavailable => {
                let answers = self.of.worker.jobs.find(self.delivery.job).await.is_ok();
                retries.rejected = if answers { retries.rejected + 1 } else { 0 };
                retries.rejected >= MAX_REJECTIONS
            }
            _ => true,
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.of.held().remove(&self.delivery.entry);
    }
}

impl Retries {
    fn delay(self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failed.saturating_sub(1));
        MIN_RETRY_DELAY.saturating_mul(doubled).min(MAX_RETRY_DELAY)
    }
}

/// The outcome of an input that the queue does not give, or whose result it does not take.
fn unusable(what: &str, error: &JobError) -> Outcome {
    let detail = format!(
        "The {} of this input could not be {what}: {error}. POST /jobs/{{id}}/retry tries it again.",
        if what == "read" { "content" } else { "result" }
    );
    Outcome::Error(json!({ "status": 500, "detail": detail }).to_string())
}

fn label(counted: bool, outcome: &Outcome) -> &'static str {
    match outcome {
        _ if !counted => "not_counted",
        Outcome::Answer(_) => "succeeded",
        Outcome::Error(_) => "failed",
    }
}
