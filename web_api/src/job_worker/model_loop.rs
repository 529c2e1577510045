use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use db_api::jobs::Delivery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::availability::{Availability, Outlook};
use super::input::Input;
use super::{JobWorker, LOOK_EVERY};
use crate::people::Lane;

/// Pause before the queue is asked again to take inputs back.
const HAND_BACK_RETRY_DELAY: Duration = Duration::from_millis(200);

/// The loop of one model: takes inputs while there are places, and hands them to tasks of their own. Clones are the same loop.
#[derive(Clone)]
pub struct ModelLoop {
    pub(super) worker: JobWorker,
    pub(super) model: Arc<str>,
    /// For when somebody waits for answers.
    pub(super) lane: Lane,
    places: Arc<Semaphore>,
    availability: Arc<Availability>,
    /// Entries that this process holds.
    held: Arc<Mutex<HashSet<String>>>,
}

impl ModelLoop {
    /// Does nothing before it is run.
    pub fn new(worker: JobWorker, model: &str) -> Self {
        Self {
            model: model.into(),
            lane: Lane::default(),
            places: Arc::new(Semaphore::new(worker.settings.concurrency)),
            availability: Arc::new(Availability::new(worker.settings.unavailable_timeout)),
            held: Arc::default(),
            worker,
        }
    }

    /// Ends after the worker's stop, when no input of this model is held any more.
    pub async fn run(self) {
        let _heartbeat = AbortOnDropHandle::new(tokio::spawn(self.clone().beat()));
        self.take().await;
        // Each input has a place until it has ended.
        let _ = self.places.acquire_many(self.worker.settings.concurrency as u32).await;
    }

    async fn take(&self) {
        let look_for_left = self.worker.settings.limits.claim_timeout / 3;
        let mut looked = Instant::now();
        while !self.worker.stopping.is_cancelled() {
            if self.outlook() == Outlook::Waiting {
                self.pause(LOOK_EVERY).await;
                continue;
            }
            let Some(mut places) = self.free_places().await else { return };
            let jobs = &self.worker.jobs;
            // Neither is given up half way: what had just been delivered would wait for whoever takes it over.
            let taken = if looked.elapsed() >= look_for_left {
                looked = Instant::now();
                jobs.claim_stale(&self.model, places.num_permits()).await
            } else {
                jobs.receive(&self.model, places.num_permits()).await
            };
            match taken {
                Ok(deliveries) if self.worker.stopping.is_cancelled() => self.hand_back(&deliveries).await,
                Ok(deliveries) => {
                    for delivery in deliveries {
                        self.begin(delivery, places.split(1));
                    }
                }
                Err(_) => self.pause(LOOK_EVERY).await,
            }
        }
    }

    /// All that are free, one at the least; `None` when the worker stops first.
    async fn free_places(&self) -> Option<OwnedSemaphorePermit> {
        let mut places = tokio::select! {
            biased;
            () = self.worker.stopping.cancelled() => return None,
            place = Arc::clone(&self.places).acquire_owned() => place.ok()?,
        };
        if let Ok(more) = Arc::clone(&self.places).try_acquire_many_owned(self.places.available_permits() as u32) {
            places.merge(more);
        }
        Some(places)
    }

    /// Says what is still being worked on.
    async fn beat(self) {
        let mut tick = interval(self.worker.settings.limits.claim_timeout / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let entries: Vec<String> = self.held().iter().cloned().collect();
            if !entries.is_empty() {
                let _ = self.worker.jobs.heartbeat(&self.model, &entries).await;
            }
        }
    }

    fn begin(&self, delivery: Delivery, place: Option<OwnedSemaphorePermit>) {
        let Some(place) = place else { return };
        self.held().insert(delivery.entry.clone());
        self.worker.tasks.spawn(Input::new(self.clone(), delivery, place).work());
    }

    /// Gives inputs back to the queue, which gives them to other workers at once. Retries until the worker has to end.
    pub(super) async fn hand_back(&self, deliveries: &[Delivery]) {
        if deliveries.is_empty() {
            return;
        }
        let hand_back = async {
            while self.worker.jobs.requeue(deliveries).await.is_err() {
                sleep(HAND_BACK_RETRY_DELAY).await;
            }
        };
        tokio::select! {
            () = hand_back => {}
            () = self.worker.hand_back_timeout() => {}
        }
    }

    /// What the inputs of this model can do now.
    pub(super) fn outlook(&self) -> Outlook {
        self.availability.of(&self.model, &self.worker.catalog.known())
    }

    /// Not after the worker's stop.
    pub(super) async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.worker.stopping.cancelled()).await;
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashSet<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
