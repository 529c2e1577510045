//! Tells whoever wants to know that a job has ended: a POST of the job's JSON, signed.
//!
//! A server that calls addresses which its clients choose reaches what they cannot: other containers, the host, a cloud's metadata.
//! So there are no webhooks at all until `WEBHOOK_ALLOW` names hosts; a host's addresses are looked up here, held against
//! [`AllowList::permits`], and the connection goes to one of exactly those; no redirect is followed and no proxy is asked.
//!
//! Which webhooks are due stands where the jobs stand. Each is claimed for a while by one process, so that of several one calls; what
//! a process that died had claimed is due again. So it is called at least once, and always under the same `webhook-id`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use db_api::jobs::{Found, Job, Jobs, Tried, WebhookClaim};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::job_views::JobBody;

/// Which hosts and addresses may be called.
mod allow;

/// One call.
mod post;

/// What calls are signed with.
mod secret;

/// `WEBHOOK_ALLOW` and `WEBHOOK_SECRET`.
mod settings;

pub use allow::{AllowList, BadWebhook};
pub use secret::Secret;
pub use settings::WebhookSettings;

use post::{Poster, Undelivered};

/// How often is looked for webhooks that are due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// So many at the same time: one that does not answer holds up no other.
const PLACES: usize = 32;

/// Longer than one try can take. After that a process that claimed one has died.
const LEASE: Duration = Duration::from_mins(1);

/// Calls webhooks that are due until it is stopped.
#[derive(Clone)]
pub struct Webhooks {
    jobs: Jobs,
    settings: WebhookSettings,
    poster: Poster,
    places: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Webhooks {
    /// What begins is among `tasks`; nothing does any more once it is `stopping`.
    pub fn new(jobs: Jobs, settings: WebhookSettings, stopping: CancellationToken, tasks: TaskTracker) -> Self {
        let poster = Poster::new(settings.allow.clone());
        Self { jobs, settings, poster, places: Arc::new(Semaphore::new(PLACES)), stopping, tasks }
    }

    /// Ends when it is stopped.
    pub async fn run(self) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = look.tick() => {}
            }
            let free = self.places.available_permits();
            if free == 0 {
                continue;
            }
            for claim in self.jobs.claim_webhooks(free, LEASE).await.unwrap_or_default() {
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                self.tasks.spawn(self.clone().try_one(claim, place));
            }
        }
    }

    async fn try_one(self, claim: WebhookClaim, _place: OwnedSemaphorePermit) {
        let begun = Instant::now();
        // Where Redis does not answer, it is due again when the claim is over.
        let Ok(Found::Job(job)) = self.jobs.find(claim.job).await else { return };
        let Some(webhook) = &job.webhook else { return };
        let tried = match self.call(&job, &webhook.url).await {
            Ok(()) => Tried::Delivered,
            Err(error) => match self.settings.back_off.get((webhook.tries as usize).saturating_sub(1)) {
                Some(pause) => Tried::Again(*pause, error.to_string()),
                None => Tried::GivenUp(error.to_string()),
            },
        };
        // What was delivered is not delivered again because Redis is being started anew.
        while begun.elapsed() < LEASE {
            match self.jobs.settle_webhook(&claim, &tried).await {
                Ok(counted) => {
                    if let (true, Tried::GivenUp(error)) = (counted, &tried) {
                        // Neither the whole id nor the URL: whoever knows them may do something with them.
                        warn!(job = &job.id.to_string()[..8], tries = webhook.tries, error, "a webhook is given up");
                    }
                    return;
                }
                Err(_) if self.stopping.is_cancelled() => return,
                Err(_) => drop(timeout(LOOK_EVERY, self.stopping.cancelled()).await),
            }
        }
    }

    async fn call(&self, job: &Job, url: &str) -> Result<(), Undelivered> {
        // Again: the settings may have changed since the job was submitted.
        let url = self.settings.allow.check(url)?;
        let body = serde_json::to_vec(&JobBody::of(&self.jobs, job)).map_err(|_| Undelivered::NoBody)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        let headers = self.headers(&message_id(job), now, &body)?;
        self.poster.post(&url, headers, Bytes::from(body)).await
    }

    /// As the Standard Webhooks specification has them.
    fn headers(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<HeaderMap, Undelivered> {
        let signature = self.settings.secret.sign(id, timestamp, body);
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| Undelivered::NoBody);
        Ok(HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::HeaderName::from_static("webhook-id"), value(id)?),
            (header::HeaderName::from_static("webhook-timestamp"), timestamp.into()),
            (header::HeaderName::from_static("webhook-signature"), value(&signature)?),
        ]))
    }
}

/// The same for each try, another when the job was tried again and ended again. Without a full stop, which the signature's parts are
/// told apart by.
fn message_id(job: &Job) -> String {
    format!("{}-{}", job.id, job.finished_ms.unwrap_or_default())
}
