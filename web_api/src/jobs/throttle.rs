//! Throttle of background jobs while interactive requests are being served.
//!
//! Priorities in the queue of `model_api` do not suffice on one machine: decoding, HTTP and Redis have none, and a few dozen concurrent
//! inputs keep all cores busy. So while this process receives interactive requests that need computation, the inputs of each model's
//! jobs run serially. After each input there is a pause as long as the input took.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

/// Time without interactive requests after which jobs run unthrottled. Also the upper bound of the pause after an input.
const IDLE_AFTER: Duration = Duration::from_millis(200);

/// Tracks interactive requests. Clones share the state.
#[derive(Clone, Debug)]
pub struct BackgroundThrottle {
    created_at: Instant,
    /// Time of the last interactive request, in milliseconds since `created_at`; 0 if there has been none.
    last_foreground_ms: Arc<AtomicU64>,
}

/// Slot in which throttled work of one model runs serially.
#[derive(Clone, Debug)]
pub struct SerialSlot(Arc<Semaphore>);

/// Permission to run background work; holds the slot only while interactive requests are served.
#[derive(Debug)]
pub struct ThrottlePermit(Option<OwnedSemaphorePermit>);

impl Default for SerialSlot {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Default for BackgroundThrottle {
    fn default() -> Self {
        Self { created_at: Instant::now(), last_foreground_ms: Arc::default() }
    }
}

impl BackgroundThrottle {
    /// Records an interactive request that needs computation.
    pub fn note_foreground(&self) {
        self.last_foreground_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Waits for the slot; returns immediately if no interactive requests are served.
    pub async fn acquire(&self, slot: &SerialSlot) -> ThrottlePermit {
        if self.is_idle() {
            return ThrottlePermit(None);
        }
        let permit = Arc::clone(&slot.0).acquire_owned().await.ok();
        // If interactive requests have ended meanwhile, all waiting work may run concurrently.
        ThrottlePermit(permit.filter(|_| !self.is_idle()))
    }

    fn is_idle(&self) -> bool {
        let last = self.last_foreground_ms.load(Ordering::Relaxed);
        last == 0 || self.now_ms() - last > IDLE_AFTER.as_millis() as u64
    }

    fn now_ms(&self) -> u64 {
        // At least 1: 0 means never.
        self.created_at.elapsed().as_millis() as u64 + 1
    }
}

impl ThrottlePermit {
    /// Runs `work`, and keeps the slot for the same time after that.
    pub async fn run<T>(self, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = work.await;
        if let Some(permit) = self.0 {
            let pause = started.elapsed().min(IDLE_AFTER);
            tokio::spawn(async move {
                sleep(pause).await;
                drop(permit);
            });
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    const WORK: Duration = Duration::from_millis(50);

    async fn work_in(throttle: &BackgroundThrottle, slot: &SerialSlot, duration: Duration) {
        throttle.acquire(slot).await.run(sleep(duration)).await;
    }

    /// How long four pieces of work take together.
    async fn run_four(throttle: &BackgroundThrottle, slot: &SerialSlot) -> Duration {
        let started = Instant::now();
        join_all((0..4).map(|_| work_in(throttle, slot, WORK))).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn work_runs_concurrently_without_interactive_requests() {
        let (throttle, slot) = (BackgroundThrottle::default(), SerialSlot::default());
        assert_eq!(run_four(&throttle, &slot).await, WORK, "no request so far");
        throttle.note_foreground();
        sleep(IDLE_AFTER * 2).await;
        assert_eq!(run_four(&throttle, &slot).await, WORK, "idle again");
    }

    #[tokio::test(start_paused = true)]
    async fn work_runs_serially_half_of_the_time_while_interactive_requests_are_served() {
        let (throttle, slot) = (BackgroundThrottle::default(), SerialSlot::default());
        let foreground = throttle.clone();
        let requests = tokio::spawn(async move {
            loop {
                foreground.note_foreground();
                sleep(IDLE_AFTER / 10).await;
            }
        });
        sleep(Duration::from_millis(1)).await;
        assert_eq!(run_four(&throttle, &slot).await, WORK * 7);
        requests.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_work_runs_concurrently_once_interactive_requests_have_ended() {
        let (throttle, slot) = (BackgroundThrottle::default(), SerialSlot::default());
        throttle.note_foreground();
        // The first piece outlasts the interactive requests. With its pause, it would delay each of the others by half a second.
        let started = Instant::now();
        join_all((0..4).map(|_| work_in(&throttle, &slot, IDLE_AFTER * 2))).await;
        assert_eq!(started.elapsed(), IDLE_AFTER * 5);
    }
}
