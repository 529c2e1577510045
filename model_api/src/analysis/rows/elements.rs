//! Small constant tensors element by element, in row-major order: as exporters compute paddings and shapes with them.

use super::symbols::Dim;
use super::value::Value;

/// The axis lengths of a tensor whose elements are followed.
fn lengths(value: &Value) -> Option<Vec<usize>> {
    let lengths = value.shape.as_ref()?.iter().map(|dim| usize::try_from(dim.as_number()?).ok());
    lengths.collect::<Option<Vec<usize>>>()
}

/// The elements of a transposed tensor.
pub fn transposed(value: &Value, perm: &[usize]) -> Option<Vec<Dim>> {
    let (elements, lengths) = (value.elements.as_ref()?, lengths(value)?);
    let strides = strides(&lengths);
    let mut places = vec![0];
    for &axis in perm {
        let (length, stride) = (lengths[axis], strides[axis]);
        places = places.iter().flat_map(|place| (0..length).map(move |at| place + at * stride)).collect();
    }
    places.into_iter().map(|place| elements.get(place).cloned()).collect()
}

/// The elements at these places of an axis.
pub fn taken(value: &Value, axis: usize, places: &[usize]) -> Option<Vec<Dim>> {
    let (elements, lengths) = (value.elements.as_ref()?, lengths(value)?);
    let inner: usize = lengths.get(axis + 1..)?.iter().product();
    let outer: usize = lengths.get(..axis)?.iter().product();
    let length = lengths[axis];
    let all = (0..outer).flat_map(|block| places.iter().map(move |place| (block * length + place) * inner));
    all.flat_map(|start| start..start + inner).map(|place| elements.get(place).cloned()).collect()
}

fn strides(lengths: &[usize]) -> Vec<usize> {
    (0..lengths.len()).map(|axis| lengths[axis + 1..].iter().product()).collect()
}
