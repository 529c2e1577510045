//! Webhook claims of the in-memory queue.

use std::time::Duration;

use tokio::time::Instant;

use super::InMemoryJobs;
use super::job::JobState;
use super::state::State;
use crate::jobs::webhook::{DeliveryAttempt, DeliveryStatus, WebhookClaim};

impl InMemoryJobs {
    pub(in crate::jobs) fn claim_webhooks(&self, limit: usize, lease: Duration) -> Vec<WebhookClaim> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { jobs, claims, .. } = &mut *state;
        let is_due = |job: &&mut JobState| job.webhook_due.is_some_and(|(due, _)| due <= now);
        let claim = |job: &mut JobState| {
            *claims += 1;
            job.webhook_due = Some((now + lease, *claims));
            if let Some(webhook) = &mut job.job.webhook {
                webhook.attempts += 1;
            }
            WebhookClaim { job: job.job.id, claim: *claims }
        };
        jobs.values_mut().filter(is_due).take(limit).map(claim).collect()
    }

    pub(in crate::jobs) fn record_delivery(&self, claim: &WebhookClaim, attempt: &DeliveryAttempt) -> bool {
        let mut state = self.state.lock();
        let Some(job) = state.jobs.get_mut(&claim.job) else { return false };
        let (Some((_, last)), Some(webhook)) = (job.webhook_due, &mut job.job.webhook) else { return false };
        if last != claim.claim {
            return false;
        }
        (webhook.delivery, webhook.error, job.webhook_due) = match attempt.clone() {
            DeliveryAttempt::Delivered => (Some(DeliveryStatus::Delivered), None, None),
            DeliveryAttempt::Retry(delay, error) => (None, Some(error), Some((Instant::now() + delay, 0))),
            DeliveryAttempt::GaveUp(error) => (Some(DeliveryStatus::Failed), Some(error), None),
        };
        true
    }
}
