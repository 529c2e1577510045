//! Takes inputs of jobs out of their models' queues, asks the same routes as a click does, and notes what came of them.
//!
//! Each model has its own loop and its own places, so that a model which cannot answer holds up nobody else's jobs. What is being
//! worked on is said so every now and then; what a worker that died left behind is taken over. "Later" and "unreachable" are no
//! outcome: the input waits with its worker, however long it takes. Only a model that is broken or gone for long fails its inputs.
//!
//! A stop has three steps. No further input is taken, and inputs that no model works on go back to the queue at once. Inputs at a
//! model have the drain time to end and to be recorded. What is left then goes back to the queue as well.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use db_api::jobs::Jobs;
use open_inference::Platform;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::catalog::Catalog;
use crate::metrics::Metrics;
use crate::people::People;
use crate::replay::Replay;
use crate::settings::JobSettings;
use crate::webhook::{WebhookSettings, Webhooks};

/// How long a model has been unavailable.
mod availability;

/// One input, from its delivery to its record.
mod input;

/// The loop of one model.
mod model_loop;

use model_loop::ModelLoop;

/// How often a queue, or a model, that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often jobs whose time is over are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Time after the drain time for inputs to go back to the queue. Both together are below the `stop_grace_period` of
/// `docker-compose.yml`.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(3);

/// Works on jobs until it is stopped. Clones are the same worker.
#[derive(Clone)]
pub struct JobWorker {
    jobs: Jobs,
    catalog: Catalog,
    replay: Replay,
    metrics: Metrics,
    people: People,
    settings: JobSettings,
    webhooks: Option<WebhookSettings>,
    /// Nothing more is taken.
    stopping: CancellationToken,
    /// The drain time is over.
    drained: CancellationToken,
    tasks: TaskTracker,
}

impl JobWorker {
    /// Works on at most `settings.concurrency` inputs of each model; on none if that is 0.
    pub fn new(
        jobs: Jobs,
        catalog: Catalog,
        replay: Replay,
        metrics: Metrics,
        people: People,
        settings: JobSettings,
    ) -> Self {
        let (stopping, drained, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        Self { jobs, catalog, replay, metrics, people, settings, webhooks: None, stopping, drained, tasks }
    }

    /// Also tells of jobs that have ended, where it works on any.
    #[must_use]
    pub fn telling(self, webhooks: Option<WebhookSettings>) -> Self {
        Self { webhooks, ..self }
    }

    /// Begins a loop for each model that appears, and forgets old jobs. Never returns: after [`Self::stop`] it does nothing.
    pub async fn run(self) {
        if let Some(settings) = self.webhooks.clone().filter(|_| self.settings.concurrency > 0) {
            let webhooks = Webhooks::new(self.jobs.clone(), settings, self.stopping.clone(), self.tasks.clone());
            self.tasks.spawn(webhooks.run());
        }
        let mut known = HashSet::new();
        let mut prepared = false;
        let mut sweep = interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return pending().await,
                _ = sweep.tick() => {
                    prepared = prepared || self.jobs.prepare().await.is_ok();
                    let _ = self.jobs.sweep().await;
                }
                _ = look.tick() => self.begin_loops(&mut known),
            }
        }
    }

    fn begin_loops(&self, known: &mut HashSet<String>) {
        if self.settings.concurrency == 0 {
            return;
        }
        for model in self.catalog.known().defaults().filter(|model| model.platform != Platform::Queue) {
            if known.insert(model.name.clone()) {
                self.tasks.spawn(ModelLoop::new(self.clone(), &model.name).run());
            }
        }
    }

    /// Takes nothing more. Inputs that no model works on go back to the queue at once, the others after `drain_timeout`.
    pub fn stop(&self, drain_timeout: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        let drained = self.drained.clone();
        tokio::spawn(async move {
            sleep(drain_timeout).await;
            drained.cancel();
        });
    }

    /// Waits, after [`Self::stop`], until each input is recorded or back in the queue: at most [`HAND_BACK_TIMEOUT`] longer than the drain
    /// time.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.hand_back_timeout() => {
                warn!("the queue did not take unfinished inputs of jobs back; another worker takes them over");
            }
        }
    }

    /// Resolves when there is no time left to give inputs back.
    async fn hand_back_timeout(&self) {
        self.drained.cancelled().await;
        sleep(HAND_BACK_TIMEOUT).await;
    }
}
