//! Division of one request into several runs.
//!
//! `max_batch_size` bounds what the scheduler joins. It also bounds what one request runs at once: a request with more rows is
//! cut into pieces, which run one after the other, and their outputs are joined again. Memory in a session follows the rows
//! of one run, so without this one request of 20,000 small rows takes gigabytes. Only requests whose rows are independent
//! are cut. Any other runs as a whole, up to [`MAX_WHOLE_BYTES`] of inputs.

use std::time::Duration;

use bytes::BytesMut;
use open_inference::{Datatype, RowDependence, Tensor};

use super::mixing::{Mixing, is_independent};
use super::{BatchSettings, Ran, RunError};
use crate::session::{MAX_RESULT_BYTES, common_rows};

/// Rows of one piece at most, where the settings name no `max_batch_size`.
pub const MAX_PIECE_ROWS: usize = 256;

/// Bytes of the inputs of one piece at most, where the settings name no `max_batch_size`; a piece has at least as many rows as a
/// batch may have.
pub const MAX_PIECE_BYTES: usize = 4 << 20;

/// Bytes of the inputs of one request of several rows that cannot be cut.
const MAX_WHOLE_BYTES: usize = 64 << 20;

/// How one request runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Division {
    /// In one run.
    Whole,
    /// In pieces of so many rows, the last of which may have fewer.
    Pieces(usize),
}

impl Division {
    /// Decides for a request. The error is [`RunError::TooLarge`].
    pub fn of(inputs: &[Tensor], batch: &BatchSettings, mixing: &Mixing) -> Result<Self, RunError> {
        // The usual request ends here.
        if inputs.first().and_then(Tensor::rows).unwrap_or(1) <= 1 {
            return Ok(Self::Whole);
        }
        let rows = common_rows(inputs).unwrap_or(1);
        let bytes = bytes_of(inputs);
        let limit = batch.piece_rows(bytes / rows);
        let dependence = if rows > limit { mixing.rows() } else { None };
        match dependence {
            Some(dependence) if is_independent(dependence) => Ok(Self::Pieces(limit)),
            // A fixed first axis is no number of rows: nobody can send fewer.
            Some(RowDependence::NoBatchAxis) | None => Ok(Self::Whole),
            Some(_) => Self::whole(inputs),
        }
    }

    /// The same for a request that must not be cut.
    pub fn whole(inputs: &[Tensor]) -> Result<Self, RunError> {
        let (rows, bytes) = (common_rows(inputs).unwrap_or(1), bytes_of(inputs));
        if rows > 1 && bytes > MAX_WHOLE_BYTES {
            return Err(RunError::TooLarge(format!(
                "the request has {rows} rows with {bytes} bytes of inputs, which must run at once because the rows are not known \
                 to be independent; the limit is {MAX_WHOLE_BYTES} bytes; send fewer rows in each request"
            )));
        }
        Ok(Self::Whole)
    }
}

fn bytes_of(inputs: &[Tensor]) -> usize {
    inputs.iter().map(|tensor| tensor.data.len()).sum()
}

/// Cuts inputs, which have `rows` rows each, without copying them: the first row of each piece, and its inputs.
pub fn cut(inputs: &[Tensor], rows: usize, piece_rows: usize) -> impl Iterator<Item = (usize, Vec<Tensor>)> + use<> {
    let starts = (0..rows).step_by(piece_rows);
    let lengths: Vec<usize> = starts.clone().map(|start| piece_rows.min(rows - start)).collect();
    let mut columns: Vec<_> = inputs.iter().map(|input| input.split(&lengths).into_iter()).collect();
    starts.map(move |start| (start, columns.iter_mut().filter_map(Iterator::next).collect()))
}

/// The outputs of the pieces so far.
#[derive(Debug)]
pub struct Joined {
    outputs: Vec<(Tensor, BytesMut)>,
    waited: Duration,
    ran: Duration,
}

/// Why the outputs of a piece cannot follow those of the pieces before.
#[derive(Debug)]
pub enum Apart {
    /// They do not have a row for each row of the inputs, or rows of another shape.
    Shapes(String),
    /// All outputs together have more bytes than a result may have.
    TooLarge(RunError),
}

