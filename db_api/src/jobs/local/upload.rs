//! Inputs of a job that is not submitted yet, which count among the memory of all jobs.

use bytes::Bytes;

use super::LocalJobs;
use super::kept::{MAX_ACCEPTED_BYTES, input_bytes, outcome_bytes};
use crate::jobs::{Input, JobError};

/// Inputs of a job that is not submitted yet. Their bytes count among those of all jobs.
pub struct LocalUpload {
    pub(super) jobs: LocalJobs,
    pub(super) inputs: Vec<Input>,
    pub(super) bytes: usize,
}

impl LocalUpload {
    pub(in crate::jobs) fn push(&mut self, mut input: Input) -> Result<(), JobError> {
        input.name.shrink_to_fit();
        if input.known.is_some() {
            input.data = Bytes::new();
        }
        let bytes = input_bytes(&input) + input.known.as_ref().map_or(0, outcome_bytes);
        let mut state = self.jobs.state();
        if state.bytes + bytes > MAX_ACCEPTED_BYTES {
            return Err(JobError::Full);
        }
        state.bytes += bytes;
        self.bytes += bytes;
        drop(state);
        // A slice would keep all of the body that it is part of.
        input.data = Bytes::copy_from_slice(&input.data);
        self.inputs.push(input);
        Ok(())
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        // A submitted one has given its bytes to its job.
        if self.bytes > 0 {
            self.jobs.state().bytes -= self.bytes;
        }
    }
}
