//! Bounded blocking pool for CPU-bound work on large bodies: parsing, hashing, and encoding.
//!
//! Such work runs outside the async runtime, so that it does not delay other requests.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

/// Smaller bodies are processed inline: handing them to another thread would take longer.
const INLINE_BYTES: usize = 128 << 10;

/// Bodies processed concurrently. Each takes a core for a moment, and several times the memory of the body.
const MAX_CONCURRENT: usize = 2;

/// The work panicked. The log has the reason.
#[derive(Debug, thiserror::Error)]
#[error("work on a large body panicked")]
pub struct WorkPanicked;

/// Runs work on large bodies on other threads. Clones share the limit.
#[derive(Clone, Debug)]
pub struct BlockingPool(Arc<Semaphore>);

impl Default for BlockingPool {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CONCURRENT)))
    }
}

impl BlockingPool {
    /// Runs `work` on a body of `bytes`.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkPanicked> {
        if bytes < INLINE_BYTES {
            return Ok(work());
        }
        let permit = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        let work = spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        work.await.map_err(|error| {
            error!(%error, "work on a large body panicked");
            WorkPanicked
        })
    }
}
