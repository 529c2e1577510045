//! Job worker: takes inputs from the queues of their models, runs them, and records the outcomes.
//!
//! Each model has its own consumer with its own concurrency limit, so a model that cannot compute does not block jobs of other models.
//! A heartbeat renews the claims of inputs in flight; inputs of a worker that has died are claimed by another one. Overload and an
//! unreachable `model_api` are not outcomes: the input waits in its worker, however long it takes. Only a model that is broken or
//! missing for a long time fails its inputs.
//!
//! Shutdown has three steps. First, no further inputs are taken, and inputs that are not at a model go back to the queue immediately.
//! Inputs at a model have the drain timeout to finish and to be recorded. The rest then goes back to the queue as well.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use db_api::jobs::Jobs;
use open_inference::Platform;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::executor::JobExecutor;
use super::throttle::BackgroundThrottle;
use crate::metrics::Metrics;
use crate::settings::JobSettings;
use crate::upstream::catalog::Catalog;
use crate::webhook::delivery::WebhookDelivery;
use crate::webhook::settings::WebhookSettings;

/// Availability of a model.
mod availability;

/// Consumer of one model's queue.
mod consumer;

/// State that all consumers of a worker share.
mod context;

/// One input, from its delivery to its recorded outcome.
mod in_flight_input;

/// Retries of calls to the queue.
mod retries;

use consumer::ModelConsumer;
use context::{POLL_INTERVAL, WorkerContext};

/// Time between two removals of expired jobs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Works on jobs until it is stopped. Clones are the same worker.
#[derive(Clone)]
pub struct JobWorker {
    context: WorkerContext,
    webhooks: Option<WebhookSettings>,
}

impl JobWorker {
    /// Runs at most `settings.concurrency` inputs of each model concurrently; none if that is 0.
    pub fn new(
        jobs: Jobs,
        catalog: Catalog,
        executor: JobExecutor,
        metrics: Metrics,
        throttle: BackgroundThrottle,
        settings: JobSettings,
    ) -> Self {
        Self { context: WorkerContext::new(jobs, catalog, executor, metrics, throttle, settings), webhooks: None }
    }

    /// Also delivers webhooks, unless the concurrency is 0.
    #[must_use]
    pub fn with_webhooks(self, webhooks: Option<WebhookSettings>) -> Self {
        Self { webhooks, ..self }
    }

    /// Starts a consumer for each model that appears, and removes expired jobs. Never returns; after [`Self::stop`] it does nothing.
    pub async fn run(self) {
        let WorkerContext { jobs, stopping, tasks, .. } = &self.context;
        if let Some(settings) = self.webhooks.clone().filter(|_| self.context.settings.concurrency > 0) {
            let delivery = WebhookDelivery::new(jobs.clone(), settings, stopping.clone(), tasks.clone());
            tasks.spawn(delivery.run());
        }
        let mut models = HashSet::new();
        let mut prepared = false;
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut poll = interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return pending().await,
                _ = sweep.tick() => {
                    prepared = prepared || jobs.prepare().await.is_ok();
                    let _ = jobs.sweep().await;
                }
                _ = poll.tick() => self.start_consumers(&mut models),
            }
        }
    }

    /// Starts a consumer for each model that is not in `models` yet.
    fn start_consumers(&self, models: &mut HashSet<String>) {
        if self.context.settings.concurrency == 0 {
            return;
        }
        let snapshot = self.context.catalog.snapshot();
        for model in snapshot.defaults().filter(|model| model.platform != Platform::Queue) {
            if models.insert(model.name.clone()) {
                self.context.tasks.spawn(ModelConsumer::new(self.context.clone(), &model.name).run());
            }
        }
    }

    /// Takes no further inputs. Inputs that are not at a model go back to the queue immediately, the others after `drain_timeout`.
    pub fn stop(&self, drain_timeout: Duration) {
        self.context.stopping.cancel();
        self.context.tasks.close();
        let drained = self.context.drained.clone();
        tokio::spawn(async move {
            sleep(drain_timeout).await;
            drained.cancel();
        });
    }

    /// After [`Self::stop`], waits until each input has been recorded or is back in the queue, at most `HAND_BACK_TIMEOUT` longer than
    /// the drain timeout.
    pub async fn wait_until_stopped(&self) {
        tokio::select! {
            () = self.context.tasks.wait() => {}
            () = self.context.hand_back_timeout() => {
                warn!("unfinished inputs could not be handed back to the job queue in time; another worker will claim them");
            }
        }
    }
}
