//! Byte budget of one request: limits what its tensors take and reserves memory before it is allocated.

use http::StatusCode;
use service::memory_budget::Reservation;

use crate::error::Error;

/// What the tensors of one request may still take.
pub(crate) struct ByteBudget<'a> {
    remaining: usize,
    max_bytes: usize,
    memory: &'a mut Reservation,
}

impl<'a> ByteBudget<'a> {
    pub fn new(max_bytes: usize, memory: &'a mut Reservation) -> Self {
        Self { remaining: max_bytes, max_bytes, memory }
    }

    /// Bytes that further tensors may have.
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    /// Reserves memory that is about to be allocated.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        Ok(self.memory.reserve(bytes)?)
    }

    /// Counts the bytes of a tensor.
    pub fn consume(&mut self, bytes: usize) -> Result<(), Error> {
        self.remaining = self.remaining.checked_sub(bytes).ok_or_else(|| self.too_large())?;
        Ok(())
    }

    pub fn too_large(&self) -> Error {
        let message = format!("the tensors of the request take more than {} bytes", self.max_bytes);
        Error::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}
