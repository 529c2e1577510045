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

use super::connection_activity::ConnectionActivity;
use crate::peer::Peer;

/// A connection is closed for another only after it has been idle for so long: a client that sends one request after the other
/// pauses for less, and a new client's first bytes arrive sooner.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// Time for which a new connection waits for a permit.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Pause before the next look for an idle connection, where all have been idle for less than [`MIN_IDLE`].
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Connections that wait for a permit, or are told that there is none, at the same time. Each holds a descriptor.
pub(crate) const MAX_WAITING_CONNECTIONS: usize = 128;

/// Bound on open connections. Where all permits are taken, a new connection takes the permit of an idle one.
///
/// A plain limit would let a client that opens connections and leaves them idle exclude everybody else. The registry is locked when a
/// connection begins or ends, and never for a request.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimit {
    max: usize,
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    waiters: Arc<AtomicUsize>,
    registry: Arc<Mutex<Registry>>,
}

/// A connection that waits for a permit.
struct Waiter<'a>(&'a AtomicUsize);

/// Every open connection.
#[derive(Debug, Default)]
struct Registry {
    next: u64,
    connections: HashMap<u64, Arc<ConnectionActivity>>,
    per_client: HashMap<IpAddr, usize>,
}

/// The permit of one connection, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    activity: Arc<ConnectionActivity>,
    id: u64,
    registry: Arc<Mutex<Registry>>,
    _permit: OwnedSemaphorePermit,
}

/// What a search for an idle connection eviction.
#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    /// A connection, which closes now.
    Evicted,
    /// Only connections that closing would harm, or enough that are being closed already; or permits that are just being taken.
    TooYoung,
    /// Nothing: every connection has a request in flight.
    AllBusy,
}

