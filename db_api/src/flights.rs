//! Single flight: one computation per key, shared by all callers who need it at the same time.
//!
//! Nothing runs by itself. The flight is the future of the caller who began it, polled in its own task; the others wait. When
//! it lands, all of them get its result. When its caller goes away before that, the next one's own future takes off in its place.
//!
//! A flight has a lane for each [`Priority`]. A background call may wait long for its turn, so an interactive caller does not
//! wait for one: its own future runs beside it, once for all interactive callers, and the first result is everybody's. The
//! other future is dropped. Background callers wait for an interactive call. An error ends only its own lane while the other
//! one runs: a background call is refused sooner than an interactive one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SetOnce};

use crate::keys::AnswerKey;

/// How soon the caller of a computation needs its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A client waits for it.
    #[default]
    Interactive,
    /// It is part of a job, and runs when no interactive request waits.
    Background,
}

/// The flights under way, each bringing a `T` for all who wait for it.
pub(crate) struct Flights<T, E>(Arc<Mutex<UnderWay<T, E>>>);

type UnderWay<T, E> = HashMap<AnswerKey, Arc<Flight<T, E>>>;

struct Flight<T, E> {
    interactive: Lane<T, E>,
    background: Lane<T, E>,
}

struct Lane<T, E> {
    /// One flies at a time.
    seat: Semaphore,
    landed: SetOnce<Result<T, E>>,
}

/// Somebody's part in a flight, as long as he waits.
struct Part<'a, T, E> {
    flights: &'a Flights<T, E>,
    key: AnswerKey,
    flight: Arc<Flight<T, E>>,
}

impl<T: Clone, E: Clone> Flights<T, E> {
    /// The result of `fly`, or of a flight for the same key, and whether it is that of `fly`. Where no other flight of this key
    /// is under way, `fly` is polled before this waits for anything.
    pub async fn join(
        &self,
        key: AnswerKey,
        priority: Priority,
        fly: impl Future<Output = Result<T, E>>,
    ) -> (Result<T, E>, bool) {
        let flight = Arc::clone(self.lock().entry(key).or_default());
        let part = Part { flights: self, key, flight };
        let Flight { interactive, background } = &*part.flight;
        let (own, other) = match priority {
            Priority::Interactive => (interactive, background),
            Priority::Background => (background, interactive),
        };
        let turn = async {
            let seat = own.seat.acquire().await;
            if priority == Priority::Background {
                drop(other.seat.acquire().await);
            }
            seat
        };
        let _seat = tokio::select! {
            biased;
            landed = own.landed.wait() => return (landed.clone(), false),
            seat = turn => seat,
        };
        let landed = tokio::select! {
            biased;
            landed = own.landed.wait() => return (landed.clone(), false),
            landed = fly => landed,
        };
        own.land(&landed);
        if landed.is_ok() || !other.is_flying() {
            other.land(&landed);
        }
        (landed, true)
    }
}

impl<T, E> Flights<T, E> {
    fn lock(&self) -> MutexGuard<'_, UnderWay<T, E>> {
        // A map has no half-made state to fear.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone, E: Clone> Lane<T, E> {
    /// The first result counts.
    fn land(&self, landed: &Result<T, E>) {
        let _ = self.landed.set(landed.clone());
    }
}

impl<T, E> Lane<T, E> {
    fn is_flying(&self) -> bool {
        self.seat.available_permits() == 0
    }
}

/// A flight that has landed is nobody's to join any more, and one that nobody waits for is none.
impl<T, E> Drop for Part<'_, T, E> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // One part is this one's, one the map's. With the lock, no other can come to it.
        let is_last = Arc::strong_count(&self.flight) == 2;
        let has_landed = self.flight.interactive.landed.initialized() || self.flight.background.landed.initialized();
        if (is_last || has_landed) && flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(&self.key);
        }
    }
}

