//! Padding of batches to the sizes of batch buckets.
//!
//! On a GPU, ONNX Runtime creates a plan for each convolution, and creates it again whenever the batch size changes. That takes
//! 12 ms for the shipped `mnist` and 30 ms to 2 s for `leukemia`, for runs of 0.5 and 10 ms. The size changes with nearly every
//! batch. So each bucket has a session for one size, which creates its plans once. Batches are padded to the next bucket.

use std::iter::{once, repeat_n};

use open_inference::Tensor;

use crate::session::shape::common_rows;

/// A batch that has been padded up with its last row.
#[derive(Debug, PartialEq)]
pub struct PaddedBatch {
    /// Inputs of `size` rows each.
    pub inputs: Vec<Tensor>,
    size: usize,
    rows: usize,
}

impl PaddedBatch {
    /// Pads the inputs to `size` rows. `None` unless they all have the same number of rows, fewer than `size`.
    pub fn new(inputs: &[Tensor], size: usize) -> Option<Self> {
        let rows = common_rows(inputs).filter(|&rows| rows < size)?;
        let pad = |input: &Tensor| {
            let last = input.split(&[rows - 1, 1]).pop()?;
            Tensor::concat_rows(&once(input).chain(repeat_n(&last, size - rows)).collect::<Vec<_>>())
        };
        let inputs = inputs.iter().map(pad).collect::<Option<_>>()?;
        Some(Self { inputs, size, rows })
    }

    /// Removes the padding from the outputs. `None` if they do not have `size` rows.
    pub fn unpad(&self, outputs: &[Tensor]) -> Option<Vec<Tensor>> {
        let unpad = |output: &Tensor| {
            let has_rows = output.rows() == Some(self.size);
            has_rows.then(|| output.split(&[self.rows, self.size - self.rows]).swap_remove(0))
        };
        outputs.iter().map(unpad).collect()
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![values.len(), 1], values).unwrap()
    }

    fn strings(words: &[&str]) -> Tensor {
        Tensor::from_strings("s", vec![words.len()], words.iter().map(ToString::to_string))
    }

    #[test]
    fn a_batch_is_padded_with_its_last_row_and_its_outputs_are_unpadded() {
        let padded = PaddedBatch::new(&[floats(&[1.0, 2.0, 3.0]), strings(&["a", "b", "c"])], 5).unwrap();
        assert_eq!(padded.inputs, [floats(&[1.0, 2.0, 3.0, 3.0, 3.0]), strings(&["a", "b", "c", "c", "c"])]);
        assert_eq!(padded.unpad(&padded.inputs).unwrap(), [floats(&[1.0, 2.0, 3.0]), strings(&["a", "b", "c"])]);
        assert_eq!(padded.unpad(&[floats(&[1.0])]), None, "one row for the whole batch");
    }

    #[test]
    fn batches_without_rows_or_with_enough_rows_are_not_padded() {
        let scalar = Tensor::from_f32("x", Datatype::Fp32, vec![], &[1.0]).unwrap();
        let uneven = vec![floats(&[1.0, 2.0, 3.0]), floats(&[1.0])];
        for inputs in [vec![], vec![scalar], vec![floats(&[0.5; 8])], vec![floats(&[])], uneven] {
            assert_eq!(PaddedBatch::new(&inputs, 8), None);
        }
    }
}
