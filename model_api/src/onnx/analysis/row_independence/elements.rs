//! Element tracking: small integer tensors element by element, in row-major order. Exporters compute shapes and paddings with
//! them.

use super::symbolic_dims::Dim;
use super::value::Value;

/// The axis lengths of a tensor whose elements are tracked.
fn lengths(value: &Value) -> Option<Vec<usize>> {
    let lengths = value.shape.as_ref()?.iter().map(|dim| usize::try_from(dim.as_number()?).ok());
    lengths.collect::<Option<Vec<usize>>>()
}

/// The elements of a transposed tensor.
pub fn transposed(value: &Value, perm: &[usize]) -> Option<Vec<Dim>> {
    let (elements, lengths) = (value.elements.as_ref()?, lengths(value)?);
    let strides = strides(&lengths);
    let mut positions = vec![0];
    for &axis in perm {
        let (length, stride) = (lengths[axis], strides[axis]);
        positions = positions.iter().flat_map(|position| (0..length).map(move |at| position + at * stride)).collect();
    }
    positions.into_iter().map(|position| elements.get(position).cloned()).collect()
}

/// The elements at these positions of an axis.
pub fn gathered(value: &Value, axis: usize, positions: &[usize]) -> Option<Vec<Dim>> {
    let (elements, lengths) = (value.elements.as_ref()?, lengths(value)?);
    let inner: usize = lengths.get(axis + 1..)?.iter().product();
    let outer: usize = lengths.get(..axis)?.iter().product();
    let length = lengths[axis];
    let all = (0..outer).flat_map(|block| positions.iter().map(move |position| (block * length + position) * inner));
    all.flat_map(|start| start..start + inner).map(|position| elements.get(position).cloned()).collect()
}

fn strides(lengths: &[usize]) -> Vec<usize> {
    (0..lengths.len()).map(|axis| lengths[axis + 1..].iter().product()).collect()
}
