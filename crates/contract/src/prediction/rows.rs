//! Division of a tensor into rows.

use open_inference::Task;

use super::error::PredictionError;
use super::output::Output;

/// Limit on the rows of a result.
const MAX_ROWS: usize = 100_000;

/// Division of a tensor into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    /// Number of rows.
    pub count: usize,
    /// Values per row.
    pub length: usize,
}

impl Output<'_> {
    /// Divides the tensor into rows. The first axis counts rows; at most one other axis may have a length other than 1.
    ///
    /// A tensor with one axis has one row per value. It is a single row if the model fixes that axis, or has a label
    /// for each of three or more values.
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
