use std::time::Duration;

use axum::http::HeaderMap;
use open_inference::Tensor;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Span;

use super::{Ran, RunError};
use crate::session::common_rows;

/// Who goes first where several wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody is waiting.
    #[default]
    Interactive,
    /// Nobody is waiting at this moment: it goes when nobody else does.
    Background,
}

/// How a request comes into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Where there is room.
    Checked,
    /// A later piece of a request that has been admitted: it goes first and is never refused.
    First,
    /// A request that has been admitted to another queue: it goes last and is never refused.
    Last,
}

/// A waiting request.
#[derive(Debug)]
pub struct Entry {
    /// In the order of the model's signature.
    pub inputs: Vec<Tensor>,
    /// `None` when its rows cannot go together with others': it has none, or its inputs have different numbers of them.
    pub rows: Option<usize>,
    /// Rows of the whole request, of which this may be the first piece.
    pub request_rows: usize,
    /// Whether it may be refused.
    pub admission: Admission,
    /// The time for its run, where it is not that of every request.
    pub allowance: Option<Duration>,
    /// Who goes first.
    pub urgency: Urgency,
    /// When it came.
    pub since: Instant,
    /// The asker's, so that what happens here is logged under its request id.
    pub span: Span,
    /// Where its asker waits.
    pub answer: oneshot::Sender<Result<Ran, RunError>>,
}

impl Urgency {
    /// `Priority: u=7` is what RFC 9218 (§4.1) keeps for background work.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let said = headers.get("priority").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_background = said.split(',').any(|member| member.trim() == "u=7");
        if is_background { Self::Background } else { Self::Interactive }
    }
}

impl Entry {
    /// A request, and where its answer will be.
    pub fn new(inputs: Vec<Tensor>, urgency: Urgency) -> (Self, oneshot::Receiver<Result<Ran, RunError>>) {
        let (answer, answered) = oneshot::channel();
        let rows = common_rows(&inputs);
        let entry = Self {
            inputs,
            rows,
            request_rows: rows.unwrap_or(1),
            admission: Admission::Checked,
            allowance: None,
            urgency,
            since: Instant::now(),
            span: Span::current(),
            answer,
        };
        (entry, answered)
    }

    /// Runs by itself: its inputs may have rows, and still may not be stacked with those of another request.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { rows: None, ..self }
    }

    /// What it counts for in a queue that is measured in rows.
    pub fn weight(&self) -> usize {
        self.rows.unwrap_or(1).max(1)
    }

    /// Of its inputs.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().map(|tensor| tensor.data.len()).sum()
    }

    /// Whether nobody waits for it any more.
    pub fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }

    /// Whether the rows of both can be one batch: the same inputs, of the same datatypes and row shapes.
    pub fn goes_with(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Tensor, &Tensor)| {
            a.datatype == b.datatype && a.shape.get(1..) == b.shape.get(1..) && a.name == b.name
        };
        self.rows.is_some()
            && other.rows.is_some()
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(alike)
    }

    /// Tells its asker, who may have gone.
    pub fn tell(self, answer: Result<Ran, RunError>) {
        let _ = self.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn entry(shapes: &[&[usize]]) -> Entry {
        let tensor = |(place, shape): (usize, &&[usize])| {
            let count = shape.iter().product();
            Tensor::from_f32(&place.to_string(), Datatype::Fp32, shape.to_vec(), &vec![0.0; count]).unwrap()
        };
        Entry::new(shapes.iter().enumerate().map(tensor).collect(), Urgency::Interactive).0
    }

    #[test]
    fn only_rows_of_the_same_shape_go_together() {
        let two = entry(&[&[2, 3]]);
        assert!(two.goes_with(&entry(&[&[5, 3]])));
        for other in [&[&[2_usize, 4][..]][..], &[&[2]], &[&[2, 3], &[2, 3]], &[&[2, 3, 1]], &[&[]]] {
            assert!(!two.goes_with(&entry(other)), "{other:?}");
        }
        let differ = entry(&[&[2, 3], &[1, 3]]);
        assert!(!differ.goes_with(&entry(&[&[2, 3], &[1, 3]])), "which rows belong together is the model's to know");
        assert_eq!((two.weight(), differ.weight(), entry(&[&[]]).weight()), (2, 1, 1));
    }

    #[test]
    fn a_request_that_runs_alone_goes_with_no_other() {
        let alone = || entry(&[&[2, 3]]).alone();
        assert!(!alone().goes_with(&alone()) && !alone().goes_with(&entry(&[&[2, 3]])));
        assert!(!entry(&[&[2, 3]]).goes_with(&alone()));
    }

    #[test]
    fn background_is_what_says_so_in_the_words_of_rfc_9218() {
        let urgency = |value: &str| {
            Urgency::from_headers(&[("priority".parse().unwrap(), value.parse().unwrap())].into_iter().collect())
        };
        assert_eq!((urgency("u=7"), urgency("i, u=7")), (Urgency::Background, Urgency::Background));
        assert_eq!((urgency("u=6"), urgency("")), (Urgency::Interactive, Urgency::Interactive));
        assert_eq!(Urgency::from_headers(&HeaderMap::new()), Urgency::Interactive);
    }
}
