//! Matrix products: rows stay apart on the axes that are not summed over.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Rows, Value};
use super::elementwise;

/// `MatMul` of the inputs at these places. All other inputs are parameters, such as scales, which must not depend on rows.
pub fn matmul<'g>(call: &mut Call<'_, 'g, '_>, a: usize, b: usize) -> Values<'g> {
    let (Some(left), Some(right)) = (call.input(a).cloned(), call.input(b).cloned()) else {
        return call.all(call.unknown("has no inputs"));
    };
    if let Some(value) = parameters(call, &[a, b]) {
        return call.all(value);
    }
    let value = product(call, left, right);
    call.all(value)
}

/// The result where an input that is not among these depends on rows.
pub fn parameters<'g>(call: &Call<'_, 'g, '_>, data: &[usize]) -> Option<Value<'g>> {
    if let Some(rows) = call.settled().filter(|rows| *rows != Rows::Free) {
        return Some(Value::new(rows, None));
    }
    let others = call.inputs.iter().enumerate().filter(|(place, _)| !data.contains(place));
    let depends = others.into_iter().any(|(_, value)| value.as_ref().is_some_and(|value| !value.is_free()));
    depends.then(|| call.unknown("has a parameter that depends on rows"))
}

/// `FusedMatMul`, whose inputs may be transposed.
pub fn fused<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let (Some(mut left), Some(mut right)) = (call.input(0).cloned(), call.input(1).cloned()) else {
        return call.all(call.unknown("has no inputs"));
    };
    if let Some(value) = parameters(call, &[0, 1]) {
        return call.all(value);
    }
    if call.flag("transBatchA") || call.flag("transBatchB") {
        return call.all(call.not_followed());
    }
    if call.flag("transA") {
        left = transposed(left);
    }
    if call.flag("transB") {
        right = transposed(right);
    }
    let value = product(call, left, right);
    call.all(value)
}

/// `Gemm`.
pub fn gemm<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let (Some(mut left), Some(mut right)) = (call.input(0).cloned(), call.input(1).cloned()) else {
        return call.all(call.unknown("has no inputs"));
    };
    if call.flag("transA") {
        left = transposed(left);
    }
    if call.flag("transB") {
        right = transposed(right);
    }
    let product = product(call, left, right);
    let values: Vec<Value> = std::iter::once(product).chain(call.input(2).cloned()).collect();
    // What the product depends on counts, and no longer what its factors do.
    let inputs = std::mem::replace(&mut call.inputs, values.iter().cloned().map(Some).collect());
    let value = elementwise::broadcast(call, &values);
    call.inputs = inputs;
    call.all(value)
}

/// With the last two axes exchanged.
fn transposed(mut value: Value) -> Value {
    let Some(shape) = &mut value.shape else { return value };
    let rank = shape.len();
    if rank < 2 {
        return value;
    }
    shape.swap(rank - 1, rank - 2);
    if let Rows::Each(place) | Rows::Numbered(place, _) = &mut value.rows {
        place.axis = match place.axis {
            axis if axis == rank - 1 => rank - 2,
            axis if axis == rank - 2 => rank - 1,
            axis => axis,
        };
    }
    value
}

/// The matrix product of two tensors.
fn product<'g>(call: &mut Call<'_, 'g, '_>, left: Value<'g>, right: Value<'g>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        let shape = left.shape.zip(right.shape).and_then(|(a, b)| shape_of(call, a, b));
        return Value::new(rows, shape);
    }
    let (Some(a), Some(b)) = (left.shape.clone(), right.shape.clone()) else {
        return call.unknown("multiplies a tensor of unknown shape");
    };
    let (ranks, Some(shape)) = ((a.len(), b.len()), shape_of(call, a, b)) else { return call.not_followed() };
    let place = match (left.place(), right.place()) {
        (None, None) => return call.not_followed(),
        (Some(place), None) => left_place(place, ranks, shape.len()),
        (None, Some(place)) => right_place(place, ranks, shape.len()),
        (Some(a), Some(b)) => match (left_place(a, ranks, shape.len()), right_place(b, ranks, shape.len())) {
            (Some(a), Some(b)) if a == b => Some(a),
            (Some(a), Some(b)) if a.axis == b.axis => {
                return call.unknown("multiplies batch axes that are merged with others");
            }
            (Some(_), Some(_)) => return call.coupled("multiplies each row with every other one"),
            _ => None,
        },
    };
    let Some(place) = place else { return call.coupled("sums over the batch axis") };
    let rank = ranks.0.max(ranks.1);
    for value in [&left, &right].into_iter().filter(|value| value.place().is_none()) {
        let other = value.shape.as_deref().unwrap_or_default();
        let axis = (place.axis + other.len()).checked_sub(rank).filter(|&axis| axis + 2 < other.len());
        if axis.is_some_and(|axis| !other[axis].is(1)) {
            let reason = call.reason("combines the batch axis with an axis of fixed length");
            return Value::new(Rows::Numbered(place, reason), Some(shape));
        }
    }
    call.each(place, shape)
}

/// Where an axis of the left factor is in the product; `None` if it is summed over.
fn left_place(place: &Place, (a, b): (usize, usize), rank: usize) -> Option<Place> {
    if place.axis + 1 == a {
        return None;
    }
    // Without the right factor's columns the rows are the last axis.
    let from_end = a - place.axis - usize::from(b == 1);
    Some(place.at(rank - from_end))
}

fn right_place(place: &Place, (a, b): (usize, usize), rank: usize) -> Option<Place> {
    if b == 1 || place.axis + 2 == b {
        return None;
    }
    let from_end = b - place.axis;
    // Without the left factor's rows the axes before the columns are one nearer to the end.
    let from_end = if a == 1 && place.axis + 1 < b { from_end - 1 } else { from_end };
    Some(place.at(rank - from_end))
}

fn shape_of(call: &mut Call, mut a: Vec<Dim>, mut b: Vec<Dim>) -> Option<Vec<Dim>> {
    let (a_is_vector, b_is_vector) = (a.len() == 1, b.len() == 1);
    if a_is_vector {
        a.insert(0, Dim::number(1));
    }
    if b_is_vector {
        b.push(Dim::number(1));
    }
    let (Some((rows, a)), Some((columns, b))) = (
        a.split_last().and_then(|(_, rest)| rest.split_last()),
        b.split_last().and_then(|(columns, rest)| Some((columns, rest.split_last()?.1))),
    ) else {
        return None;
    };
    let batches = [a, b].map(|dims| Value::new(Rows::Free, Some(dims.to_vec())));
    let mut shape = elementwise::broadcast_shape(&mut call.walk.symbols, &batches)?;
    if !a_is_vector {
        shape.push(rows.clone());
    }
    if !b_is_vector {
        shape.push(columns.clone());
    }
    Some(shape)
}
