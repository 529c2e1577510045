//! Chunking of one request into several runs.
//!
//! `max_batch_size` limits the batches of the scheduler, and also the rows of a single request in one run. A request with more
//! rows is split into chunks, which run in sequence, and their outputs are concatenated. The memory of a session follows the rows
//! of a run: without chunks, one request of 20,000 small rows would take gigabytes. Only requests with independent rows are split.
//! Others run as a whole, up to [`MAX_UNSPLIT_BYTES`] of inputs.

use std::time::Duration;

use bytes::BytesMut;
use open_inference::{Datatype, RowDependence, Tensor};

use super::batching::policy::{BatchingPolicy, is_independent};
use super::error::RunError;
use super::queue::entry::RunOutput;
use super::settings::BatchSettings;
use crate::memory::{MAX_RESULT_BYTES, bytes_of};
use crate::session::common_rows;

/// Maximum size of the inputs of a request of several rows that cannot be split, bytes.
const MAX_UNSPLIT_BYTES: usize = 64 << 20;

/// How one request runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunking {
    /// In one run.
    Whole,
    /// In chunks of this many rows. The last one may have fewer.
    Chunks(usize),
}

impl Chunking {
    /// Plans the runs of a request. The error is [`RunError::TooLarge`].
    pub fn plan(inputs: &[Tensor], batch: &BatchSettings, policy: &BatchingPolicy) -> Result<Self, RunError> {
        // Fast path for requests of one row.
        if inputs.first().and_then(Tensor::rows).unwrap_or(1) <= 1 {
            return Ok(Self::Whole);
        }
        let rows = common_rows(inputs).unwrap_or(1);
        let bytes = bytes_of(inputs);
        let limit = batch.chunk_rows(bytes / rows);
        let dependence = if rows > limit { policy.row_dependence() } else { None };
        match dependence {
            Some(dependence) if is_independent(dependence) => Ok(Self::Chunks(limit)),
            // A fixed first axis is not a number of rows: no client could send fewer.
            Some(RowDependence::NoBatchAxis) | None => Ok(Self::Whole),
            Some(_) => Self::check_whole(inputs),
        }
    }

    /// Checks a request that must run as a whole.
    pub fn check_whole(inputs: &[Tensor]) -> Result<Self, RunError> {
        let (rows, bytes) = (common_rows(inputs).unwrap_or(1), bytes_of(inputs));
        if rows > 1 && bytes > MAX_UNSPLIT_BYTES {
            return Err(RunError::TooLarge(format!(
                "The request has {rows} rows with {bytes} bytes of inputs, which must run at once because the rows are not known \
                 to be independent; the limit is {MAX_UNSPLIT_BYTES} bytes. Send fewer rows in each request."
            )));
        }
        Ok(Self::Whole)
    }
}

/// Splits inputs of `rows` rows each, without copies. Yields the first row and the inputs of each chunk.
pub fn chunks(inputs: &[Tensor], rows: usize, chunk_rows: usize) -> impl Iterator<Item = (usize, Vec<Tensor>)> + use<> {
    let starts = (0..rows).step_by(chunk_rows);
    let lengths: Vec<usize> = starts.clone().map(|start| chunk_rows.min(rows - start)).collect();
    let mut columns: Vec<_> = inputs.iter().map(|input| input.split(&lengths).into_iter()).collect();
    starts.map(move |start| (start, columns.iter_mut().filter_map(Iterator::next).collect()))
}

/// Concatenates the outputs of chunks.
#[derive(Debug)]
pub struct OutputAssembler {
    outputs: Vec<(Tensor, BytesMut)>,
    queue_time: Duration,
    run_time: Duration,
}

/// Why the outputs of a chunk cannot be appended.
#[derive(Debug)]
pub enum AppendError {
    /// They do not have one row for each row of the inputs, or their rows have another shape.
    ShapeMismatch(String),
    /// The result exceeds the size limit.
    TooLarge(RunError),
}