impl<T, E> Default for Flights<T, E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T, E> Clone for Flights<T, E> {
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
        Self { seat: Semaphore::new(1), landed: SetOnce::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::keys::Input;

    fn key(image: u32) -> AnswerKey {
        AnswerKey::new("ui", "m", "1", "d", Input::Image(&image.to_le_bytes()))
    }

    async fn fly(runs: Arc<AtomicU32>) -> Result<u32, &'static str> {
        sleep(Duration::from_millis(10)).await;
        Ok(runs.fetch_add(1, Ordering::SeqCst))
    }

    /// Never lands; counts how often it has been dropped.
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
        let (flights, runs, dropped) = (Flights::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let mut jobs = JoinSet::new();
        for _ in 0..3 {
            let (flights, dropped) = (flights.clone(), Arc::clone(&dropped));
            jobs.spawn(async move { flights.join(key(1), Priority::Background, pending(dropped)).await });
        }
        sleep(Duration::from_millis(5)).await;
        let mut callers = JoinSet::new();
        for _ in 0..10 {
            let (flights, runs) = (flights.clone(), Arc::clone(&runs));
            callers.spawn(async move { flights.join(key(1), Priority::Interactive, fly(runs)).await });
        }
        let results = callers.join_all().await;
        assert_eq!(
            results.iter().filter(|result| **result == (Ok(0), true)).count(),
            1,
            "one run for all: {results:?}"
        );
        assert_eq!(results.iter().filter(|result| **result == (Ok(0), false)).count(), 9);
        assert_eq!(jobs.join_all().await, [(Ok(0), false); 3], "the jobs have it too");
        assert_eq!(dropped.load(Ordering::SeqCst), 1, "the one that flew is given up");
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_background_call_that_lands_first_is_everybodys_and_one_that_comes_later_waits() {
        let (flights, runs, dropped) = (Flights::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let slow = || pending(Arc::clone(&dropped));
        let (job, caller, late) = tokio::join!(
            flights.join(key(1), Priority::Background, fly(Arc::clone(&runs))),
            flights.join(key(1), Priority::Interactive, slow()),
            flights.join(key(1), Priority::Background, slow()),
        );
        assert_eq!((job, caller, late), ((Ok(0), true), (Ok(0), false), (Ok(0), false)));
        let (caller, job) = tokio::join!(
            flights.join(key(1), Priority::Interactive, fly(Arc::clone(&runs))),
            flights.join(key(1), Priority::Background, slow()),
        );
        assert_eq!((caller, job), ((Ok(1), true), (Ok(1), false)));
        assert!(flights.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_error_of_one_lane_is_not_that_of_the_other() {
        let flights = Flights::default();
        let after = async |ms: u64, landed: Result<u32, &'static str>| {
            sleep(Duration::from_millis(ms)).await;
            landed
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
    async fn when_the_interactive_caller_goes_away_the_background_call_lands() {
        let (flights, runs) = (Flights::default(), Arc::<AtomicU32>::default());
        let job = flights.join(key(1), Priority::Background, fly(Arc::clone(&runs)));
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
    async fn all_who_ask_at_once_get_what_one_flight_brought_and_nothing_stays() {
        let (flights, runs) = (Flights::default(), Arc::<AtomicU32>::default());
        for round in 0..2 {
            let mut askers = JoinSet::new();
            for _ in 0..100 {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                askers.spawn(async move { flights.join(key(1), Priority::Interactive, fly(runs)).await.0 });
            }
            assert_eq!(askers.join_all().await, [Ok(round); 100]);
            assert!(flights.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_is_followed_by_the_next_and_leaves_nothing() {
        let (flights, runs) = (Flights::default(), Arc::<AtomicU32>::default());
        let mut askers: Vec<_> = (0..5)
            .map(|_| {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                tokio::spawn(async move { flights.join(key(1), Priority::Interactive, fly(runs)).await.0 })
            })
            .collect();
        sleep(Duration::from_millis(5)).await;
        let last = askers.pop().unwrap();
        for asker in askers {
            asker.abort();
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
