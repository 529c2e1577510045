//! Budget of the memory that a process holds for its clients, shared by dynamic thresholds.
//!
//! Bytes are reserved before they are allocated, and buffers count by their capacity. A client may hold at most
//! [`ALPHA`] times the free memory. This is the dynamic-threshold rule for shared packet buffers (A. K. Choudhury, E.
//! L. Hahne: Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998). One client alone gets four
//! fifths of the memory, several get equal shares, and there is always room for another one. Fixed shares would leave
//! most of the memory unused behind a reverse proxy, where all requests have one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::body_error::BodyError;
use crate::peer::Peer;

/// Limit of one client as a multiple of the free memory.
const ALPHA: usize = 4;

/// Reservations up to this size do not count against the limit of their client. This saves short requests the lookup
/// and leaves the last fifth of the memory to them.
pub const EXEMPT_BYTES: usize = 64 << 10;

/// Limit on the sum of all reservations. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    total: usize,
    used: AtomicUsize,
    /// Bytes of each client with a reservation of more than [`EXEMPT_BYTES`].
    clients: Mutex<HashMap<Client, usize>>,
}

/// Owner of a reservation. Requests without an address, as in tests, count as one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Client {
    #[default]
    Unknown,
    Address(IpAddr),
    /// The service itself, limited by the total only.
    Service,
}

/// Bytes of a [`MemoryBudget`] that are reserved for one request and released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    client: Client,
    bytes: usize,
    is_metered: bool,
}

impl MemoryBudget {
    /// Budget of `total` bytes.
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Pool { total, used: AtomicUsize::new(0), clients: Mutex::default() }))
    }

    /// Empty reservation for a request of `peer`.
    pub fn reservation(&self, peer: Option<Peer>) -> Reservation {
        let client = peer.map_or(Client::Unknown, |Peer(address)| Client::Address(address));
        Reservation { budget: self.clone(), client, bytes: 0, is_metered: false }
    }

    /// Empty reservation for work that belongs to several clients, such as a batch.
    pub fn shared_reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), client: Client::Service, bytes: 0, is_metered: false }
    }

    /// Bytes reserved at the moment.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Most bytes that one client can ever reserve.
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
    /// Reserved bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Budget of this reservation.
    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }

    /// Another empty reservation for the same client.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self { budget: self.budget.clone(), client: self.client, bytes: 0, is_metered: false }
    }

    /// Reserves `more` bytes.
    ///
    /// # Errors
    ///
    /// [`BodyError::NoMemory`] if other reservations hold them, [`BodyError::TooMuchMemory`] if one client can never
    /// reserve as many.
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
            let reserved = clients.get(&self.client).copied().unwrap_or(0) + unmetered;
            if reserved > (self.budget.0.total - used).saturating_mul(ALPHA) {
                drop(clients);
                self.budget.release(more);
                return Err(BodyError::NoMemory);
            }
            clients.insert(self.client, reserved);
            self.is_metered = true;
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Grows the reservation to `bytes`, if it is smaller.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.reserve(bytes.saturating_sub(self.bytes))
    }

    /// Releases `less` bytes, at most all.
    pub fn release(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        if self.is_metered {
            let mut clients = self.budget.clients();
            if let Some(reserved) = clients.get_mut(&self.client) {
                *reserved = reserved.saturating_sub(less);
                if *reserved == 0 {
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
    fn one_client_gets_four_fifths_and_leaves_memory_for_others() {
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
    fn small_reservations_count_against_the_total_only() {
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
        // A reservation that grows beyond the exemption counts with all its bytes.
        small[0].reserve(EXEMPT_BYTES).unwrap();
        assert_eq!(budget.clients().values().sum::<usize>(), 2 * EXEMPT_BYTES);
        drop(small);
        assert_eq!(budget.used(), 0);
    }
}
