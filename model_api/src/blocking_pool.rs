use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

use crate::error::Error;

/// Does work that takes a core for milliseconds off the reactor, on so many cores at a time and with so many waiting.
#[derive(Clone, Debug)]
pub struct BlockingPool {
    /// Of those at work and those that wait.
    slots: Arc<Semaphore>,
    /// Of those at work.
    threads: Arc<Semaphore>,
}

/// So many may wait at the least. It is what a `web_api` has under way at once (`MAX_CONCURRENT_REQUESTS`): a burst that
/// it let in is not to be turned away here. What waits is an encoded picture, bounded by `BODY_MEMORY_BYTES` already.
const MIN_QUEUE_LENGTH: usize = 512;

impl BlockingPool {
    /// For models with queues of this length: who found room here shall find it there.
    pub fn for_queues(threads: usize, queue_length: usize) -> Self {
        Self::new(threads, queue_length.max(MIN_QUEUE_LENGTH))
    }

    /// `threads` at work, `waiting` more before one is turned away.
    pub fn new(threads: usize, queue_length: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(threads + queue_length)), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Does `work`, or says at once that too many others wait.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| Error::DecodersBusy)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| Error::DecodersBusy)?;
        let span = tracing::Span::current();
        let task = spawn_blocking(move || {
            let _entered = span.enter();
            let result = work();
            // Not before: an asker that goes away leaves its thread at work.
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
        assert!(matches!(pool.run(|| Ok(())).await, Err(Error::DecodersBusy)));
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
