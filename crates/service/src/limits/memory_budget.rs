//! Budget of the memory that a process holds for its clients.
//!
//! A byte is reserved before it is kept, and buffers are counted by their capacity. The budget is shared out by the rule of
//! dynamic thresholds, which switches use for their packet buffers (A. K. Choudhury, E. L. Hahne: Dynamic Queue Length
//! Thresholds for Shared-Memory Packet Switches, 1998): a client may hold at most [`ALPHA`] times what is still free. One
//! client alone gets four fifths of the memory, several get equal parts, and there is always room for another. Fixed parts
//! would leave most of the memory unused behind a reverse proxy, where all requests have one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::body_error::BodyError;
use crate::peer::Peer;

/// How many times the free memory one client may hold.
const ALPHA: usize = 4;

/// A reservation of at most so many bytes is not held against its client's part. It saves short requests the look-up, and
/// leaves the last fifth of the memory to them.
pub const EXEMPT_BYTES: usize = 64 << 10;

/// Bytes that all reservations together may have. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    total: usize,
    used: AtomicUsize,
    /// Bytes of each client with more than [`EXEMPT_BYTES`] in one reservation.
    clients: Mutex<HashMap<Client, usize>>,
}

/// On whose behalf memory is held. Requests without an address, as in tests, are those of one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Client {
    #[default]
    Unknown,
    Address(IpAddr),
    /// The service itself: bounded by the total alone.
    Service,
}

/// Bytes of a [`MemoryBudget`] that are held for one request. They are free again when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    client: Client,
    bytes: usize,
    is_metered: bool,
}

impl MemoryBudget {
    /// A budget of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Pool { total, used: AtomicUsize::new(0), clients: Mutex::default() }))
    }

    /// An empty reservation for a request of `peer`.
    pub fn reservation(&self, peer: Option<Peer>) -> Reservation {
        let client = peer.map_or(Client::Unknown, |Peer(address)| Client::Address(address));
        Reservation { budget: self.clone(), client, bytes: 0, is_metered: false }
    }

    /// An empty reservation for work that belongs to several clients, such as a batch.
    pub fn shared_reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), client: Client::Service, bytes: 0, is_metered: false }
    }

    /// Bytes that are reserved at the moment.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// The most bytes that one client can ever hold.
    fn max_per_client(&self) -> usize {
        self.0.total / (ALPHA + 1) * ALPHA
    }

    fn acquire(&self, more: usize) -> Result<usize, BodyError> {
        let fits = |used: usize| used.checked_add(more).filter(|&used| used <= self.0.total);
        let before = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        before.map(|before| before + more).map_err(|_| BodyError::NoMemory)
    }

    fn release(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.0.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Bytes that are reserved.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The budget that it is part of.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Another reservation for the same client, still empty.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { budget: self.budget.clone(), client: self.client, bytes: 0, is_metered: false }
    }

    /// Reserves `more` bytes: [`BodyError::NoMemory`] where others hold them, [`BodyError::TooMuchMemory`] where one client
    /// never gets as many.
    pub fn reserve(&mut self, more: usize) -> Result<(), BodyError> {
        let bytes = self.bytes.saturating_add(more);
        let max = self.budget.max_per_client();
        if bytes > max {
            return Err(BodyError::TooMuchMemory { max });
        }
        let used = self.budget.acquire(more)?;
        if self.client != Client::Service && bytes > EXEMPT_BYTES {
            let unmetered = if self.is_metered { more } else { bytes };
            let mut clients = self.budget.clients();
            let held = clients.get(&self.client).copied().unwrap_or(0) + unmetered;
            if held > (self.budget.0.total - used).saturating_mul(ALPHA) {
                drop(clients);
                self.budget.release(more);
                return Err(BodyError::NoMemory);
            }
            clients.insert(self.client, held);
            self.is_metered = true;
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Reserves what is missing to `bytes` bytes altogether.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.reserve(bytes.saturating_sub(self.bytes))
    }

    /// Gives `less` bytes back, at most all.
    pub fn release(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        if self.is_metered {
            let mut clients = self.budget.clients();
            if let Some(held) = clients.get_mut(&self.client) {
                *held = held.saturating_sub(less);
                if *held == 0 {
                    clients.remove(&self.client);
                }
            }
        }
        self.budget.release(less);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn peer(last: u8) -> Peer {
        Peer(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn one_client_gets_four_fifths_and_there_is_room_for_another() {
        let budget = MemoryBudget::new(100 * MIB);
        let mut first = budget.reservation(Some(peer(1)));
        first.reserve(80 * MIB).unwrap();
        assert_eq!(first.reserve(MIB), Err(BodyError::TooMuchMemory { max: 80 * MIB }));
        assert_eq!(budget.reservation(Some(peer(1))).reserve(MIB), Err(BodyError::NoMemory));
        let mut second = budget.reservation(Some(peer(2)));
        second.reserve(16 * MIB).unwrap();
        assert_eq!(second.reserve(MIB), Err(BodyError::NoMemory));
        budget.reservation(Some(peer(3))).reserve(3 * MIB).unwrap();
        drop(first);
        second.reserve(20 * MIB).unwrap();
        drop(second);
        assert_eq!(budget.used(), 0);
        assert!(budget.clients().is_empty());
    }

    #[test]
    fn small_reservations_are_held_against_the_total_alone() {
        let budget = MemoryBudget::new(10 * EXEMPT_BYTES);
        let mut large = budget.reservation(Some(peer(1)));
        large.reserve(8 * EXEMPT_BYTES).unwrap();
        let mut small: Vec<_> = (0..2).map(|_| budget.reservation(Some(peer(1)))).collect();
        for small in &mut small {
            small.reserve(EXEMPT_BYTES).unwrap();
        }
        assert_eq!(budget.reservation(Some(peer(2))).reserve(1), Err(BodyError::NoMemory));
        drop(large);
        assert_eq!(budget.used(), 2 * EXEMPT_BYTES);
        // One that grows is held against its client's part with all that it has.
        small[0].reserve(EXEMPT_BYTES).unwrap();
        assert_eq!(budget.clients().values().sum::<usize>(), 2 * EXEMPT_BYTES);
        drop(small);
        assert_eq!(budget.used(), 0);
    }
}
