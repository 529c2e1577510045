//! Single flight: one computation per key, shared by all callers that need it at the same time.
//!
//! No task is spawned. The flight is the future of its leader, polled in the leader's task; the other participants wait. When it
//! completes, all participants get its result. When the leader is dropped before that, the next participant's own future takes over.
//!
//! A flight has a lane for each [`Priority`]. A background call may wait long in the model's queue, so an interactive caller does not
//! wait for it. Its own future runs beside it, once for all interactive callers. The first result serves both lanes, and the other
//! future is dropped. Background callers wait for an interactive call. An error ends only its own lane while the other lane runs:
//! the model rejects background calls earlier than interactive ones.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SetOnce};

use super::keys::CacheKey;

/// How soon the caller of a computation needs its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A client waits for the response.
    #[default]
    Interactive,
    /// Background work, such as a job: it runs when no interactive request waits.
    Background,
}

/// The flights in progress, by key. `T` is the shared result, `E` the error. Clones share the flights.
pub(super) struct SingleFlight<T, E>(Arc<Mutex<Flights<T, E>>>);

type Flights<T, E> = HashMap<CacheKey, Arc<Flight<T, E>>>;

struct Flight<T, E> {
    interactive: Lane<T, E>,
    background: Lane<T, E>,
}

struct Lane<T, E> {
    /// Held by the leader, whose future runs.
    leader: Semaphore,
    result: SetOnce<Result<T, E>>,
}

/// Membership of a caller in a flight, for as long as it waits.
struct Participant<'a, T, E> {
    flights: &'a SingleFlight<T, E>,
    key: CacheKey,
    flight: Arc<Flight<T, E>>,
}

impl<T: Clone, E: Clone> SingleFlight<T, E> {
    /// Returns the result of `compute`, or of another flight of `key`, and whether it is the result of `compute`. Unless another
    /// flight of `key` is in progress, `compute` is polled before this waits for anything.
    pub async fn join(
        &self,
        key: CacheKey,
        priority: Priority,
        compute: impl Future<Output = Result<T, E>>,
    ) -> (Result<T, E>, bool) {
        let flight = Arc::clone(self.lock().entry(key).or_default());
        let participant = Participant { flights: self, key, flight };
        let Flight { interactive, background } = &*participant.flight;
        let (own, other) = match priority {
            Priority::Interactive => (interactive, background),
            Priority::Background => (background, interactive),
        };
        let become_leader = async {
            let leader = own.leader.acquire().await;
            if priority == Priority::Background {
                drop(other.leader.acquire().await);
            }
            leader
        };
        let _leader = tokio::select! {
            biased;
            result = own.result.wait() => return (result.clone(), false),
            leader = become_leader => leader,
        };
        let result = tokio::select! {
            biased;
            result = own.result.wait() => return (result.clone(), false),
            result = compute => result,
        };
        own.complete(&result);
        if result.is_ok() || !other.is_running() {
            other.complete(&result);
        }
        (result, true)
    }
}

impl<T, E> SingleFlight<T, E> {
    fn lock(&self) -> MutexGuard<'_, Flights<T, E>> {
        // A panic cannot leave the map in an inconsistent state, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, E: Clone> Lane<T, E> {
    /// Only the first result is kept.
    fn complete(&self, result: &Result<T, E>) {
        let _ = self.result.set(result.clone());
    }
}

impl<T, E> Lane<T, E> {
    fn is_running(&self) -> bool {
        self.leader.available_permits() == 0
    }
}

/// Removes the flight once it has completed or its last participant is dropped.
impl<T, E> Drop for Participant<'_, T, E> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // One reference is this participant's, one the map's. The lock excludes new participants.
        let is_last = Arc::strong_count(&self.flight) == 2;
        let is_complete = self.flight.interactive.result.initialized() || self.flight.background.result.initialized();
        if (is_last || is_complete) && flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl<T, E> Default for SingleFlight<T, E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T, E> Clone for SingleFlight<T, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T, E> Default for Flight<T, E> {
    fn default() -> Self {
        Self { interactive: Lane::default(), background: Lane::default() }
    }
}

