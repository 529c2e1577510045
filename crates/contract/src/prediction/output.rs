use open_inference::{Task, Tensor, TensorMetadata};

use super::error::PredictionError;

/// Tensors of more bytes are not written as JSON numbers in a typed result.
pub const MAX_JSON_TENSOR_BYTES: usize = 4 << 20;

/// An output that is read: its tensor, what is known of it, and the names of its classes.
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
