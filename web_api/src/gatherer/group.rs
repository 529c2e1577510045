//! Questions that travel in one call: what goes together, as one request, and taken apart again.

use bytes::Bytes;
use http::HeaderValue;
use open_inference::{Inference, Tensor};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::Sender;
use tokio::time::Instant;
use tracing::Span;

use crate::error::Error;

/// Questions with more rows or bytes than this are calls of their own: what they cost is not the call.
const SMALL_ROWS: usize = 16;
const SMALL_BYTES: usize = 64 << 10;

/// A question that waits for its call.
pub struct Waiting {
    pub inputs: Vec<Tensor>,
    /// Of each input.
    pub rows: usize,
    /// When its caller is told that there is no answer.
    pub deadline: Instant,
    pub request_id: Option<HeaderValue>,
    pub span: Span,
    pub asker: Sender<Result<Inference, Error>>,
    /// Whoever waits counts among the questions that may be under way.
    pub _permit: OwnedSemaphorePermit,
}

impl Waiting {
    /// Of its inputs.
    pub fn bytes(&self) -> usize {
        bytes(&self.inputs)
    }
}

fn bytes(inputs: &[Tensor]) -> usize {
    inputs.iter().map(|tensor| tensor.data.len()).sum()
}

/// How many rows a question has that is small enough to go with others.
pub fn small_rows(inputs: &[Tensor]) -> Option<usize> {
    let rows = inputs.first()?.rows().filter(|rows| (1..=SMALL_ROWS).contains(rows))?;
    (bytes(inputs) <= SMALL_BYTES && inputs.iter().all(|input| input.rows() == Some(rows))).then_some(rows)
}

/// The same inputs in the same order, of the same datatypes and row shapes.
pub fn goes_with(one: &[Tensor], other: &[Tensor]) -> bool {
    let alike =
        |(a, b): (&Tensor, &Tensor)| a.name == b.name && a.datatype == b.datatype && a.shape[1..] == b.shape[1..];
    one.len() == other.len() && one.iter().zip(other).all(alike)
}

/// The rows of all, one after the other.
pub fn stack(group: &[Waiting]) -> Vec<Tensor> {
    let [first, _, ..] = group else { return group.iter().flat_map(|waiting| waiting.inputs.clone()).collect() };
    let column =
        |place: usize| Tensor::concat_rows(&group.iter().map(|waiting| &waiting.inputs[place]).collect::<Vec<_>>());
    // Those of a group go together, so there is one for each place.
    (0..first.inputs.len()).filter_map(column).collect()
}

/// To each question its rows; `None` when the answer has other rows than were asked for.
pub fn cut(inference: Inference, group: &[Waiting]) -> Option<Vec<Inference>> {
    if group.len() == 1 {
        return Some(vec![inference]);
    }
    let rows: Vec<usize> = group.iter().map(|waiting| waiting.rows).collect();
    let sum = rows.iter().sum();
    if !inference.outputs.iter().all(|output| output.rows() == Some(sum)) {
        return None;
    }
    let mut columns: Vec<_> = inference.outputs.iter().map(|output| output.split(&rows).into_iter()).collect();
    let whole = Inference { outputs: Vec::new(), ..inference };
    // A copy: an answer that is remembered must not keep those of its neighbours in memory.
    let own = |rows: Tensor| Tensor { data: Bytes::copy_from_slice(&rows.data), ..rows };
    let part =
        |_| Inference { outputs: columns.iter_mut().filter_map(Iterator::next).map(own).collect(), ..whole.clone() };
    Some(rows.iter().map(part).collect())
}

/// To each its answer, in their order.
pub fn tell(group: Vec<Waiting>, answers: impl IntoIterator<Item = Result<Inference, Error>>) {
    for (waiting, answer) in group.into_iter().zip(answers) {
        // Who has gone meanwhile needs none.
        let _ = waiting.asker.send(answer);
    }
}
