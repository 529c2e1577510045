use super::body_error::BodyError;
use super::memory_budget::Reservation;

/// Capacity of a growing buffer at least.
const MIN_GROWN_CAPACITY: usize = 64 << 10;

/// Growing buffer whose capacity is reserved before it is allocated.
#[derive(Debug, Default)]
pub struct ReservedBuffer {
    bytes: Vec<u8>,
}

impl ReservedBuffer {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends `data`. `length` is what the buffer will have in the end, where that is known, and `most` what it may have.
    ///
    /// A buffer of known length doubles up to exactly that; any other grows by half. While it is copied to a larger place,
    /// both places are reserved.
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
                // Most messages come in one piece.
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

    /// What is in it, with its capacity.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes
    }

    /// What is in it so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// What is in it, to be changed in place.
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
    fn a_buffer_is_reserved_by_its_capacity() {
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
        assert_eq!(buffer.bytes.capacity(), before, "nothing is allocated that is not reserved");
    }
}