impl Joined {
    /// Begins with the first piece, of `piece_rows` of the request's `rows` rows. Memory for all outputs is taken once.
    pub fn begin(first: &Ran, piece_rows: usize, rows: usize) -> Result<Self, Apart> {
        let of_all = |output: &Tensor| (output.data.len() / piece_rows.max(1)).saturating_mul(rows);
        let bytes = first.outputs.iter().map(of_all).fold(0, usize::saturating_add);
        if bytes > MAX_RESULT_BYTES {
            return Err(Apart::TooLarge(RunError::result_too_large(bytes)));
        }
        let room = |output: &Tensor| {
            // The length of strings says nothing about those that follow.
            let bytes = if output.datatype == Datatype::Bytes { 0 } else { of_all(output) };
            let empty = Tensor { shape: output.shape.clone(), data: bytes::Bytes::new(), ..output.clone() };
            (empty, BytesMut::with_capacity(bytes))
        };
        let outputs = first.outputs.iter().map(room).collect();
        let mut joined = Self { outputs, waited: Duration::ZERO, ran: Duration::ZERO };
        joined
            .outputs
            .iter_mut()
            .filter(|(output, _)| !output.shape.is_empty())
            .for_each(|(output, _)| output.shape[0] = 0);
        joined.add(first, piece_rows)?;
        Ok(joined)
    }

    /// Adds the next piece.
    pub fn add(&mut self, piece: &Ran, rows: usize) -> Result<(), Apart> {
        for ((joined, _), output) in self.outputs.iter().zip(&piece.outputs) {
            if output.rows() != Some(rows) || output.shape.get(1..) != joined.shape.get(1..) {
                let (name, shape) = (&output.name, &output.shape);
                let reason = format!("output {name:?} of a run of {rows} rows has the shape {shape:?}");
                return Err(Apart::Shapes(reason));
            }
        }
        for ((joined, data), output) in self.outputs.iter_mut().zip(&piece.outputs) {
            joined.shape[0] += rows;
            data.extend_from_slice(&output.data);
        }
        let bytes = self.outputs.iter().map(|(_, data)| data.len()).sum();
        if bytes > MAX_RESULT_BYTES {
            return Err(Apart::TooLarge(RunError::result_too_large(bytes)));
        }
        self.waited += piece.waited;
        self.ran += piece.ran;
        Ok(())
    }

    /// The time that all runs so far took.
    pub fn ran(&self) -> Duration {
        self.ran
    }

    /// The outputs of all pieces. `last` is any of them.
    pub fn end(self, last: Ran) -> Ran {
        let outputs = self.outputs.into_iter().map(|(output, data)| Tensor { data: data.freeze(), ..output });
        Ran { outputs: outputs.collect(), waited: self.waited, ran: self.ran, ..last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(rows: usize, columns: usize) -> Vec<Tensor> {
        let values: Vec<f32> = (0..rows * columns).map(|number| number as f32).collect();
        vec![Tensor::from_f32("x", Datatype::Fp32, vec![rows, columns], &values).unwrap()]
    }

    #[test]
    fn a_piece_has_max_batch_size_rows_or_a_bounded_number_of_bytes() {
        let batch = |max_rows| BatchSettings::new(max_rows, Duration::ZERO, None, Duration::from_secs(30));
        assert_eq!((batch(7).piece_rows(4), batch(7).piece_rows(4 << 20)), (7, 7));
        assert_eq!(batch(0).piece_rows(4), MAX_PIECE_ROWS);
        assert_eq!(batch(0).piece_rows(MAX_PIECE_BYTES / 100), 100);
        assert_eq!(batch(0).piece_rows(4 << 20), 32, "as many as in a batch");
        assert_eq!(batch(0).without_batching().piece_rows(4), MAX_PIECE_ROWS);
    }

    #[test]
    fn pieces_cover_every_row_once_and_in_order() {
        let inputs = numbers(7, 2);
        let pieces: Vec<_> = cut(&inputs, 7, 3).collect();
        assert_eq!(pieces.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [0, 3, 6]);
        let parts: Vec<&Tensor> = pieces.iter().map(|(_, inputs)| &inputs[0]).collect();
        assert_eq!(Tensor::concat_rows(&parts).as_ref(), inputs.first());
    }

    #[test]
    fn what_must_run_as_a_whole_is_bounded() {
        let large = vec![Tensor { data: vec![0; MAX_WHOLE_BYTES + 4].into(), ..numbers(2, 1).remove(0) }];
        let Err(RunError::TooLarge(words)) = Division::whole(&large) else { panic!("it is too large") };
        assert!(
            words.contains("2 rows with 67108868 bytes") && words.contains("the limit is 67108864 bytes"),
            "{words}"
        );
        let one_row = vec![Tensor { shape: vec![1, 1], ..large[0].clone() }];
        assert_eq!(Division::whole(&one_row), Ok(Division::Whole), "one row cannot be made fewer");
    }
}