impl<T, E> Default for Lane<T, E> {
    fn default() -> Self {
        Self { leader: Semaphore::new(1), result: SetOnce::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::cache::keys::KeyInput;

    fn key(image: u32) -> CacheKey {
        CacheKey::new("ui", "m", "1", "d", KeyInput::Image(&image.to_le_bytes()))
    }

    async fn compute(runs: Arc<AtomicU32>) -> Result<u32, &'static str> {
        sleep(Duration::from_millis(10)).await;
        Ok(runs.fetch_add(1, Ordering::SeqCst))
    }

    /// Never completes; counts how often it is dropped.
    async fn pending(dropped: Arc<AtomicU32>) -> Result<u32, &'static str> {
        struct Dropped(Arc<AtomicU32>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let _dropped = Dropped(dropped);
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn an_interactive_caller_does_not_wait_for_a_background_call() {
        let (flights, runs, dropped) =
            (SingleFlight::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let mut jobs = JoinSet::new();
        for _ in 0..3 {
            let (flights, dropped) = (flights.clone(), Arc::clone(&dropped));
            jobs.spawn(async move { flights.join(key(1), Priority::Background, pending(dropped)).await });
        }
        sleep(Duration::from_millis(5)).await;
        let mut callers = JoinSet::new();
        for _ in 0..10 {
            let (flights, runs) = (flights.clone(), Arc::clone(&runs));
            callers.spawn(async move { flights.join(key(1), Priority::Interactive, compute(runs)).await });
        }
        let results = callers.join_all().await;
        assert_eq!(
            results.iter().filter(|result| **result == (Ok(0), true)).count(),
            1,
            "one run for all callers: {results:?}"
        );
        assert_eq!(results.iter().filter(|result| **result == (Ok(0), false)).count(), 9);
        assert_eq!(jobs.join_all().await, [(Ok(0), false); 3], "the jobs share the result");
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "the background computation is dropped");
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_background_call_that_completes_first_serves_all_and_a_later_one_waits() {
        let (flights, runs, dropped) =
            (SingleFlight::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let slow = || pending(Arc::clone(&dropped));
        let (job, caller, late) = tokio::join!(
            flights.join(key(1), Priority::Background, compute(Arc::clone(&runs))),
            flights.join(key(1), Priority::Interactive, slow()),
            flights.join(key(1), Priority::Background, slow()),
        );
        assert_eq!((job, caller, late), ((Ok(0), true), (Ok(0), false), (Ok(0), false)));
        let (caller, job) = tokio::join!(
            flights.join(key(1), Priority::Interactive, compute(Arc::clone(&runs))),
            flights.join(key(1), Priority::Background, slow()),
        );
        assert_eq!((caller, job), ((Ok(1), true), (Ok(1), false)));
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_only_its_own_lane() {
        let flights = SingleFlight::default();
        let after = async |ms: u64, result: Result<u32, &'static str>| {
            sleep(Duration::from_millis(ms)).await;
            result
        };
        let (job, caller, second) = tokio::join!(
            flights.join(key(1), Priority::Background, after(5, Err("later"))),
            flights.join(key(1), Priority::Interactive, after(10, Ok(7))),
            flights.join(key(1), Priority::Interactive, after(10, Ok(8))),
        );
        assert_eq!((job, caller, second), ((Err("later"), true), (Ok(7), true), (Ok(7), false)));
        let (job, caller) = tokio::join!(
            flights.join(key(1), Priority::Background, after(10, Ok(7))),
            flights.join(key(1), Priority::Interactive, after(5, Err("overloaded"))),
        );
        assert_eq!((job, caller), ((Ok(7), true), (Err("overloaded"), true)));
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_call_completes_when_the_interactive_caller_is_dropped() {
        let (flights, runs) = (SingleFlight::default(), Arc::<AtomicU32>::default());
        let job = flights.join(key(1), Priority::Background, compute(Arc::clone(&runs)));
        let caller = async {
            let join = flights.join(key(1), Priority::Interactive, pending(Arc::default()));
            tokio::time::timeout(Duration::from_millis(1), join).await
        };
        let (job, caller) = tokio::join!(job, caller);
        assert!(caller.is_err());
        assert_eq!(job, (Ok(0), true));
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_callers_share_one_computation_and_the_flight_is_removed() {
        let (flights, runs) = (SingleFlight::default(), Arc::<AtomicU32>::default());
        for round in 0..2 {
            let mut callers = JoinSet::new();
            for _ in 0..100 {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                callers.spawn(async move { flights.join(key(1), Priority::Interactive, compute(runs)).await.0 });
            }
            assert_eq!(callers.join_all().await, [Ok(round); 100]);
            assert!(flights.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_caller_takes_over_when_the_leader_is_dropped() {
        let (flights, runs) = (SingleFlight::default(), Arc::<AtomicU32>::default());
        let mut callers: Vec<_> = (0..5)
            .map(|_| {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                tokio::spawn(async move { flights.join(key(1), Priority::Interactive, compute(runs)).await.0 })
            })
            .collect();
        sleep(Duration::from_millis(5)).await;
        let last = callers.pop().unwrap();
        for caller in callers {
            caller.abort();
        }
        assert_eq!(last.await.unwrap(), Ok(0));
        let alone = tokio::spawn({
            let flights = flights.clone();
            async move { flights.join(key(2), Priority::Background, pending(Arc::default())).await }
        });
        sleep(Duration::from_millis(5)).await;
        assert_eq!(flights.lock().len(), 1);
        alone.abort();
        assert!(alone.await.unwrap_err().is_cancelled());
        assert!(flights.lock().is_empty());
    }
}
