use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::debug;

use crate::activity::Activity;
use crate::peer::Peer;

/// A connection is closed for another only after it has been idle for so long: a client that sends one request after the other
/// pauses for less, and a new client's first bytes arrive sooner.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// Time for which a new connection waits for a place.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Pause before the next look for an idle connection, where all have been idle for less than [`MIN_IDLE`].
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Connections that wait for a place, or are told that there is none, at the same time. Each holds a descriptor.
pub(crate) const MAX_WAITING: usize = 128;

/// Bound on open connections. Where all places are taken, a new connection takes the place of an idle one.
///
/// A plain limit would let a client that opens connections and leaves them idle exclude everybody else. The registry is locked when a
/// connection begins or ends, and never for a request.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit {
    max: usize,
    places: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    waiters: Arc<AtomicUsize>,
    registry: Arc<Mutex<Registry>>,
}

/// A connection that waits for a place.
struct Waiter<'a>(&'a AtomicUsize);

/// Every open connection.
#[derive(Debug, Default)]
struct Registry {
    next: u64,
    connections: HashMap<u64, Arc<Activity>>,
    of_client: HashMap<IpAddr, usize>,
}

/// The place of one connection, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    activity: Arc<Activity>,
    id: u64,
    registry: Arc<Mutex<Registry>>,
    _permit: OwnedSemaphorePermit,
}

/// What a search for an idle connection found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A connection, which closes now.
    Idle,
    /// Only connections that closing would harm, or enough that are being closed already; or places that are just being taken.
    TooYoung,
    /// Nothing: every connection has a request in flight.
    None,
}

impl ConnectionLimit {
    pub fn new(places: usize) -> Self {
        Self {
            max: places,
            places: Arc::new(Semaphore::new(places)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            waiters: Arc::default(),
            registry: Arc::default(),
        }
    }

    /// A place, if one is free.
    pub fn take(&self, peer: Peer) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(self.place(peer, permit))
    }

    /// One of the connections that may wait, or be refused, at the same time.
    pub fn queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// The place of an idle connection, which is closed for it. `None` where every connection stays busy.
    ///
    /// Places go to those that wait in the order in which they came, so that a place may go to another than the one that closed a
    /// connection for it. So each looks again until it has a place, and no more connections are closed than are waited for.
    pub async fn wait(&self, peer: Peer) -> Option<Place> {
        let _waiter = Waiter::new(&self.waiters);
        let deadline = tokio::time::Instant::now() + MAX_WAIT;
        let mut permit = pin!(Arc::clone(&self.places).acquire_owned());
        loop {
            let found = self.evict(Instant::now());
            let is_last = found == Found::None || tokio::time::Instant::now() >= deadline;
            let pause = if is_last { Duration::ZERO } else { RETRY_DELAY };
            match timeout(pause, &mut permit).await {
                Ok(permit) => return Some(self.place(peer, permit.ok()?)),
                Err(_) if is_last => return None,
                Err(_) => {}
            }
        }
    }

    fn place(&self, peer: Peer, permit: OwnedSemaphorePermit) -> Place {
        let activity = Arc::new(Activity::new(peer));
        let id = lock(&self.registry).add(Arc::clone(&activity));
        Place { activity, id, registry: Arc::clone(&self.registry), _permit: permit }
    }

    /// Closes an idle connection: of the client address with the most connections, one without a request before one that has had
    /// requests, and of those the one that has been idle for longest.
    fn evict(&self, now: Instant) -> Found {
        let registry = lock(&self.registry);
        let closing = registry.connections.values().filter(|activity| activity.is_evicted()).count();
        if closing >= self.waiters.load(Ordering::Relaxed) {
            return Found::TooYoung;
        }
        let mut any = false;
        let idle = registry.connections.iter().filter_map(|(id, activity)| {
            let idle = activity.idle_for(now)?;
            any = true;
            let of_client = registry.of_client.get(&activity.peer().0).copied().unwrap_or_default();
            let is_evictable = idle >= MIN_IDLE && !activity.is_evicted();
            is_evictable.then_some(((of_client, activity.requests() == 0, idle, Reverse(*id)), activity))
        });
        match idle.max_by_key(|(rank, _)| *rank) {
            Some(((of_client, _, idle, _), activity)) => {
                debug!(peer = %activity.peer().0, of_client, ?idle, "connection limit reached, closing an idle connection");
                activity.evict();
                Found::Idle
            }
            None if any || registry.connections.len() < self.max => Found::TooYoung,
            None => Found::None,
        }
    }
}

