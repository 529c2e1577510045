//! One flight per key: whoever asks for what somebody is already fetching waits for that.
//!
//! Nothing runs by itself. The flight is the future of the one who began it, polled in his own task; the others wait for their
//! turn. When it lands, all of them get what it brought. When its asker goes away before that, the next one's own
//! future takes off in its place.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Semaphore;

use crate::keys::AnswerKey;

/// The flights under way, each bringing a `T` for all who wait for it.
pub(crate) struct Flights<T>(Arc<Mutex<HashMap<AnswerKey, Arc<Flight<T>>>>>);

struct Flight<T> {
    /// One flies at a time; closed when one has landed.
    seat: Semaphore,
    landed: OnceLock<T>,
}

/// Somebody's part in a flight, as long as he waits.
struct Part<'a, T> {
    flights: &'a Flights<T>,
    key: AnswerKey,
    flight: Arc<Flight<T>>,
}

impl<T: Clone> Flights<T> {
    /// What `fly` brings, or a flight for the same key that was under way.
    pub async fn join(&self, key: AnswerKey, fly: impl Future<Output = T>) -> T {
        let flight = Arc::clone(self.lock().entry(key).or_default());
        let part = Part { flights: self, key, flight };
        let seat = part.flight.seat.acquire().await;
        if seat.is_err()
            && let Some(landed) = part.flight.landed.get()
        {
            return landed.clone();
        }
        // Whoever waited for the seat got it because the one before him has gone.
        let landed = fly.await;
        let _ = part.flight.landed.set(landed.clone());
        part.flight.seat.close();
        landed
    }
}

impl<T> Flights<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<AnswerKey, Arc<Flight<T>>>> {
        // A map has no half-made state to fear.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight that has landed is nobody's to join any more, and one that nobody waits for is none.
impl<T> Drop for Part<'_, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        // One part is this one's, one the map's. With the lock, no other can come to it.
        let is_last = Arc::strong_count(&self.flight) == 2;
        if (is_last || self.flight.seat.is_closed())
            && flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight))
        {
            flights.remove(&self.key);
        }
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { seat: Semaphore::new(1), landed: OnceLock::new() }
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

    async fn fly(runs: Arc<AtomicU32>) -> u32 {
        sleep(Duration::from_millis(10)).await;
        runs.fetch_add(1, Ordering::SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_once_get_what_one_flight_brought_and_nothing_stays() {
        let (flights, runs) = (Flights::default(), Arc::<AtomicU32>::default());
        for round in 0..2 {
            let mut askers = JoinSet::new();
            for _ in 0..100 {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                askers.spawn(async move { flights.join(key(1), fly(runs)).await });
            }
            assert_eq!(askers.join_all().await, [round; 100]);
            assert!(flights.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_goes_away_is_followed_by_the_next_and_leaves_nothing() {
        let (flights, runs) = (Flights::default(), Arc::<AtomicU32>::default());
        let mut askers: Vec<_> = (0..5)
            .map(|_| {
                let (flights, runs) = (flights.clone(), Arc::clone(&runs));
                tokio::spawn(async move { flights.join(key(1), fly(runs)).await })
            })
            .collect();
        sleep(Duration::from_millis(5)).await;
        let last = askers.pop().unwrap();
        for asker in askers {
            asker.abort();
        }
        assert_eq!(last.await.unwrap(), 0);
        let alone = tokio::spawn({
            let flights = flights.clone();
            async move { flights.join(key(2), std::future::pending()).await }
        });
        sleep(Duration::from_millis(5)).await;
        assert_eq!(flights.lock().len(), 1);
        alone.abort();
        assert!(alone.await.unwrap_err().is_cancelled());
        assert!(flights.lock().is_empty());
    }
}
