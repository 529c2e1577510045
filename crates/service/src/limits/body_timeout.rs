//! Timeout and minimum data rate of a request body.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::body_error::{BodyError, DATA_RATE_WINDOW, MIN_DATA_RATE};
use super::memory_budget::EXEMPT_BYTES;

/// Deadline of a body, and its minimum data rate while it reserves memory.
#[derive(Debug)]
pub struct BodyTimeout {
    timeout: Duration,
    deadline: Instant,
    window_end: Instant,
    /// Bytes received in this window.
    bytes: usize,
}

impl BodyTimeout {
    /// Starts the timeout of a body now.
    pub fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { timeout, deadline: now + timeout, window_end: now + DATA_RATE_WINDOW, bytes: 0 }
    }

    /// Counts received bytes.
    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Waits for `next`, unless the body times out first. `reserved` is the number of bytes reserved for it.
    pub async fn wait<T>(&mut self, reserved: usize, next: impl Future<Output = T>) -> Result<T, BodyError> {
        let mut next = std::pin::pin!(next);
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(BodyError::TooSlow(self.timeout));
            }
            if now >= self.window_end {
                if reserved > EXEMPT_BYTES && self.bytes < MIN_DATA_RATE * DATA_RATE_WINDOW.as_secs() as usize {
                    return Err(BodyError::Stalled);
                }
                (self.window_end, self.bytes) = (now + DATA_RATE_WINDOW, 0);
            }
            let until = if reserved > EXEMPT_BYTES { self.deadline.min(self.window_end) } else { self.deadline };
            if let Ok(next) = timeout_at(until, next.as_mut()).await {
                return Ok(next);
            }
        }
    }
}
