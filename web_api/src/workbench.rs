use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

use crate::error::Error;

/// Reading less than this takes less time than handing it to another thread.
const SMALL: usize = 128 << 10;

/// Reading a large body takes a core for a moment and several times the body's memory, so only so many are read at once.
const PLACES: usize = 2;

/// Where large bodies are taken apart and put together: off the threads that others wait for, and a few at a time.
#[derive(Clone, Debug)]
pub struct Workbench(Arc<Semaphore>);

impl Default for Workbench {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }
}

impl Workbench {
    /// Does `work` on a body of `bytes`.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes < SMALL {
            return Ok(work());
        }
        let place = Arc::clone(&self.0).acquire_owned().await.map_err(|_| Error::Internal)?;
        let work = spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        work.await.map_err(|error| {
            error!(%error, "work on a large body panicked");
            Error::Internal
        })
    }
}