impl OutputAssembler {
    /// Starts with the first chunk, which has `chunk_rows` of the `rows` rows. Allocates the memory for all outputs once.
    pub fn new(first: &RunOutput, chunk_rows: usize, rows: usize) -> Result<Self, AppendError> {
        let projected_bytes = |output: &Tensor| (output.data.len() / chunk_rows.max(1)).saturating_mul(rows);
        let bytes = first.outputs.iter().map(projected_bytes).fold(0, usize::saturating_add);
        if bytes > MAX_RESULT_BYTES {
            return Err(AppendError::TooLarge(RunError::result_too_large(bytes)));
        }
        let empty_output = |output: &Tensor| {
            // The lengths of strings do not predict those of later strings.
            let bytes = if output.datatype == Datatype::Bytes { 0 } else { projected_bytes(output) };
            let empty = Tensor { shape: output.shape.clone(), data: bytes::Bytes::new(), ..output.clone() };
            (empty, BytesMut::with_capacity(bytes))
        };
        let outputs = first.outputs.iter().map(empty_output).collect();
        let mut assembler = Self { outputs, queue_time: Duration::ZERO, run_time: Duration::ZERO };
        assembler
            .outputs
            .iter_mut()
            .filter(|(output, _)| !output.shape.is_empty())
            .for_each(|(output, _)| output.shape[0] = 0);
        assembler.append(first, chunk_rows)?;
        Ok(assembler)
    }

    /// Appends the next chunk.
    pub fn append(&mut self, chunk: &RunOutput, rows: usize) -> Result<(), AppendError> {
        for ((joined, _), output) in self.outputs.iter().zip(&chunk.outputs) {
            if output.rows() != Some(rows) || output.shape.get(1..) != joined.shape.get(1..) {
                let (name, shape) = (&output.name, &output.shape);
                let reason = format!("output {name:?} of a run of {rows} rows has the shape {shape:?}");
                return Err(AppendError::ShapeMismatch(reason));
            }
        }
        for ((joined, data), output) in self.outputs.iter_mut().zip(&chunk.outputs) {
            joined.shape[0] += rows;
            data.extend_from_slice(&output.data);
        }
        let bytes = self.outputs.iter().map(|(_, data)| data.len()).sum();
        if bytes > MAX_RESULT_BYTES {
            return Err(AppendError::TooLarge(RunError::result_too_large(bytes)));
        }
        self.queue_time += chunk.queue_time;
        self.run_time += chunk.run_time;
        Ok(())
    }

    /// Total run time of the chunks so far.
    pub fn run_time(&self) -> Duration {
        self.run_time
    }

    /// The result of the request. `last` is the output of any chunk.
    pub fn finish(self, last: RunOutput) -> RunOutput {
        let outputs = self.outputs.into_iter().map(|(output, data)| Tensor { data: data.freeze(), ..output });
        RunOutput { outputs: outputs.collect(), queue_time: self.queue_time, run_time: self.run_time, ..last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::settings::{MAX_CHUNK_BYTES, MAX_CHUNK_ROWS};

    fn numbers(rows: usize, columns: usize) -> Vec<Tensor> {
        let values: Vec<f32> = (0..rows * columns).map(|number| number as f32).collect();
        vec![Tensor::from_f32("x", Datatype::Fp32, vec![rows, columns], &values).unwrap()]
    }

    #[test]
    fn a_chunk_has_max_batch_size_rows_or_a_limited_number_of_bytes() {
        let batch = |max_rows| BatchSettings::new(max_rows, Duration::ZERO, None, Duration::from_secs(30));
        assert_eq!((batch(7).chunk_rows(4), batch(7).chunk_rows(4 << 20)), (7, 7));
        assert_eq!(batch(0).chunk_rows(4), MAX_CHUNK_ROWS);
        assert_eq!(batch(0).chunk_rows(MAX_CHUNK_BYTES / 100), 100);
        assert_eq!(batch(0).chunk_rows(4 << 20), 32, "as many as in a batch");
        assert_eq!(batch(0).without_batching().chunk_rows(4), MAX_CHUNK_ROWS);
    }

    #[test]
    fn chunks_cover_every_row_once_and_in_order() {
        let inputs = numbers(7, 2);
        let chunks: Vec<_> = chunks(&inputs, 7, 3).collect();
        assert_eq!(chunks.iter().map(|(start, _)| *start).collect::<Vec<_>>(), [0, 3, 6]);
        let parts: Vec<&Tensor> = chunks.iter().map(|(_, inputs)| &inputs[0]).collect();
        assert_eq!(Tensor::concat_rows(&parts).as_ref(), inputs.first());
    }

    #[test]
    fn a_request_that_cannot_be_split_is_limited() {
        let large = vec![Tensor { data: vec![0; MAX_UNSPLIT_BYTES + 4].into(), ..numbers(2, 1).remove(0) }];
        let Err(RunError::TooLarge(error)) = Chunking::check_whole(&large) else { panic!("it is too large") };
        assert!(
            error.contains("2 rows with 67108868 bytes") && error.contains("the limit is 67108864 bytes"),
            "{error}"
        );
        let one_row = vec![Tensor { shape: vec![1, 1], ..large[0].clone() }];
        assert_eq!(Chunking::check_whole(&one_row), Ok(Chunking::Whole), "a single row cannot be split");
    }
}
