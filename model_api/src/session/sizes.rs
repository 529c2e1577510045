//! Batches of few sizes.
//!
//! On a card, ONNX Runtime makes a plan for each convolution, and makes it anew whenever a batch has another size than the one
//! before: 12 ms for the shipped `mnist`, 30 ms to 2 s for `leukemia`, for runs of 0.5 and 10 ms. Sizes change with nearly
//! every batch. So there are sessions for one size each, which make their plans once, and batches are filled up to the next
//! of these sizes.

use std::iter::{once, repeat_n};

use open_inference::Tensor;

/// A batch that has been filled up with its last row.
#[derive(Debug, PartialEq)]
pub struct Filled {
    /// Of `size` rows each.
    pub inputs: Vec<Tensor>,
    size: usize,
    rows: usize,
}

impl Filled {
    /// `None` where the inputs do not have the same number of rows, fewer than `size`.
    pub fn new(inputs: &[Tensor], size: usize) -> Option<Self> {
        let rows = common_rows(inputs).filter(|&rows| rows < size)?;
        let fill = |input: &Tensor| {
            let last = input.split(&[rows - 1, 1]).pop()?;
            Tensor::concat_rows(&once(input).chain(repeat_n(&last, size - rows)).collect::<Vec<_>>())
        };
        let inputs = inputs.iter().map(fill).collect::<Option<_>>()?;
        Some(Self { inputs, size, rows })
    }

    /// The outputs without the rows that were not asked for; `None` where they do not follow the inputs' rows.
    pub fn cut(&self, outputs: &[Tensor]) -> Option<Vec<Tensor>> {
        let cut = |output: &Tensor| {
            let follows = output.rows() == Some(self.size);
            follows.then(|| output.split(&[self.rows, self.size - self.rows]).swap_remove(0))
        };
        outputs.iter().map(cut).collect()
    }
}

/// How many rows all inputs have; `None` when they differ, or when there are none.
pub fn common_rows(inputs: &[Tensor]) -> Option<usize> {
    let (first, rest) = inputs.split_first()?;
    let rows = first.rows().filter(|&rows| rows > 0)?;
    rest.iter().all(|input| input.rows() == Some(rows)).then_some(rows)
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn numbers(values: &[f32]) -> Tensor {
        Tensor::from_f32("x", Datatype::Fp32, vec![values.len(), 1], values).unwrap()
    }

    fn words(words: &[&str]) -> Tensor {
        Tensor::from_strings("s", vec![words.len()], words.iter().map(ToString::to_string))
    }

    #[test]
    fn a_batch_is_filled_up_with_its_last_row_and_its_outputs_are_cut() {
        let filled = Filled::new(&[numbers(&[1.0, 2.0, 3.0]), words(&["a", "b", "c"])], 5).unwrap();
        assert_eq!(filled.inputs, [numbers(&[1.0, 2.0, 3.0, 3.0, 3.0]), words(&["a", "b", "c", "c", "c"])]);
        assert_eq!(filled.cut(&filled.inputs).unwrap(), [numbers(&[1.0, 2.0, 3.0]), words(&["a", "b", "c"])]);
        assert_eq!(filled.cut(&[numbers(&[1.0])]), None, "one answer for all");
    }

    #[test]
    fn what_has_no_rows_or_enough_is_not_filled() {
        let scalar = Tensor::from_f32("x", Datatype::Fp32, vec![], &[1.0]).unwrap();
        let uneven = vec![numbers(&[1.0, 2.0, 3.0]), numbers(&[1.0])];
        for inputs in [vec![], vec![scalar], vec![numbers(&[0.5; 8])], vec![numbers(&[])], uneven] {
            assert_eq!(Filled::new(&inputs, 8), None);
        }
    }
}
