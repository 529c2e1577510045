//! Queue entry: one waiting request.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use open_inference::Tensor;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use crate::scheduler::error::RunError;
use crate::session::{SessionInfo, common_rows};

/// Priority class of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A client waits for the response.
    #[default]
    Interactive,
    /// Background work. It runs when no interactive request waits.
    Background,
}

/// How a request enters a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// At the back, if the queue has capacity.
    IfCapacity,
    /// At the front, always: a later chunk of an admitted request.
    Front,
    /// At the back, always: a request that another queue has admitted.
    Back,
}

/// Result of a run.
#[derive(Debug)]
pub struct RunOutput {
    /// In the order of the graph.
    pub outputs: Vec<Tensor>,
    /// The session that ran the request.
    pub session: Arc<SessionInfo>,
    /// Time in the queue.
    pub queue_time: Duration,
    /// Time in the session, including the transfer to its process.
    pub run_time: Duration,
}

/// A waiting request.
#[derive(Debug)]
pub struct Entry {
    /// In the order of the model's signature.
    pub inputs: Vec<Tensor>,
    /// Rows of the inputs. `None` if the request runs alone: its inputs have no rows, or different numbers of them.
    pub rows: Option<usize>,
    /// Rows of the whole request, of which this may be the first chunk.
    pub request_rows: usize,
    /// Whether the queue may reject it.
    pub admission: Admission,
    /// Limit on its run time, if it differs from the general one.
    pub time_budget: Option<Duration>,
    /// Priority class.
    pub priority: Priority,
    /// When it arrived.
    pub queued_at: Instant,
    /// Span of the request, so that events of its run are logged under its request ID.
    pub span: Span,
    /// Channel to the caller.
    pub reply: oneshot::Sender<Result<RunOutput, RunError>>,
}

impl Priority {
    /// Reads the header `Priority`. RFC 9218 (§4.1) reserves `u=7` for background work.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let value = headers.get("priority").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_background = value.split(',').any(|member| member.trim() == "u=7");
        if is_background { Self::Background } else { Self::Interactive }
    }
}

impl Entry {
    /// A request, and the channel on which its result arrives.
    pub fn new(inputs: Vec<Tensor>, priority: Priority) -> (Self, oneshot::Receiver<Result<RunOutput, RunError>>) {
        let (reply, response) = oneshot::channel();
        let rows = common_rows(&inputs);
        let entry = Self {
            inputs,
            rows,
            request_rows: rows.unwrap_or(1),
            admission: Admission::IfCapacity,
            time_budget: None,
            priority,
            queued_at: Instant::now(),
            span: Span::current(),
            reply,
        };
        (entry, response)
    }

    /// Excludes the request from batches: its inputs may have rows that cannot be concatenated with those of other requests.
    #[must_use]
    pub fn unbatched(self) -> Self {
        Self { rows: None, ..self }
    }

    /// Rows for which it counts in queue and batch. At least 1.
    pub fn weight(&self) -> usize {
        self.rows.unwrap_or(1).max(1)
    }

    /// Bytes of its inputs.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data.len()).sum()
    }

    /// Whether its caller has gone.
    pub fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    /// Whether both requests may share a batch: their inputs have the same names, datatypes and row shapes.
    pub fn can_batch_with(&self, other: &Self) -> bool {
        let matches = |(a, b): (&Tensor, &Tensor)| {
            a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..) && a.name == b.name
        };
        self.rows.is_some()
            && other.rows.is_some()
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(matches)
    }

    /// Sends the result to the caller, if it still waits.
    pub fn send_reply(self, result: Result<RunOutput, RunError>) {
        let _ = self.reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn entry(shapes: &[&[usize]]) -> Entry {
        let tensor = |(index, shape): (usize, &&[usize])| {
            let count = shape.iter().product();
            Tensor::from_f32(&index.to_string(), Datatype::Fp32, shape.to_vec(), &vec![0.0; count]).unwrap()
        };
        Entry::new(shapes.iter().enumerate().map(tensor).collect(), Priority::Interactive).0
    }

    #[test]
    fn only_rows_of_the_same_shape_share_a_batch() {
        let two = entry(&[&[2, 3]]);
        assert!(two.can_batch_with(&entry(&[&[5, 3]])));
        for other in [&[&[2_usize, 4][..]][..], &[&[2]], &[&[2, 3], &[2, 3]], &[&[2, 3, 1]], &[&[]]] {
            assert!(!two.can_batch_with(&entry(other)), "{other:?}");
        }
        let differ = entry(&[&[2, 3], &[1, 3]]);
        assert!(!differ.can_batch_with(&entry(&[&[2, 3], &[1, 3]])), "the numbers of rows differ");
        assert_eq!((two.weight(), differ.weight(), entry(&[&[]]).weight()), (2, 1, 1));
    }

    #[test]
    fn an_unbatched_request_shares_no_batch() {
        let unbatched = || entry(&[&[2, 3]]).unbatched();
        assert!(!unbatched().can_batch_with(&unbatched()) && !unbatched().can_batch_with(&entry(&[&[2, 3]])));
        assert!(!entry(&[&[2, 3]]).can_batch_with(&unbatched()));
    }

    #[test]
    fn urgency_7_of_rfc_9218_is_background_priority() {
        let priority = |value: &str| {
            Priority::from_headers(&[("priority".parse().unwrap(), value.parse().unwrap())].into_iter().collect())
        };
        assert_eq!((priority("u=7"), priority("i, u=7")), (Priority::Background, Priority::Background));
        assert_eq!((priority("u=6"), priority("")), (Priority::Interactive, Priority::Interactive));
        assert_eq!(Priority::from_headers(&HeaderMap::new()), Priority::Interactive);
    }
}
