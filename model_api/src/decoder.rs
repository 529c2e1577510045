use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::error;

use crate::error::Error;

/// Does work that takes a core for milliseconds off the reactor, on so many cores at a time and with so many waiting.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Of those at work and those that wait.
    places: Arc<Semaphore>,
    /// Of those at work.
    threads: Arc<Semaphore>,
}

/// So many may wait at the least. It is what a `web_api` has under way at once (`MAX_CONCURRENT_REQUESTS`): a burst that
/// it let in is not to be turned away here. What waits is an encoded picture, bounded by `BODY_MEMORY_BYTES` already.
const LEAST_WAITING: usize = 512;

impl Decoder {
    /// For models with queues of this length: who found room here shall find it there.
    pub fn for_queues(threads: usize, queue_length: usize) -> Self {
        Self::new(threads, queue_length.max(LEAST_WAITING))
    }

    /// `threads` at work, `waiting` more before one is turned away.
    pub fn new(threads: usize, waiting: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(threads + waiting)), threads: Arc::new(Semaphore::new(threads)) }
    }

    /// Does `work`, or says at once that too many others wait.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::DecodeQueueFull)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| Error::DecodeQueueFull)?;
        let span = tracing::Span::current();
        let work = spawn_blocking(move || {
            let _entered = span.enter();
            let done = work();
            // Not before: an asker that goes away leaves its thread at work.
            drop((place, thread));
            done
        });
        work.await.unwrap_or_else(|panic| {
            error!(%panic, "a decoder panicked");
            Err(Error::Internal)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn one_more_than_may_wait_is_turned_away_at_once() {
        let decoder = Decoder::new(1, 1);
        let (finish, finished) = mpsc::channel::<()>();
        let at_work = tokio::spawn({
            let decoder = decoder.clone();
            async move { decoder.run(move || Ok(finished.recv().is_ok())).await }
        });
        while decoder.threads.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let decoder = decoder.clone();
            async move { decoder.run(|| Ok(())).await }
        });
        while decoder.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(decoder.run(|| Ok(())).await, Err(Error::DecodeQueueFull)));
        finish.send(()).unwrap();
        assert!(at_work.await.unwrap().unwrap());
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn all_that_a_web_api_lets_in_at_once_may_wait_however_short_the_queues_are() {
        let decoder = Decoder::for_queues(1, 1);
        let works = (0..256).map(|number| decoder.run(move || Ok(number)));
        let done = futures_util::future::join_all(works).await;
        assert!(done.into_iter().zip(0..).all(|(done, number)| done.is_ok_and(|done| done == number)));
        assert_eq!(Decoder::for_queues(2, 1024).places.available_permits(), 1026);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_gives_the_thread_back() {
        let decoder = Decoder::new(1, 0);
        let panics = || -> Result<(), Error> { panic!("a damaged picture") };
        assert!(matches!(decoder.run(panics).await, Err(Error::Internal)));
        decoder.run(|| Ok(())).await.unwrap();
    }
}
