//! Bounded blocking pool for encoding and decoding of large tensors, off the threads that serve connections.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// Work on at most this many bytes runs inline. More would delay the other connections of the thread for too long.
pub(crate) const INLINE_BYTES: usize = 256 << 10;

/// One permit for each core: more concurrent work would take memory without finishing sooner.
static PERMITS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))));

/// Runs `work` inline where it processes at most [`INLINE_BYTES`], and otherwise on a blocking thread once a permit is free.
pub(crate) async fn run<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= INLINE_BYTES {
        return work();
    }
    let permit = Arc::clone(&PERMITS).acquire_owned().await.expect("the semaphore is never closed");
    let work = move || {
        // Held by the work and not by its caller: work continues when the caller is cancelled.
        let _permit = permit;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
