//! Node context: inputs and attributes of the node that is being evaluated, and constructors for its results.

use super::scope::{Interpreter, Scope, resolve};
use super::symbolic_dims::Dim;
use super::value::{BatchAxis, BatchDependence, Reason, Value};
use crate::onnx::analysis::graph::node_label;
use crate::onnx::proto::{Attribute, Graph, Node};

/// A node with the values of its inputs.
pub struct NodeContext<'c, 'g, 's> {
    pub node: &'g Node,
    /// `None` for an optional input that is absent.
    pub inputs: Vec<Option<Value<'g>>>,
    pub scope: &'c Scope<'g, 's>,
    pub interpreter: &'c mut Interpreter<'g>,
}

/// One value for each output.
pub type Values<'g> = Vec<Value<'g>>;

impl<'g> NodeContext<'_, 'g, '_> {
    pub fn input(&self, index: usize) -> Option<&Value<'g>> {
        self.inputs.get(index)?.as_ref()
    }

    pub fn present_inputs(&self) -> impl Iterator<Item = &Value<'g>> {
        self.inputs.iter().flatten()
    }

    /// The version of the operator's operator set.
    pub fn version(&self) -> i64 {
        self.scope.version(&self.node.domain)
    }

    pub fn attribute(&self, name: &str) -> Option<&'g Attribute> {
        resolve(self.node.attribute(name), self.scope.frame())
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i)
    }

    pub fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.int_or(name, 0) != 0
    }

    pub fn ints(&self, name: &str) -> Option<&'g [i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    pub fn text(&self, name: &str) -> Option<&'g str> {
        self.attribute(name).and_then(|attribute| std::str::from_utf8(&attribute.s).ok())
    }

    pub fn graph(&self, name: &str) -> Option<&'g Graph> {
        self.attribute(name).and_then(|attribute| attribute.g.as_ref())
    }

    /// Integers from an attribute, or from an input, which later operator sets use. `None` if the values are unknown;
    /// `Some(None)` if neither is present.
    #[allow(clippy::option_option, reason = "absent and unknown are different")]
    pub fn ints_from_attribute_or_input(&self, attribute: &str, input: usize) -> Option<Option<Vec<i64>>> {
        if let Some(ints) = self.ints(attribute) {
            return Some(Some(ints.to_vec()));
        }
        match self.input(input) {
            Some(value) => value.numbers().map(Some),
            None => Some(None),
        }
    }

    /// A clause with this node as its subject.
    pub fn reason(&self, words: &str) -> Reason {
        format!("{} {:?} {words}", self.node.op_type, node_label(self.node)).into()
    }

    pub fn unknown(&self, words: &str) -> Value<'g> {
        Value::unknown(self.reason(words))
    }

    pub fn coupled(&self, words: &str) -> Value<'g> {
        Value::new(BatchDependence::Coupled(self.reason(words)), None)
    }

    pub fn permuted(&self, words: &str) -> Value<'g> {
        Value::new(BatchDependence::Permuted(self.reason(words)), None)
    }

    pub fn selected(&self, words: &str) -> Value<'g> {
        Value::new(BatchDependence::Selected(self.reason(words)), None)
    }

    /// The same value for every output.
    pub fn for_all_outputs(&self, value: Value<'g>) -> Values<'g> {
        vec![value; self.node.output.len()]
    }

    /// Resolves an axis that may be negative, counted from the end.
    pub fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
        let rank = i64::try_from(rank).ok()?;
        let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
        (0..rank).contains(&axis).then(|| usize::try_from(axis).ok())?
    }

    /// The dependence of the result if it is the same for every operator: no input depends on rows, or one input is permuted,
    /// selected, coupled or unknown.
    pub fn forced_dependence(&self) -> Option<BatchDependence> {
        let mut worst = BatchDependence::Invariant;
        for value in self.present_inputs() {
            if severity(&value.dependence) > severity(&worst) {
                worst = value.dependence.clone();
            }
        }
        match worst {
            BatchDependence::PerRow(_) | BatchDependence::PerRowAndPosition(..) | BatchDependence::BatchSize(_) => None,
            worst => Some(worst),
        }
    }

    /// The result of an unsupported operator. It is certain only if no input depends on rows, or if one is coupled.
    pub fn unsupported(&self) -> Value<'g> {
        match self.forced_dependence() {
            Some(BatchDependence::Selected(_)) => self.unknown("sorts elements by row in a way that is not traced"),
            Some(dependence) => Value::new(dependence, None),
            None => self.unknown("is not supported by the analysis"),
        }
    }

    /// A result with one slice per row. It also depends on the batch size if one of the inputs does.
    pub fn per_row(&self, batch_axis: BatchAxis, shape: Vec<Dim>) -> Value<'g> {
        let reason = self.present_inputs().find_map(|value| match &value.dependence {
            BatchDependence::BatchSize(reason) | BatchDependence::PerRowAndPosition(_, reason) => Some(reason.clone()),
            _ => None,
        });
        let dependence = match reason {
            Some(reason) => BatchDependence::PerRowAndPosition(batch_axis, reason),
            None => BatchDependence::PerRow(batch_axis),
        };
        Value::new(dependence, Some(shape))
    }

    /// An axis of unknown length.
    pub fn fresh_dim(&mut self) -> Dim {
        self.interpreter.symbols.fresh(false)
    }
}

/// Order of dependences: the result of several inputs has the worst of theirs.
const fn severity(dependence: &BatchDependence) -> u8 {
    match dependence {
        BatchDependence::Invariant => 0,
        BatchDependence::BatchSize(_) => 1,
        BatchDependence::PerRow(_) => 2,
        BatchDependence::PerRowAndPosition(..) => 3,
        BatchDependence::Unknown(_) => 4,
        BatchDependence::Selected(_) => 5,
        BatchDependence::Permuted(_) => 6,
        BatchDependence::Coupled(_) => 7,
    }
}
