//! Takes inputs of jobs out of their models' queues, asks the same routes as a click does, and notes what came of them.
//!
//! Each model has its own loop and its own places, so that a model which cannot answer holds up nobody else's jobs. What is being
//! worked on is said so every now and then; what a worker that died left behind is taken over. "Later" and "unreachable" are no
//! outcome: the input waits with its worker, however long it takes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db_api::jobs::{Delivery, Jobs, Outcome};
use open_inference::Platform;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::catalog::Catalog;
use crate::metrics::Metrics;
use crate::people::{Lane, People};
use crate::replay::{Reach, Replay, Replayed};
use crate::webhook::{WebhookSettings, Webhooks};

/// How often a queue, or a model, that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest until a model that said "later" is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// So often no answer in time is no answer.
const TRIES: u32 = 3;

/// What has begun when the service stops has so long to end; then others take it over.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// How often jobs whose time is over are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Works on jobs until it is stopped. Clones are the same worker.
#[derive(Clone)]
pub struct JobWorker {
    jobs: Jobs,
    catalog: Catalog,
    replay: Replay,
    metrics: Metrics,
    people: People,
    /// Inputs of one model at the same time.
    places: usize,
    claim_after: Duration,
    webhooks: Option<WebhookSettings>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// The loop of one model.
#[derive(Clone)]
struct Bench {
    worker: JobWorker,
    model: Arc<str>,
    places: Arc<Semaphore>,
    /// For when somebody waits for answers.
    lane: Lane,
    at_work: Arc<Mutex<HashSet<String>>>,
}

/// An input that is being worked on, for as long as this lives.
struct AtWork {
    bench: Bench,
    delivery: Delivery,
    _place: OwnedSemaphorePermit,
}

impl JobWorker {
    /// Works on at most `places` inputs of each model; on none if there are no places.
    pub fn new(
        jobs: Jobs,
        catalog: Catalog,
        replay: Replay,
        metrics: Metrics,
        people: People,
        places: usize,
        claim_after: Duration,
    ) -> Self {
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { jobs, catalog, replay, metrics, people, places, claim_after, webhooks: None, stopping, tasks }
    }

    /// Also tells of jobs that have ended, where it works on any.
    #[must_use]
    pub fn telling(self, webhooks: Option<WebhookSettings>) -> Self {
        Self { webhooks, ..self }
    }

    /// Begins a loop for each model that appears, and forgets old jobs. Ends when it is stopped.
    pub async fn run(self) {
        if let Some(settings) = self.webhooks.clone().filter(|_| self.places > 0) {
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
                () = self.stopping.cancelled() => return,
                _ = sweep.tick() => {
                    prepared = prepared || self.jobs.prepare().await.is_ok();
                    let _ = self.jobs.sweep().await;
                }
                _ = look.tick() => {
                    for model in self.catalog.known().defaults().filter(|model| self.places > 0 && model.platform != Platform::Queue) {
                        if known.insert(model.name.clone()) {
                            self.open(&model.name);
                        }
                    }
                }
            }
        }
    }

    fn open(&self, model: &str) {
        let bench = Bench {
            worker: self.clone(),
            model: model.into(),
            places: Arc::new(Semaphore::new(self.places)),
            lane: Lane::default(),
            at_work: Arc::default(),
        };
        self.tasks.spawn(bench.clone().take());
        self.tasks.spawn(bench.beat());
    }

    /// Takes nothing more, and waits for what has begun, but not for long.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        if timeout(LAST_MOMENTS, self.tasks.wait()).await.is_err() {
            warn!("inputs of jobs have not ended; another worker takes them over");
        }
    }
}

impl Bench {
    async fn take(self) {
        let look_for_left = self.worker.claim_after / 3;
        let mut looked = Instant::now();
        while !self.worker.stopping.is_cancelled() {
            if !self.model_is_ready() {
                self.pause(LOOK_EVERY).await;
                continue;
            }
            let Ok(mut places) = Arc::clone(&self.places).acquire_owned().await else { return };
            if let Ok(more) = Arc::clone(&self.places).try_acquire_many_owned(self.places.available_permits() as u32) {
                places.merge(more);
            }
            let jobs = &self.worker.jobs;
            // Neither is given up half way: what had just been delivered would wait for whoever takes it over.
            let taken = if looked.elapsed() >= look_for_left {
                looked = Instant::now();
                jobs.take_over(&self.model, places.num_permits()).await
            } else {
                jobs.take(&self.model, places.num_permits()).await
            };
            match taken {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        self.begin(delivery, places.split(1));
                    }
                }
                Err(_) => self.pause(LOOK_EVERY).await,
            }
        }
    }

    /// Says what is still being worked on.
    async fn beat(self) {
        let mut tick = interval(self.worker.claim_after / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.worker.stopping.cancelled() => return,
                _ = tick.tick() => {}
            }
            let entries: Vec<String> = self.at_work().iter().cloned().collect();
            if !entries.is_empty() {
                let _ = self.worker.jobs.beat(&self.model, &entries).await;
            }
        }
    }

    fn begin(&self, delivery: Delivery, place: Option<OwnedSemaphorePermit>) {
        let Some(place) = place else { return };
        self.at_work().insert(delivery.entry.clone());
        let input = AtWork { bench: self.clone(), delivery, _place: place };
        self.worker.tasks.spawn(input.work());
    }

    fn model_is_ready(&self) -> bool {
        let known = self.worker.catalog.known();
        known.reachable && known.defaults().any(|model| *model.name == *self.model && model.is_ready())
    }

    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.worker.stopping.cancelled()).await;
    }

    fn at_work(&self) -> MutexGuard<'_, HashSet<String>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AtWork {
    async fn work(self) {
        let JobWorker { jobs, metrics, people, replay, stopping, .. } = &self.bench.worker;
        // Where Redis does not answer, the input stays with us in its books, and is taken over later.
        let Ok(Some(work)) = jobs.begin(&self.delivery).await else { return };
        let mut tries = 0;
        let outcome = loop {
            let asked = replay.ask(&self.delivery.model, &work.asked, work.data.clone(), Reach::Model);
            match people.make_room(&self.bench.lane, asked).await {
                Replayed::Ended(outcome) => break outcome,
                Replayed::NoAnswer(outcome) if tries + 1 == TRIES => break outcome,
                Replayed::NoAnswer(_) => tries += 1,
                Replayed::Later(seconds) => {
                    self.bench.pause(Duration::from_secs(seconds).min(LONGEST_PAUSE)).await;
                    if stopping.is_cancelled() {
                        return;
                    }
                }
            }
        };
        // What has been computed is not thrown away because Redis is being started anew.
        while !stopping.is_cancelled() {
            match jobs.finish(&self.delivery, &outcome).await {
                Ok(counted) => {
                    let succeeded = matches!(outcome, Outcome::Answer(_));
                    let label = if !counted {
                        "not_counted"
                    } else if succeeded {
                        "succeeded"
                    } else {
                        "failed"
                    };
                    return metrics.job_input(&self.delivery.model, label);
                }
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.bench.at_work().remove(&self.delivery.entry);
    }
}
