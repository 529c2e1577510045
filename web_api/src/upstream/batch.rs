//! Batch of pending requests: which requests can share a call, how their rows are joined, and how the result is split.

use bytes::Bytes;
use http::HeaderValue;
use open_inference::{Inference, Tensor};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::Sender;
use tokio::time::Instant;
use tracing::Span;

use crate::error::Error;

/// Requests with more rows or bytes than this are not batched: the overhead of a call is a small part of their cost.
const MAX_BATCHABLE_ROWS: usize = 16;
const MAX_BATCHABLE_BYTES: usize = 64 << 10;

/// A request that waits to be sent.
pub struct PendingRequest {
    pub inputs: Vec<Tensor>,
    /// Rows of each input.
    pub rows: usize,
    /// When the caller's timeout expires.
    pub deadline: Instant,
    pub request_id: Option<HeaderValue>,
    pub span: Span,
    pub reply: Sender<Result<Inference, Error>>,
    /// A pending request counts towards `MAX_CONCURRENT_REQUESTS`.
    pub _permit: OwnedSemaphorePermit,
}

impl PendingRequest {
    /// Bytes of its inputs.
    pub fn bytes(&self) -> usize {
        bytes(&self.inputs)
    }
}

fn bytes(inputs: &[Tensor]) -> usize {
    inputs.iter().map(|tensor| tensor.data.len()).sum()
}

/// Number of rows of a request that is small enough to be batched.
pub fn batchable_rows(inputs: &[Tensor]) -> Option<usize> {
    let rows = inputs.first()?.rows().filter(|rows| (1..=MAX_BATCHABLE_ROWS).contains(rows))?;
    (bytes(inputs) <= MAX_BATCHABLE_BYTES && inputs.iter().all(|input| input.rows() == Some(rows))).then_some(rows)
}

/// Whether both have the same inputs in the same order, with the same datatypes and row shapes.
pub fn can_batch_with(one: &[Tensor], other: &[Tensor]) -> bool {
    let alike =
        |(a, b): (&Tensor, &Tensor)| a.name == b.name && a.datatype == b.datatype && a.shape[1..] == b.shape[1..];
    one.len() == other.len() && one.iter().zip(other).all(alike)
}

/// Concatenates the rows of all requests.
pub fn concat_rows(batch: &[PendingRequest]) -> Vec<Tensor> {
    let [first, _, ..] = batch else { return batch.iter().flat_map(|request| request.inputs.clone()).collect() };
    let column =
        |index: usize| Tensor::concat_rows(&batch.iter().map(|request| &request.inputs[index]).collect::<Vec<_>>());
    // Requests of a batch have the same inputs, so each column exists.
    (0..first.inputs.len()).filter_map(column).collect()
}

/// Splits a result into the rows of each request. `None` if the number of rows differs from the batch.
pub fn split_rows(inference: Inference, batch: &[PendingRequest]) -> Option<Vec<Inference>> {
    if batch.len() == 1 {
        return Some(vec![inference]);
    }
    let rows: Vec<usize> = batch.iter().map(|request| request.rows).collect();
    let sum = rows.iter().sum();
    if !inference.outputs.iter().all(|output| output.rows() == Some(sum)) {
        return None;
    }
    let mut columns: Vec<_> = inference.outputs.iter().map(|output| output.split(&rows).into_iter()).collect();
    let whole = Inference { outputs: Vec::new(), ..inference };
    // A copy: a cached result must not keep the rows of other requests in memory.
    let own = |rows: Tensor| Tensor { data: Bytes::copy_from_slice(&rows.data), ..rows };
    let part =
        |_| Inference { outputs: columns.iter_mut().filter_map(Iterator::next).map(own).collect(), ..whole.clone() };
    Some(rows.iter().map(part).collect())
}

/// Sends each request its result, in order.
pub fn send_replies(batch: Vec<PendingRequest>, results: impl IntoIterator<Item = Result<Inference, Error>>) {
    for (request, result) in batch.into_iter().zip(results) {
        // Fails only if the caller has disconnected.
        let _ = request.reply.send(result);
    }
}
