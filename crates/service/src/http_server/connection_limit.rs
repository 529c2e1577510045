//! Connection limit that evicts idle connections.

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

/// Minimum idle time before eviction. A client that sends one request after another pauses for less, and the first
/// bytes of a new client arrive sooner.
const MIN_IDLE: Duration = Duration::from_millis(100);

/// Time for which a new connection waits for a permit.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Delay before the next attempt to evict, if every idle connection is idle for less than [`MIN_IDLE`].
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Connections that wait for a permit or are being rejected. Each holds a descriptor.
pub(crate) const MAX_WAITING_CONNECTIONS: usize = 128;

/// Limit on open connections. At the limit, a new connection replaces an idle one.
///
/// A plain semaphore would let a client with many idle connections exclude all others. The registry is locked when a
/// connection starts or ends, never for a request.
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

/// All open connections.
#[derive(Debug, Default)]
struct Registry {
    next: u64,
    connections: HashMap<u64, Arc<ConnectionActivity>>,
    per_client: HashMap<IpAddr, usize>,
}

/// Permit of one open connection, released on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    activity: Arc<ConnectionActivity>,
    id: u64,
    registry: Arc<Mutex<Registry>>,
    _permit: OwnedSemaphorePermit,
}

/// Result of an attempt to evict an idle connection.
#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    /// One connection is being closed.
    Evicted,
    /// Nothing was evicted, but a permit may become free: connections are idle for too short a time, enough are being
    /// closed, or permits are in transit.
    TooYoung,
    /// Every connection has a request in flight.
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

    /// Takes a permit if one is free.
    pub fn try_acquire(&self, peer: Peer) -> Option<ConnectionPermit> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.permit(peer, permit))
    }

    /// Takes one of the slots of connections that wait or are being rejected.
    pub fn try_queue(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// Waits for a permit while evicting idle connections. `None` if every connection stays busy.
    ///
    /// Permits go to waiters in order of arrival, so that a waiter may get the permit of a connection that another one
    /// evicted. Each waiter therefore retries until it has a permit, and no more connections are closed than there are
    /// waiters.
    pub async fn acquire(&self, peer: Peer) -> Option<ConnectionPermit> {
        let _waiter = Waiter::new(&self.waiters);
        let deadline = tokio::time::Instant::now() + MAX_WAIT;
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            let eviction = self.evict(Instant::now());
            let is_last = eviction == Eviction::AllBusy || tokio::time::Instant::now() >= deadline;
            let wait = if is_last { Duration::ZERO } else { RETRY_DELAY };
            match timeout(wait, &mut permit).await {
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

    /// Evicts one idle connection: from the client address with the most connections, then one without any request,
    /// then the one that has been idle for longest.
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
    // A panic leaves at most a wrong count.
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Peer {
        Peer(IpAddr::from([192, 0, 2, last]))
    }

    /// Indices of the evicted permits in order of eviction.
    fn evicted(limit: &ConnectionLimit, permits: &[ConnectionPermit], now: Instant) -> Vec<usize> {
        let mut order = Vec::new();
        limit.waiters.store(permits.len(), Ordering::Relaxed);
        while limit.evict(now) == Eviction::Evicted {
            let new = (0..permits.len()).find(|index| permits[*index].activity.is_evicted() && !order.contains(index));
            order.push(new.expect("another permit is evicted"));
        }
        order
    }

    #[test]
    fn eviction_prefers_the_client_with_the_most_connections_and_unused_connections() {
        let limit = ConnectionLimit::new(5);
        let permits: Vec<_> = [1, 2, 2, 2, 3].map(|last| limit.try_acquire(peer(last)).unwrap()).into();
        drop(permits[1].activity.start_request());
        let _busy = permits[2].activity.start_request();
        let order = evicted(&limit, &permits, Instant::now() + Duration::from_secs(1));
        assert_eq!(order[..2], [3, 1], "unused before used, and never the busy one");
        assert_eq!(order.len(), 4);
        assert_eq!(limit.evict(Instant::now()), Eviction::TooYoung, "they are being closed");
    }

    #[tokio::test(start_paused = true)]
    async fn busy_connections_are_not_evicted() {
        let limit = ConnectionLimit::new(1);
        let permit = limit.try_acquire(peer(1)).unwrap();
        assert!(limit.try_acquire(peer(2)).is_none());
        let busy = permit.activity.start_request();
        assert!(limit.acquire(peer(2)).await.is_none());
        drop(busy);
        assert!(!permit.activity.is_evicted());
    }

    #[test]
    fn permit_in_transit_counts_as_available_soon() {
        let limit = ConnectionLimit::new(1);
        let _in_transit = Arc::clone(&limit.permits).try_acquire_owned().unwrap();
        let _waiter = Waiter::new(&limit.waiters);
        assert_eq!(limit.evict(Instant::now()), Eviction::TooYoung);
    }

    #[tokio::test]
    async fn connection_is_evicted_once_idle_for_long_enough() {
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
    async fn all_waiters_get_permits_of_idle_connections() {
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
        assert!(futures_util::future::join_all(waiting).await.into_iter().all(|has_permit| has_permit));
    }
}
