//! One node while it is evaluated: its inputs, its attributes, and how results are put together.

use super::symbols::Dim;
use super::value::{Place, Reason, Rows, Value};
use super::walk::{Scope, Walk, resolve, title};
use crate::onnx_file::{Attribute, Graph, Node};

/// A node with the values of its inputs.
pub struct Call<'c, 'g, 's> {
    pub node: &'g Node,
    /// Those that are left out are `None`.
    pub inputs: Vec<Option<Value<'g>>>,
    pub scope: &'c Scope<'g, 's>,
    pub walk: &'c mut Walk<'g>,
}

/// One value for each output.
pub type Values<'g> = Vec<Value<'g>>;

impl<'g> Call<'_, 'g, '_> {
    pub fn input(&self, place: usize) -> Option<&Value<'g>> {
        self.inputs.get(place)?.as_ref()
    }

    pub fn given(&self) -> impl Iterator<Item = &Value<'g>> {
        self.inputs.iter().flatten()
    }

    /// The version of the operator set that the operator is from.
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

    /// Integers from an attribute, or from an input where later versions have it; `None` if they are computed from
    /// something that is not known, `Some(None)` if they are left out.
    #[allow(clippy::option_option, reason = "left out and not known are different")]
    pub fn ints_from(&self, attribute: &str, input: usize) -> Option<Option<Vec<i64>>> {
        if let Some(ints) = self.ints(attribute) {
            return Some(Some(ints.to_vec()));
        }
        match self.input(input) {
            Some(value) => value.numbers().map(Some),
            None => Some(None),
        }
    }

    /// A sentence about this node.
    pub fn reason(&self, words: &str) -> Reason {
        format!("{} {:?} {words}", self.node.op_type, title(self.node)).into()
    }

    pub fn unknown(&self, words: &str) -> Value<'g> {
        Value::unknown(self.reason(words))
    }

    pub fn coupled(&self, words: &str) -> Value<'g> {
        Value::new(Rows::Coupled(self.reason(words)), None)
    }

    pub fn moved(&self, words: &str) -> Value<'g> {
        Value::new(Rows::Moved(self.reason(words)), None)
    }

    pub fn picked(&self, words: &str) -> Value<'g> {
        Value::new(Rows::Picked(self.reason(words)), None)
    }

    /// The same for every output.
    pub fn all(&self, value: Value<'g>) -> Values<'g> {
        vec![value; self.node.output.len()]
    }

    /// An axis that may count from the end.
    pub fn axis(axis: i64, rank: usize) -> Option<usize> {
        let rank = i64::try_from(rank).ok()?;
        let axis = if axis < 0 { axis.checked_add(rank)? } else { axis };
        (0..rank).contains(&axis).then(|| usize::try_from(axis).ok())?
    }

    /// What the result is whatever the operator does: because no input depends on rows, or because one is not sorted by
    /// row any more, or was not followed.
    pub fn settled(&self) -> Option<Rows> {
        let mut worst = Rows::Free;
        for value in self.given() {
            if severity(&value.rows) > severity(&worst) {
                worst = value.rows.clone();
            }
        }
        match worst {
            Rows::Each(_) | Rows::Numbered(..) | Rows::Count(_) => None,
            worst => Some(worst),
        }
    }

    /// The result of an operator that is not known: certain only if no input depends on rows, or one is coupled.
    pub fn not_followed(&self) -> Value<'g> {
        match self.settled() {
            Some(Rows::Picked(_)) => self.unknown("sorts elements by row in a way that is not followed"),
            Some(rows) => Value::new(rows, None),
            None => self.unknown("is not followed"),
        }
    }

    /// Rows stay where they are: with the number of rows in the result wherever one of the inputs has it.
    pub fn each(&self, place: Place, shape: Vec<Dim>) -> Value<'g> {
        let reason = self.given().find_map(|value| match &value.rows {
            Rows::Count(reason) | Rows::Numbered(_, reason) => Some(reason.clone()),
            _ => None,
        });
        let rows = match reason {
            Some(reason) => Rows::Numbered(place, reason),
            None => Rows::Each(place),
        };
        Value::new(rows, Some(shape))
    }

    /// An axis of unknown length.
    pub fn fresh(&mut self) -> Dim {
        self.walk.symbols.fresh(false)
    }
}

/// What a result is that is made of several inputs: the worst of them.
const fn severity(rows: &Rows) -> u8 {
    match rows {
        Rows::Free => 0,
        Rows::Count(_) => 1,
        Rows::Each(_) => 2,
        Rows::Numbered(..) => 3,
        Rows::Unknown(_) => 4,
        Rows::Picked(_) => 5,
        Rows::Moved(_) => 6,
        Rows::Coupled(_) => 7,
    }
}
