//! Output that a typed result is computed from.

use open_inference::{Task, Tensor, TensorMetadata};

use super::error::PredictionError;

/// Size limit of tensors that are written as JSON numbers in a typed result.
pub const MAX_JSON_TENSOR_BYTES: usize = 4 << 20;

/// The selected output: tensor, metadata and labels of its classes.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub tensor: &'a Tensor,
    pub metadata: &'a TensorMetadata,
    pub labels: &'a [String],
}

impl Output<'_> {
    pub(super) fn unsupported_shape(&self, task: Task) -> PredictionError {
        PredictionError::UnsupportedShape {
            output: self.tensor.name.clone(),
            shape: self.tensor.shape.clone(),
            task: task.name(),
        }
    }
}
