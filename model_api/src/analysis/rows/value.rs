//! What the analysis holds of one tensor: how it depends on the rows of the batch, its shape, and its elements where it
//! holds axis lengths.

use std::rc::Rc;

use super::symbols::{Dim, Symbols};
use crate::onnx_file::Tensor;

/// Why a tensor is what it is: one sentence without the full stop.
pub type Reason = Rc<str>;

/// Larger tensors of integers are not followed element by element.
pub const MAX_ELEMENTS: usize = 256;

/// Shapes with more axes are not followed.
pub const MAX_AXES: usize = 32;

/// How a tensor depends on the rows of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Neither on their values nor on their number.
    Free,
    /// On their number only; the tensor has no batch axis.
    Count(Reason),
    /// Each slice along the batch axis depends on that row only.
    Each(Place),
    /// Each slice along the batch axis depends on that row, and on its number or the number of rows.
    Numbered(Place, Reason),
    /// It holds rows in other places than they came in. An operator that indexes may put them back.
    Moved(Reason),
    /// It holds elements of any rows, and how many they are depends on all of them. An operator that indexes may sort
    /// them by row again.
    Picked(Reason),
    /// Some elements depend on several rows.
    Coupled(Reason),
    /// It was not followed so far.
    Unknown(Reason),
}

/// Where the batch lies in a shape: the axis has `outer` × batch × `inner` elements, in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub axis: usize,
    pub outer: Dim,
    pub inner: Dim,
}

impl Place {
    /// An axis that has one element for each row.
    pub const fn axis(axis: usize) -> Self {
        Self { axis, outer: Dim::number(1), inner: Dim::number(1) }
    }

    /// The same rows on another axis.
    pub fn at(&self, axis: usize) -> Self {
        Self { axis, ..self.clone() }
    }

    /// Whether the axis has one element for each row.
    pub fn is_plain(&self) -> bool {
        self.outer.is(1) && self.inner.is(1)
    }

    /// The length of the axis.
    pub fn length(&self) -> Option<Dim> {
        self.outer.times(&Dim::batch())?.times(&self.inner)
    }
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct Value<'g> {
    pub rows: Rows,
    /// Absent where the rank or a length may depend on the inputs' values, or was not followed.
    pub shape: Option<Vec<Dim>>,
    /// The elements of a small integer or Boolean tensor, in row-major order. Floats hold them too after a cast.
    pub elements: Option<Vec<Dim>>,
    /// A constant of the file.
    pub constant: Option<&'g Tensor>,
}

impl<'g> Value<'g> {
    pub fn new(rows: Rows, shape: Option<Vec<Dim>>) -> Self {
        let shape = shape.filter(|shape| shape.len() <= MAX_AXES);
        Self { rows, shape, elements: None, constant: None }
    }

    pub fn unknown(reason: Reason) -> Self {
        Self::new(Rows::Unknown(reason), None)
    }

    /// A tensor of integers with these elements.
    pub fn of_elements(
        shape: Vec<Dim>,
        elements: Vec<Dim>,
        symbols: &Symbols,
        reason: impl FnOnce() -> Reason,
    ) -> Self {
        let counts = elements.iter().any(|element| symbols.counts_rows(element));
        let rows = if counts { Rows::Count(reason()) } else { Rows::Free };
        Self { elements: Some(elements), ..Self::new(rows, Some(shape)) }
    }

    /// A constant of the file.
    pub fn constant(tensor: &'g Tensor) -> Self {
        let shape = tensor.dims.iter().take(MAX_AXES + 1).map(|&length| Dim::number(length)).collect();
        let count =
            tensor.dims.iter().try_fold(1_usize, |count, &length| count.checked_mul(usize::try_from(length).ok()?));
        let small = count.filter(|&count| count <= MAX_ELEMENTS);
        let elements = small.and_then(|count| elements(tensor).filter(|elements| elements.len() == count));
        let elements = elements.map(|elements| elements.into_iter().map(Dim::number).collect());
        Self { elements, constant: Some(tensor), ..Self::new(Rows::Free, Some(shape)) }
    }

    /// The place of the batch, numbered or not.
    pub fn place(&self) -> Option<&Place> {
        match &self.rows {
            Rows::Each(place) | Rows::Numbered(place, _) => Some(place),
            _ => None,
        }
    }

    pub fn is_free(&self) -> bool {
        self.rows == Rows::Free
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

    /// The elements; each that is not known is a number of its own.
    pub fn elements_or_fresh(&self, symbols: &mut Symbols) -> Option<Vec<Dim>> {
        if let Some(elements) = &self.elements {
            return Some(elements.clone());
        }
        let counts = match &self.rows {
            Rows::Free => false,
            Rows::Count(_) => true,
            _ => return None,
        };
        let count = Dim::product(self.shape.as_ref()?)?.as_number()?;
        let count = usize::try_from(count).ok().filter(|&count| count <= MAX_ELEMENTS)?;
        Some((0..count).map(|_| symbols.fresh(counts)).collect())
    }
}

/// Integers and Booleans.
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
