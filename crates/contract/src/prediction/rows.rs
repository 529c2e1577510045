use open_inference::Task;

use super::error::PredictionError;
use super::output::Output;

/// A result has at most so many rows.
const MAX_ROWS: usize = 100_000;

/// How a tensor is divided into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// How many there are.
    pub count: usize,
    /// Values of each.
    pub length: usize,
}

impl Output<'_> {
    /// The first axis counts rows; the others may have one length other than 1. A tensor with one axis has a row for each value,
    /// unless the model fixes that axis or has a label for each of three or more values: then it is one row.
    pub(super) fn rows(&self, task: Task, max_row_length: usize) -> Result<Rows, PredictionError> {
        let rows = match self.tensor.shape[..] {
            [] => Rows { count: 1, length: 1 },
            [length] if self.is_one_row(length) => Rows { count: 1, length },
            [count] => Rows { count, length: 1 },
            [count, ref rest @ ..] if rest.iter().filter(|&&length| length != 1).count() <= 1 => {
                Rows { count, length: rest.iter().product() }
            }
            _ => return Err(self.unsupported_shape(task)),
        };
        if rows.count > MAX_ROWS || !(1..=max_row_length).contains(&rows.length) {
            return Err(self.unsupported_shape(task));
        }
        Ok(rows)
    }

    fn is_one_row(&self, length: usize) -> bool {
        let is_fixed = matches!(self.metadata.shape[..], [declared] if declared > 1);
        is_fixed || length > 2 && self.metadata.parameters.labels.len() == length
    }
}
