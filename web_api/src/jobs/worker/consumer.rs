use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use db_api::jobs::Delivery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::availability::{Availability, ModelStatus};
use super::context::{POLL_INTERVAL, WorkerContext};
use super::in_flight_input::{InFlightInput, ModelContext};
use crate::jobs::throttle::SerialSlot;

/// Takes inputs of one model while its concurrency limit allows, and runs each in a task of its own. Clones are the same consumer.
#[derive(Clone)]
pub struct ModelConsumer {
    context: WorkerContext,
    model: Arc<ModelContext>,
    permits: Arc<Semaphore>,
    /// Queue entries of the inputs in flight.
    claimed: Arc<Mutex<HashSet<String>>>,
}

/// Removes an entry from the inputs in flight when it is dropped.
struct Claim {
    consumer: ModelConsumer,
    entry: String,
    _permit: OwnedSemaphorePermit,
}

impl ModelConsumer {
    /// Consumption starts with [`Self::run`].
    pub fn new(context: WorkerContext, model: &str) -> Self {
        let permits = Arc::new(Semaphore::new(context.settings.concurrency));
        let availability = Availability::new(context.settings.unavailable_timeout);
        let model = Arc::new(ModelContext { name: model.to_owned(), slot: SerialSlot::default(), availability });
        Self { context, model, permits, claimed: Arc::default() }
    }

    /// Returns after the worker has stopped, when no input of this model is in flight.
    pub async fn run(self) {
        let _heartbeat = AbortOnDropHandle::new(tokio::spawn(self.clone().heartbeat_loop()));
        self.consume_loop().await;
        // Each input holds a permit until it is finished.
        let _ = self.permits.acquire_many(self.context.settings.concurrency as u32).await;
    }

    async fn consume_loop(&self) {
        let WorkerContext { jobs, settings, stopping, .. } = &self.context;
        let model = &self.model.name;
        let claim_interval = settings.limits.claim_timeout / 3;
        let mut last_claim = Instant::now();
        while !stopping.is_cancelled() {
            if self.model.status(&self.context) == ModelStatus::Waiting {
                self.context.pause(POLL_INTERVAL).await;
                continue;
            }
            let Some(mut permits) = self.free_permits().await else { return };
            // Neither call is cancelled: an input that has just been delivered would wait until its claim expires.
            let taken = if last_claim.elapsed() >= claim_interval {
                last_claim = Instant::now();
                jobs.claim_stale(model, permits.num_permits()).await
            } else {
                jobs.receive(model, permits.num_permits()).await
            };
            match taken {
                Ok(deliveries) if stopping.is_cancelled() => self.context.hand_back(&deliveries).await,
                Ok(deliveries) => {
                    for delivery in deliveries {
                        self.spawn_input(delivery, permits.split(1));
                    }
                }
                Err(_) => self.context.pause(POLL_INTERVAL).await,
            }
        }
    }

    /// All free permits, at least one; `None` when the worker stops first.
    async fn free_permits(&self) -> Option<OwnedSemaphorePermit> {
        let mut permits = tokio::select! {
            biased;
            () = self.context.stopping.cancelled() => return None,
            permit = Arc::clone(&self.permits).acquire_owned() => permit.ok()?,
        };
        let available = self.permits.available_permits() as u32;
        if let Ok(more) = Arc::clone(&self.permits).try_acquire_many_owned(available) {
            permits.merge(more);
        }
        Some(permits)
    }

    /// Renews the claims of the inputs in flight.
    async fn heartbeat_loop(self) {
        let WorkerContext { jobs, settings, .. } = &self.context;
        let mut tick = interval(settings.limits.claim_timeout / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let entries: Vec<String> = self.claimed().iter().cloned().collect();
            if !entries.is_empty() {
                let _ = jobs.heartbeat(&self.model.name, &entries).await;
            }
        }
    }

    fn spawn_input(&self, delivery: Delivery, permit: Option<OwnedSemaphorePermit>) {
        let Some(permit) = permit else { return };
        let entry = delivery.entry.clone();
        self.claimed().insert(entry.clone());
        let claim = Claim { consumer: self.clone(), entry, _permit: permit };
        let input = InFlightInput::new(self.context.clone(), Arc::clone(&self.model), delivery);
        self.context.tasks.spawn(async move {
            input.run().await;
            drop(claim);
        });
    }

    fn claimed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.consumer.claimed().remove(&self.entry);
    }
}
