//! Upload to the in-memory queue. Its bytes count against the limit of all jobs.

use bytes::Bytes;

use super::job::{MAX_ACCEPTED_BYTES, input_bytes, outcome_bytes};
use super::state::SharedState;
use crate::jobs::error::JobError;
use crate::jobs::types::Input;

/// Inputs of a job that is not submitted yet. Their bytes count against the limit of all jobs until the upload is dropped.
pub struct InMemoryUpload {
    state: SharedState,
    pub(super) inputs: Vec<Input>,
    pub(super) bytes: usize,
}

impl InMemoryUpload {
    pub(super) fn new(state: SharedState) -> Self {
        Self { state, inputs: Vec::new(), bytes: 0 }
    }

    pub(in crate::jobs) fn push(&mut self, mut input: Input) -> Result<(), JobError> {
        input.name.shrink_to_fit();
        if input.outcome.is_some() {
            input.data = Bytes::new();
        }
        let bytes = input_bytes(&input) + input.outcome.as_ref().map_or(0, outcome_bytes);
        let mut state = self.state.lock();
        if state.bytes + bytes > MAX_ACCEPTED_BYTES {
            return Err(JobError::OutOfMemory);
        }
        state.bytes += bytes;
        self.bytes += bytes;
        drop(state);
        // A slice would keep the whole request body alive.
        input.data = Bytes::copy_from_slice(&input.data);
        self.inputs.push(input);
        Ok(())
    }
}

impl Drop for InMemoryUpload {
    fn drop(&mut self) {
        // A submitted upload has passed its bytes on to its job.
        if self.bytes > 0 {
            self.state.lock().bytes -= self.bytes;
        }
    }
}
