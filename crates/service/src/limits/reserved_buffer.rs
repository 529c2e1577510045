//! Growable buffer with a memory reservation.

use super::body_error::BodyError;
use super::memory_budget::Reservation;

/// Minimum capacity of a buffer that has grown.
const MIN_GROWN_CAPACITY: usize = 64 << 10;

/// Growable buffer whose capacity is reserved before it is allocated.
#[derive(Debug, Default)]
pub struct ReservedBuffer {
    bytes: Vec<u8>,
}

impl ReservedBuffer {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `data`. `length` is the final length if it is known, and `max` the limit.
    ///
    /// A buffer of known length doubles up to exactly that length; any other grows by half. Both allocations are
    /// reserved while the content is copied.
    pub fn extend(
        &mut self,
        data: &[u8],
        length: Option<usize>,
        max: usize,
        reservation: &mut Reservation,
    ) -> Result<(), BodyError> {
        let (needed, before) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if needed > before {
            let capacity = match length {
                Some(length) if length >= needed => length.min((2 * needed).max(MIN_GROWN_CAPACITY)),
                // Most messages arrive as one chunk.
                _ if before == 0 => needed,
                _ => needed.max(before / 2 * 3).max(MIN_GROWN_CAPACITY).min(max.max(needed)),
            };
            reservation.reserve(capacity)?;
            let mut grown = Vec::with_capacity(capacity);
            grown.extend_from_slice(&self.bytes);
            self.bytes = grown;
            reservation.release(before);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Content of the buffer, with its capacity.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// Content of the buffer.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Mutable content of the buffer.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory_budget::MemoryBudget;

    const MIB: usize = 1 << 20;

    #[test]
    fn buffer_reserves_its_capacity() {
        let budget = MemoryBudget::new(64 * MIB);
        for length in [None, Some(5 * MIB)] {
            let mut reservation = budget.reservation(None);
            let mut buffer = ReservedBuffer::default();
            for _ in 0..80 {
                buffer.extend(&vec![7; 64 << 10], length, 8 * MIB, &mut reservation).unwrap();
                assert_eq!(reservation.bytes(), buffer.bytes.capacity());
            }
            assert_eq!(buffer.len(), 5 * MIB);
            assert!(buffer.into_vec().capacity() <= length.unwrap_or(8 * MIB));
        }
        let mut buffer = ReservedBuffer::default();
        let mut reservation = budget.reservation(None);
        let small = MemoryBudget::new(MIB);
        buffer.extend(&vec![7; MIB], None, 8 * MIB, &mut reservation).unwrap();
        let before = buffer.bytes.capacity();
        assert!(buffer.extend(&vec![7; MIB], None, 8 * MIB, &mut small.reservation(None)).is_err());
        assert_eq!(buffer.bytes.capacity(), before, "nothing is allocated without a reservation");
    }
}
