//! Bounded pool of blocking threads for CPU-bound work.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

use crate::error::Error;

/// Bounded pool for CPU-bound work of milliseconds, off the reactor: limits the threads and the queue.
#[derive(Clone, Debug)]
pub struct BlockingPool {
    /// Running and queued tasks.
    slots: Arc<Semaphore>,
    /// Running tasks.
    threads: Arc<Semaphore>,
}

/// Minimum length of the queue. It is the number of concurrent requests of one `web_api` (`MAX_CONCURRENT_REQUESTS`), so that an
/// admitted burst is not rejected here. Queued images are still encoded, and `BODY_MEMORY_BYTES` bounds them.
const MIN_QUEUE_LENGTH: usize = 512;

impl BlockingPool {
    /// A pool for models with queues of this length: a request that is admitted here is admitted there.
    pub fn for_queues(threads: usize, queue_length: usize) -> Self {
        Self::new(threads, queue_length.max(MIN_QUEUE_LENGTH))
    }

    /// `threads` tasks run, and `queue_length` more wait before one is rejected.
    pub fn new(threads: usize, queue_length: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(threads + queue_length)), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Runs `work` on a thread, or rejects it immediately where the queue is full.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Error::DecodeQueueFull)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| Error::DecodeQueueFull)?;
        let span = tracing::Span::current();
        let task = spawn_blocking(move || {
            let _entered = span.enter();
            let result = work();
            // Released by the thread: when the caller is dropped, its task still runs.
            drop((slot, thread));
            result
        });
        task.await.unwrap_or_else(|panic| {
            error!(%panic, "a task of the blocking pool panicked");
            Err(Error::Internal)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_rejects_immediately() {
        let pool = BlockingPool::new(1, 1);
        let (finish, finished) = mpsc::channel::<()>();
        let running = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || Ok(finished.recv().is_ok())).await }
        });
        while pool.threads.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| Ok(())).await }
        });
        while pool.slots.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(pool.run(|| Ok(())).await, Err(Error::DecodeQueueFull)));
        finish.send(()).unwrap();
        assert!(running.await.unwrap().unwrap());
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_queue_holds_all_concurrent_requests_of_web_api() {
        let pool = BlockingPool::for_queues(1, 1);
        let tasks = (0..256).map(|number| pool.run(move || Ok(number)));
        let done = futures_util::future::join_all(tasks).await;
        assert!(done.into_iter().zip(0..).all(|(done, number)| done.is_ok_and(|done| done == number)));
        assert_eq!(BlockingPool::for_queues(2, 1024).slots.available_permits(), 1026);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_thread() {
        let pool = BlockingPool::new(1, 0);
        let panics = || -> Result<(), Error> { panic!("a damaged image") };
        assert!(matches!(pool.run(panics).await, Err(Error::Internal)));
        pool.run(|| Ok(())).await.unwrap();
    }
}
