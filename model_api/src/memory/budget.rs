//! Byte budget: a semaphore over blocks of memory.

use std::sync::Arc;

use bytes::Bytes;
use open_inference::Tensor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reservations are multiples of this size, bytes.
pub(super) const BLOCK_BYTES: usize = 64 << 10;

/// Up to this size no reservation is needed, bytes: the number of requests limits it.
pub(super) const FREE_BYTES: usize = 64 << 10;

/// A limited number of bytes for one purpose. Clones share it.
#[derive(Clone, Debug)]
pub struct Budget {
    blocks: Arc<Semaphore>,
    total: u32,
}

/// A reservation of bytes. Dropping it returns them.
#[derive(Debug)]
pub struct Reservation(#[allow(dead_code, reason = "it is held")] Option<Arc<OwnedSemaphorePermit>>);

/// Bytes with their reservation.
struct ReservedBytes {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Budget {
    /// A budget of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        Self { blocks: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> usize {
        self.total as usize * BLOCK_BYTES
    }

    /// Reserves `bytes` bytes. `None` if they are not available. A request for more than the budget reserves all of it.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        if bytes <= FREE_BYTES {
            return Some(Reservation(None));
        }
        let permit = Arc::clone(&self.blocks).try_acquire_many_owned(self.blocks_for(bytes)).ok()?;
        Some(Reservation(Some(Arc::new(permit))))
    }

    /// Like [`Self::try_reserve`], but waits until the bytes are available. Cancel-safe.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        if bytes <= FREE_BYTES {
            return Reservation(None);
        }
        // It fails only for a closed semaphore, and this one is never closed.
        Reservation(Arc::clone(&self.blocks).acquire_many_owned(self.blocks_for(bytes)).await.ok().map(Arc::new))
    }

    fn blocks_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX).min(self.total)
    }
}

impl Reservation {
    /// Attaches the reservation to `bytes`. It ends when the last copy of them is dropped.
    pub fn attach(&self, bytes: Bytes) -> Bytes {
        match &self.0 {
            Some(permit) => Bytes::from_owner(ReservedBytes { bytes, _permit: Arc::clone(permit) }),
            None => bytes,
        }
    }

    /// Attaches the reservation to the data of each tensor.
    pub fn attach_all(&self, tensors: Vec<Tensor>) -> Vec<Tensor> {
        if self.0.is_none() {
            return tensors;
        }
        tensors.into_iter().map(|tensor| Tensor { data: self.attach(tensor.data), ..tensor }).collect()
    }
}

/// Size of the data of all tensors, bytes.
pub fn bytes_of(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.data.len()).sum()
}
