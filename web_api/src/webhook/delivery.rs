//! At-least-once delivery of webhooks that are due.
//!
//! The job queue stores which webhooks are due. A process claims each of them for a limited time, so only one process sends it. If the
//! process dies, the claim expires and the webhook is due again. All attempts have the same `webhook-id`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use db_api::jobs::{DeliveryAttempt, Job, JobLookup, Jobs, WebhookClaim};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::client::{DeliveryError, WebhookClient};
use super::settings::WebhookSettings;
use crate::job_views::JobBody;

/// Time between two checks for webhooks that are due.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Concurrent deliveries, so that a receiver that does not respond does not block others.
const MAX_CONCURRENT: usize = 32;

/// Time after which a claim expires. Longer than one attempt takes.
const CLAIM_TTL: Duration = Duration::from_mins(1);

/// Delivers webhooks until it is stopped.
#[derive(Clone)]
pub struct WebhookDelivery {
    jobs: Jobs,
    settings: WebhookSettings,
    client: WebhookClient,
    permits: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl WebhookDelivery {
    /// Spawns deliveries on `tasks`, until `stopping` is cancelled.
    pub fn new(jobs: Jobs, settings: WebhookSettings, stopping: CancellationToken, tasks: TaskTracker) -> Self {
        let client = WebhookClient::new(settings.allow.clone());
        Self { jobs, settings, client, permits: Arc::new(Semaphore::new(MAX_CONCURRENT)), stopping, tasks }
    }

    /// Claims and delivers webhooks that are due. Returns when it is stopped.
    pub async fn run(self) {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = poll.tick() => {}
            }
            let free = self.permits.available_permits();
            if free == 0 {
                continue;
            }
            for claim in self.jobs.claim_webhooks(free, CLAIM_TTL).await.unwrap_or_default() {
                let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
                self.tasks.spawn(self.clone().deliver(claim, permit));
            }
        }
    }

    /// Makes one attempt, and records its outcome.
    async fn deliver(self, claim: WebhookClaim, _permit: OwnedSemaphorePermit) {
        let started = Instant::now();
        // If Redis is unreachable, the webhook is due again when the claim expires.
        let Ok(JobLookup::Found(job)) = self.jobs.find(claim.job).await else { return };
        let Some(webhook) = &job.webhook else { return };
        let attempt = match self.send(&job, &webhook.url).await {
            Ok(()) => DeliveryAttempt::Delivered,
            Err(error) => match self.settings.retry_delays.get((webhook.attempts as usize).saturating_sub(1)) {
                Some(delay) => DeliveryAttempt::Retry(*delay, error.to_string()),
                None => DeliveryAttempt::GaveUp(error.to_string()),
            },
        };
        // Retried until the claim expires: a restart of Redis must not repeat a delivery.
        while started.elapsed() < CLAIM_TTL {
            match self.jobs.record_delivery(&claim, &attempt).await {
                Ok(recorded) => {
                    if let (true, DeliveryAttempt::GaveUp(error)) = (recorded, &attempt) {
                        // Without the URL and without the whole ID, because either may grant access.
                        let job = &job.id.to_string()[..8];
                        warn!(job, tries = webhook.attempts, error, "webhook delivery failed, no further attempts");
                    }
                    return;
                }
                Err(_) if self.stopping.is_cancelled() => return,
                Err(_) => drop(timeout(POLL_INTERVAL, self.stopping.cancelled()).await),
            }
        }
    }

    async fn send(&self, job: &Job, url: &str) -> Result<(), DeliveryError> {
        // Checked again, because the settings may have changed since the submission.
        let url = self.settings.allow.check(url)?;
        let body = serde_json::to_vec(&JobBody::of(&self.jobs, job)).map_err(|_| DeliveryError::Encoding)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let headers = self.headers(&message_id(job), now, &body)?;
        self.client.send(&url, headers, Bytes::from(body)).await
    }

    /// Headers of the Standard Webhooks specification.
    fn headers(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<HeaderMap, DeliveryError> {
        let signature = self.settings.secret.sign(id, timestamp, body);
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| DeliveryError::Encoding);
        Ok(HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (HeaderName::from_static("webhook-id"), value(id)?),
            (HeaderName::from_static("webhook-timestamp"), timestamp.into()),
            (HeaderName::from_static("webhook-signature"), value(&signature)?),
        ]))
    }
}

/// Identifies the message: the same for each attempt, and another one if the job is retried and finishes again. It contains no full
/// stop, which separates the parts of the signed content.
fn message_id(job: &Job) -> String {
    format!("{}-{}", job.id, job.finished_ms.unwrap_or_default())
}
