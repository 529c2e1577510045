//! Abstract value of a tensor: its dependence on the rows of the batch, its shape, and its elements if they are axis lengths.

use std::rc::Rc;

use super::symbolic_dims::{Dim, SymbolTable};
use crate::onnx::proto::Tensor;

/// Why a tensor has its dependence: one clause.
pub type Reason = Rc<str>;

/// Largest integer tensor whose elements are tracked.
pub const MAX_ELEMENTS: usize = 256;

/// Largest rank that is tracked.
pub const MAX_AXES: usize = 32;

/// How a tensor depends on the rows of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchDependence {
    /// Neither on their values nor on the batch size.
    Invariant,
    /// On the batch size only. The tensor has no batch axis.
    BatchSize(Reason),
    /// Each slice along the batch axis depends on its row only.
    PerRow(BatchAxis),
    /// Each slice along the batch axis depends on its row, and on the row's index or the batch size.
    PerRowAndPosition(BatchAxis, Reason),
    /// Rows are in other positions than in the request. An indexing operator may restore them.
    Permuted(Reason),
    /// It holds elements of any rows, and their number depends on all rows. An indexing operator may sort them by row again.
    Selected(Reason),
    /// Some elements depend on several rows.
    Coupled(Reason),
    /// It could not be traced.
    Unknown(Reason),
}

/// The axis that contains the batch. It has `outer` × batch × `inner` elements, in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchAxis {
    pub axis: usize,
    pub outer: Dim,
    pub inner: Dim,
}

impl BatchAxis {
    /// An axis that has one element for each row.
    pub const fn on(axis: usize) -> Self {
        Self { axis, outer: Dim::number(1), inner: Dim::number(1) }
    }

    /// The same rows on another axis.
    pub fn moved_to(&self, axis: usize) -> Self {
        Self { axis, ..self.clone() }
    }

    /// Whether the axis has exactly one element for each row.
    pub fn is_unmerged(&self) -> bool {
        self.outer.is(1) && self.inner.is(1)
    }

    /// The length of the axis.
    pub fn length(&self) -> Option<Dim> {
        self.outer.times(&Dim::batch())?.times(&self.inner)
    }
}

/// Abstract value of a tensor.
#[derive(Clone, Debug)]
pub struct Value<'g> {
    pub dependence: BatchDependence,
    /// Absent if the rank or a length may depend on values of the inputs, or is unknown.
    pub shape: Option<Vec<Dim>>,
    /// The elements of a small integer or Boolean tensor, in row-major order. Floats hold them too after a cast.
    pub elements: Option<Vec<Dim>>,
    /// A constant of the file.
    pub constant: Option<&'g Tensor>,
}

impl<'g> Value<'g> {
    pub fn new(dependence: BatchDependence, shape: Option<Vec<Dim>>) -> Self {
        let shape = shape.filter(|shape| shape.len() <= MAX_AXES);
        Self { dependence, shape, elements: None, constant: None }
    }

    pub fn unknown(reason: Reason) -> Self {
        Self::new(BatchDependence::Unknown(reason), None)
    }

    /// A tensor of integers with these elements.
    pub fn of_elements(
        shape: Vec<Dim>,
        elements: Vec<Dim>,
        symbols: &SymbolTable,
        reason: impl FnOnce() -> Reason,
    ) -> Self {
        let counts = elements.iter().any(|element| symbols.depends_on_batch_size(element));
        let dependence = if counts { BatchDependence::BatchSize(reason()) } else { BatchDependence::Invariant };
        Self { elements: Some(elements), ..Self::new(dependence, Some(shape)) }
    }

    /// A constant of the file.
    pub fn constant(tensor: &'g Tensor) -> Self {
        let shape = tensor.dims.iter().take(MAX_AXES + 1).map(|&length| Dim::number(length)).collect();
        let count =
            tensor.dims.iter().try_fold(1_usize, |count, &length| count.checked_mul(usize::try_from(length).ok()?));
        let small = count.filter(|&count| count <= MAX_ELEMENTS);
        let elements = small.and_then(|count| elements(tensor).filter(|elements| elements.len() == count));
        let elements = elements.map(|elements| elements.into_iter().map(Dim::number).collect());
        Self { elements, constant: Some(tensor), ..Self::new(BatchDependence::Invariant, Some(shape)) }
    }

    /// The batch axis, if the tensor has one slice per row.
    pub fn batch_axis(&self) -> Option<&BatchAxis> {
        match &self.dependence {
            BatchDependence::PerRow(batch_axis) | BatchDependence::PerRowAndPosition(batch_axis, _) => Some(batch_axis),
            _ => None,
        }
    }

    pub fn is_invariant(&self) -> bool {
        self.dependence == BatchDependence::Invariant
    }

    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The elements as numbers.
    pub fn numbers(&self) -> Option<Vec<i64>> {
        self.elements.as_ref()?.iter().map(Dim::as_number).collect()
    }

    /// The only element as a number.
    pub fn number(&self) -> Option<i64> {
        match &self.elements.as_deref()? {
            [element] => element.as_number(),
            _ => None,
        }
    }

    /// The elements; each unknown element is a new symbol.
    pub fn elements_or_fresh(&self, symbols: &mut SymbolTable) -> Option<Vec<Dim>> {
        if let Some(elements) = &self.elements {
            return Some(elements.clone());
        }
        let counts = match &self.dependence {
            BatchDependence::Invariant => false,
            BatchDependence::BatchSize(_) => true,
            _ => return None,
        };
        let count = Dim::product(self.shape.as_ref()?)?.as_number()?;
        let count = usize::try_from(count).ok().filter(|&count| count <= MAX_ELEMENTS)?;
        Some((0..count).map(|_| symbols.fresh(counts)).collect())
    }
}

/// The elements of an integer or Boolean tensor.
fn elements(tensor: &Tensor) -> Option<Vec<i64>> {
    const BOOL: i32 = 9;
    if tensor.data_type != BOOL {
        return (tensor.raw_data.len() <= MAX_ELEMENTS * 8).then(|| tensor.integers())?;
    }
    let is_true = |value: bool| i64::from(value);
    if tensor.raw_data.is_empty() {
        return Some(tensor.int32_data.iter().map(|&value| is_true(value != 0)).collect());
    }
    Some(tensor.raw_data.iter().take(MAX_ELEMENTS + 1).map(|&value| is_true(value != 0)).collect())
}
