use std::time::Duration;

use super::id::JobId;

/// Webhook of a job, and the state of its delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// URL to notify when the job is finished.
    pub url: String,
    /// Delivery attempts since the job finished.
    pub attempts: u32,
    /// Final status; `None` while the delivery is pending.
    pub delivery: Option<DeliveryStatus>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// Final status of a webhook's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// The receiver accepted it.
    Delivered,
    /// All attempts failed.
    Failed,
}

/// Lease on a webhook: until it expires, only this process attempts the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookClaim {
    /// The finished job.
    pub job: JobId,
    /// Distinguishes this claim from a later one.
    pub(super) claim: u64,
}

/// Result of one delivery attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryAttempt {
    /// The receiver accepted it.
    Delivered,
    /// The attempt failed with this error; the next attempt is due after this delay.
    Retry(Duration, String),
    /// The last attempt failed with this error.
    GaveUp(String),
}

impl DeliveryStatus {
    /// As Redis stores it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

impl Webhook {
    /// The webhook of a new job.
    pub(super) fn new(url: String) -> Self {
        Self { url, attempts: 0, delivery: None, error: None }
    }
}