impl<'a> Waiter<'a> {
    fn new(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Registry {
    fn add(&mut self, activity: Arc<Activity>) -> u64 {
        let id = self.next;
        self.next += 1;
        *self.of_client.entry(activity.peer().0).or_default() += 1;
        self.connections.insert(id, activity);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(activity) = self.connections.remove(&id) else { return };
        if let Some(count) = self.of_client.get_mut(&activity.peer().0) {
            *count -= 1;
            if *count == 0 {
                self.of_client.remove(&activity.peer().0);
            }
        }
    }
}

impl Place {
    pub fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry).remove(self.id);
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    // A panic leaves at most a wrong count behind.
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Peer {
        Peer(IpAddr::from([192, 0, 2, last]))
    }

    /// The places that are evicted, in order, until there is nothing to evict.
    fn evicted(limit: &ConnectionLimit, places: &[Place], now: Instant) -> Vec<usize> {
        let mut order = Vec::new();
        limit.waiters.store(places.len(), Ordering::Relaxed);
        while limit.evict(now) == Found::Idle {
            let new = (0..places.len()).find(|at| places[*at].activity.is_evicted() && !order.contains(at));
            order.push(new.expect("one more is evicted"));
        }
        order
    }

    #[test]
    fn the_client_with_the_most_connections_gives_way_first_and_silent_connections_before_used_ones() {
        let limit = ConnectionLimit::new(5);
        let places: Vec<_> = [1, 2, 2, 2, 3].map(|last| limit.take(peer(last)).unwrap()).into();
        drop(places[1].activity.begin());
        let _busy = places[2].activity.begin();
        let order = evicted(&limit, &places, Instant::now() + Duration::from_secs(1));
        assert_eq!(order[..2], [3, 1], "silent, then used; the busy one never");
        assert_eq!(order.len(), 4);
        assert_eq!(limit.evict(Instant::now()), Found::TooYoung, "they are being closed");
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connections_keep_their_places() {
        let limit = ConnectionLimit::new(1);
        let place = limit.take(peer(1)).unwrap();
        assert!(limit.take(peer(2)).is_none());
        let busy = place.activity.begin();
        assert!(limit.wait(peer(2)).await.is_none());
        drop(busy);
        assert!(!place.activity.is_evicted());
    }

    #[test]
    fn a_place_that_is_just_being_taken_is_worth_waiting_for() {
        let limit = ConnectionLimit::new(1);
        let _in_transit = Arc::clone(&limit.places).try_acquire_owned().unwrap();
        let _waiter = Waiter::new(&limit.waiters);
        assert_eq!(limit.evict(Instant::now()), Found::TooYoung);
    }

    #[tokio::test]
    async fn a_place_is_taken_once_its_connection_has_been_idle_for_long_enough() {
        let limit = ConnectionLimit::new(1);
        let place = limit.take(peer(1)).unwrap();
        limit.waiters.store(1, Ordering::Relaxed);
        assert_eq!(limit.evict(Instant::now()), Found::TooYoung);
        limit.waiters.store(0, Ordering::Relaxed);
        let connection = tokio::spawn(async move {
            place.activity.evicted().await;
            drop(place);
        });
        let place = limit.wait(peer(2)).await.unwrap();
        assert_eq!(place.activity.peer(), peer(2));
        connection.await.unwrap();
        drop(place);
        let registry = lock(&limit.registry);
        assert!(registry.connections.is_empty() && registry.of_client.is_empty());
    }

    #[tokio::test]
    async fn many_that_wait_all_get_the_places_of_idle_connections() {
        let limit = ConnectionLimit::new(4);
        let hold = |place: Place| {
            tokio::spawn(async move {
                place.activity.evicted().await;
                drop(place);
            })
        };
        for _ in 0..4 {
            hold(limit.take(peer(1)).unwrap());
        }
        let waiting = (0..12).map(|_| {
            let limit = limit.clone();
            async move { limit.wait(peer(1)).await.map(hold).is_some() }
        });
        assert!(futures_util::future::join_all(waiting).await.into_iter().all(|has_place| has_place));
    }
}