impl ConnectionLimit {
    pub fn new(permits: usize) -> Self {
        Self {
            max: permits,
            permits: Arc::new(Semaphore::new(permits)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING_CONNECTIONS)),
            waiters: Arc::default(),
            registry: Arc::default(),
        }
    }

    /// A permit, if one is free.
    pub fn try_acquire(&self, peer: Peer) -> Option<ConnectionPermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.permit(peer, permit))
    }

    /// One of the connections that may wait, or be refused, at the same time.
    pub fn try_queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// The permit of an idle connection, which is closed for it. `None` where every connection stays busy.
    ///
    /// Places go to those that wait in the order in which they came, so that a permit may go to another than the one that closed a
    /// connection for it. So each looks again until it has a permit, and no more connections are closed than are waited for.
    pub async fn acquire(&self, peer: Peer) -> Option<ConnectionPermit> {
        let _waiter = Waiter::new(&self.waiters);
        let deadline = tokio::time::Instant::now() + MAX_WAIT;
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            let eviction = self.evict(Instant::now());
            let is_last = eviction == Eviction::AllBusy || tokio::time::Instant::now() >= deadline;
            let pause = if is_last { Duration::ZERO } else { RETRY_DELAY };
            match timeout(pause, &mut permit).await {
                Ok(permit) => return Some(self.permit(peer, permit.ok()?)),
                Err(_) if is_last => return None,
                Err(_) => {}
            }
        }
    }

    fn permit(&self, peer: Peer, permit: OwnedSemaphorePermit) -> ConnectionPermit {
        let activity = Arc::new(ConnectionActivity::new(peer));
        let id = lock(&self.registry).add(Arc::clone(&activity));
        ConnectionPermit { activity, id, registry: Arc::clone(&self.registry), _permit: permit }
    }

    /// Closes an idle connection: of the client address with the most connections, one without a request before one that has had
    /// requests, and of those the one that has been idle for longest.
    fn evict(&self, now: Instant) -> Eviction {
        let registry = lock(&self.registry);
        let closing = registry.connections.values().filter(|activity| activity.is_evicted()).count();
        if closing >= self.waiters.load(Ordering::Relaxed) {
            return Eviction::TooYoung;
        }
        let mut any = false;
        let idle = registry.connections.iter().filter_map(|(id, activity)| {
            let idle = activity.idle_for(now)?;
            any = true;
            let per_client = registry.per_client.get(&activity.peer().0).copied().unwrap_or_default();
            let is_evictable = idle >= MIN_IDLE && !activity.is_evicted();
            is_evictable.then_some(((per_client, activity.requests() == 0, idle, Reverse(*id)), activity))
        });
        match idle.max_by_key(|(rank, _)| *rank) {
            Some(((per_client, _, idle, _), activity)) => {
                debug!(peer = %activity.peer().0, per_client, ?idle, "connection limit reached, closing an idle connection");
                activity.evict();
                Eviction::Evicted
            }
            None if any || registry.connections.len() < self.max => Eviction::TooYoung,
            None => Eviction::AllBusy,
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
    fn add(&mut self, activity: Arc<ConnectionActivity>) -> u64 {
        let id = self.next;
        self.next += 1;
        *self.per_client.entry(activity.peer().0).or_default() += 1;
        self.connections.insert(id, activity);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(activity) = self.connections.remove(&id) else { return };
        if let Some(count) = self.per_client.get_mut(&activity.peer().0) {
            *count -= 1;
            if *count == 0 {
                self.per_client.remove(&activity.peer().0);
            }
        }
    }
}

impl ConnectionPermit {
    pub fn activity(&self) -> &Arc<ConnectionActivity> {
        &self.activity
    }
}

impl Drop for ConnectionPermit {
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

    /// The permits that are evicted, in order, until there is nothing to evict.
    fn evicted(limit: &ConnectionLimit, permits: &[ConnectionPermit], now: Instant) -> Vec<usize> {
        let mut order = Vec::new();
        limit.waiters.store(permits.len(), Ordering::Relaxed);
        while limit.evict(now) == Eviction::Evicted {
            let new = (0..permits.len()).find(|at| permits[*at].activity.is_evicted() && !order.contains(at));
            order.push(new.expect("one more is evicted"));
        }
        order
    }

    #[test]
    fn the_client_with_the_most_connections_gives_way_first_and_silent_connections_before_used_ones() {
        let limit = ConnectionLimit::new(5);
        let permits: Vec<_> = [1, 2, 2, 2, 3].map(|last| limit.try_acquire(peer(last)).unwrap()).into();
        drop(permits[1].activity.start_request());
        let _busy = permits[2].activity.start_request();
        let order = evicted(&limit, &permits, Instant::now() + Duration::from_secs(1));
        assert_eq!(order[..2], [3, 1], "silent, then used; the busy one never");
        assert_eq!(order.len(), 4);
        assert_eq!(limit.evict(Instant::now()), Eviction::TooYoung, "they are being closed");
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connections_keep_their_places() {
        let limit = ConnectionLimit::new(1);
        let permit = limit.try_acquire(peer(1)).unwrap();
        assert!(limit.try_acquire(peer(2)).is_none());
        let busy = permit.activity.start_request();
        assert!(limit.acquire(peer(2)).await.is_none());
        drop(busy);
        assert!(!permit.activity.is_evicted());
    }

    #[test]
    fn a_place_that_is_just_being_taken_is_worth_waiting_for() {
        let limit = ConnectionLimit::new(1);
        let _in_transit = Arc::clone(&limit.permits).try_acquire_owned().unwrap();
        let _waiter = Waiter::new(&limit.waiters);
        assert_eq!(limit.evict(Instant::now()), Eviction::TooYoung);
    }

    #[tokio::test]
    async fn a_place_is_taken_once_its_connection_has_been_idle_for_long_enough() {
        let limit = ConnectionLimit::new(1);
        let permit = limit.try_acquire(peer(1)).unwrap();
        limit.waiters.store(1, Ordering::Relaxed);
        assert_eq!(limit.evict(Instant::now()), Eviction::TooYoung);
        limit.waiters.store(0, Ordering::Relaxed);
        let connection = tokio::spawn(async move {
            permit.activity.evicted().await;
            drop(permit);
        });
        let permit = limit.acquire(peer(2)).await.unwrap();
        assert_eq!(permit.activity.peer(), peer(2));
        connection.await.unwrap();
        drop(permit);
        let registry = lock(&limit.registry);
        assert!(registry.connections.is_empty() && registry.per_client.is_empty());
    }

    #[tokio::test]
    async fn many_that_wait_all_get_the_places_of_idle_connections() {
        let limit = ConnectionLimit::new(4);
        let hold = |permit: ConnectionPermit| {
            tokio::spawn(async move {
                permit.activity.evicted().await;
                drop(permit);
            })
        };
        for _ in 0..4 {
            hold(limit.try_acquire(peer(1)).unwrap());
        }
        let waiting = (0..12).map(|_| {
            let limit = limit.clone();
            async move { limit.acquire(peer(1)).await.map(hold).is_some() }
        });
        assert!(futures_util::future::join_all(waiting).await.into_iter().all(|has_place| has_place));
    }
}
