//! Operators that only move elements: transposing, reshaping, joining and cutting.

use super::super::call::{Call, Values};
use super::super::elements;
use super::super::symbols::Dim;
use super::super::value::{Place, Rows, Value};

/// `Transpose`.
pub fn transpose<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let Some(shape) = &data.shape else { return Value::new(data.rows, None) };
    let rank = shape.len();
    let perm: Option<Vec<usize>> = match call.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| Call::axis(axis, rank)).collect(),
        None => Some((0..rank).rev().collect()),
    };
    let is_whole = |perm: &Vec<usize>| perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis));
    let Some(perm) = perm.filter(is_whole) else { return call.unknown("has a wrong permutation") };
    let moved = Some(perm.iter().map(|&axis| shape[axis].clone()).collect());
    let place = |place: &Place| perm.iter().position(|&axis| axis == place.axis).map(|axis| place.at(axis));
    let rows = match &data.rows {
        Rows::Each(old) => place(old).map(Rows::Each),
        Rows::Numbered(old, reason) => place(old).map(|place| Rows::Numbered(place, reason.clone())),
        rows => Some(rows.clone()),
    };
    let elements = elements::transposed(&data, &perm);
    rows.map_or_else(|| call.unknown("has a wrong permutation"), |rows| Value { elements, ..Value::new(rows, moved) })
}

/// The same elements in another shape, whose unknown lengths are numbers of their own.
pub fn reshaped<'g>(call: &Call<'_, 'g, '_>, data: &Value<'g>, shape: Vec<Dim>) -> Value<'g> {
    let Some(place) = data.place() else { return Value::new(data.rows.clone(), Some(shape)) };
    let Some(place) = data.shape.as_ref().and_then(|old| new_place(place, old, &shape)) else {
        return call.unknown("gives a shape in which the batch axis is not found");
    };
    let rows = match &data.rows {
        Rows::Numbered(_, reason) => Rows::Numbered(place, reason.clone()),
        _ => Rows::Each(place),
    };
    Value::new(rows, Some(shape))
}

/// Where the batch is in a new shape of the same number of elements. In row-major order the number of elements before and
/// after a row's own stays the same, so that knowing the axes on one side is enough.
fn new_place(place: &Place, old: &[Dim], new: &[Dim]) -> Option<Place> {
    let axis = new.iter().position(Dim::has_batch)?;
    let from_front = || {
        let before = Dim::product(&old[..place.axis])?.times(&place.outer)?;
        let outer = before.over(&Dim::product(&new[..axis])?)?;
        let inner = new[axis].over(&outer.times(&Dim::batch())?)?;
        Some((outer, inner))
    };
    let from_back = || {
        let after = Dim::product(&old[place.axis + 1..])?.times(&place.inner)?;
        let inner = after.over(&Dim::product(&new[axis + 1..])?)?;
        let outer = new[axis].over(&inner.times(&Dim::batch())?)?;
        Some((outer, inner))
    };
    let (outer, inner) = from_front().or_else(from_back)?;
    Some(Place { axis, outer, inner })
}

/// `Reshape`.
pub fn reshape<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let by_attribute = call.ints("shape").map(|ints| ints.iter().copied().map(Dim::number).collect());
    let target = by_attribute.or_else(|| call.input(1)?.clone().elements_or_fresh(&mut call.walk.symbols));
    let Some(target) = target else { return settled_or(call, "has a target shape that is not known") };
    if let Some(rows) = call.settled() {
        let shape = data.shape.as_deref().and_then(|old| resolve(call, old, &target));
        return Value { elements: data.elements, ..Value::new(rows, shape) };
    }
    let Some(shape) = data.shape.as_deref().and_then(|old| resolve(call, old, &target)) else {
        return Value { elements: data.elements, ..settled_or(call, "has a target shape that is not known") };
    };
    Value { elements: data.elements.clone(), ..reshaped(call, &data, shape) }
}

fn settled_or<'g>(call: &Call<'_, 'g, '_>, words: &str) -> Value<'g> {
    match call.settled() {
        Some(rows) => Value::new(rows, None),
        None => call.unknown(words),
    }
}

/// A target shape with its zeros and its -1 filled in.
fn resolve(call: &mut Call, old: &[Dim], target: &[Dim]) -> Option<Vec<Dim>> {
    let copies = !call.flag("allowzero");
    let mut shape = target.to_vec();
    for (axis, dim) in shape.iter_mut().enumerate().filter(|(_, dim)| copies && dim.is(0)) {
        *dim = old.get(axis)?.clone();
    }
    let open: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis].is(-1)).collect();
    if let [open] = open[..] {
        let symbols = &mut call.walk.symbols;
        let all = symbols.product(old);
        let others: Vec<Dim> =
            shape.iter().enumerate().filter(|&(axis, _)| axis != open).map(|(_, dim)| dim.clone()).collect();
        let others = symbols.product(&others);
        shape[open] = symbols.quotient(&all, &others);
    }
    (open.len() < 2).then_some(shape)
}

/// `Flatten`.
pub fn flatten<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let Some(old) = &data.shape else { return Value::new(data.rows, None) };
    let axis = call.int_or("axis", 1);
    let axis = if usize::try_from(axis) == Ok(old.len()) { Some(old.len()) } else { Call::axis(axis, old.len()) };
    let Some(axis) = axis else { return call.unknown("has an axis that is not known") };
    let symbols = &mut call.walk.symbols;
    let shape = vec![symbols.product(&old[..axis]), symbols.product(&old[axis..])];
    reshaped(call, &data, shape)
}

/// `Squeeze` and `Unsqueeze`.
pub fn squeeze<'g>(call: &mut Call<'_, 'g, '_>, inserts: bool) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let (Some(axes), Some(shape)) = (call.ints_from("axes", 1), data.shape.clone()) else {
        return settled_or(call, "has axes that are not known");
    };
    let keep = |value: Value<'g>| Value { elements: data.elements.clone(), ..value };
    let Some(axes) = axes.filter(|axes| !axes.is_empty() || inserts) else {
        // All axes of length 1: which they are is known only if every length is.
        let known = |(axis, dim): (usize, &Dim)| {
            dim.as_number().is_some() || data.place().is_some_and(|place| place.axis == axis)
        };
        if !shape.iter().enumerate().all(known) || data.place().is_some() {
            return settled_or(call, "removes axes of length 1 that are not known");
        }
        let shape = shape.into_iter().filter(|dim| !dim.is(1)).collect();
        return keep(reshaped(call, &data, shape));
    };
    let rank = if inserts { shape.len() + axes.len() } else { shape.len() };
    let axes: Option<Vec<usize>> = axes.iter().map(|&axis| Call::axis(axis, rank)).collect();
    let Some(axes) = axes else { return settled_or(call, "has axes that are not known") };
    if let Some(place) = data.place().filter(|place| !inserts && axes.contains(&place.axis)) {
        let _ = place;
        return call.unknown("removes the batch axis");
    }
    let mut dims = shape.into_iter();
    let new = if inserts {
        (0..rank).filter_map(|axis| if axes.contains(&axis) { Some(Dim::number(1)) } else { dims.next() }).collect()
    } else {
        dims.enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim).collect()
    };
    keep(reshaped(call, &data, new))
}

/// `Concat`.
pub fn concat<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let inputs: Vec<Value> = call.given().cloned().collect();
    let axis = call.int_or("axis", 1);
    let shape = joined(call, &inputs, axis);
    let fresh = |value: &Value| value.elements_or_fresh(&mut call.walk.symbols);
    let elements = inputs.iter().map(fresh).collect::<Option<Vec<_>>>().map(|elements| elements.concat());
    if let Some(elements) = elements.filter(|_| shape.as_ref().is_some_and(|shape| shape.len() == 1)) {
        let dims = shape.unwrap_or_default();
        let reason = call.reason("joins lengths with the number of rows");
        return Value::of_elements(dims, elements, &call.walk.symbols, || reason);
    }
    if let Some(rows) = call.settled() {
        return match rows {
            Rows::Moved(_) => call.unknown("joins rows that were moved"),
            rows => Value::new(rows, shape),
        };
    }
    let Some(shape) = shape else { return call.unknown("joins tensors of unknown shape") };
    let Some(place) = inputs.iter().find_map(Value::place) else { return call.not_followed() };
    if inputs.iter().any(|value| value.place() != Some(place)) {
        return call.unknown("joins tensors whose batch axes are not the same");
    }
    if Call::axis(axis, shape.len()) == Some(place.axis) {
        return call.unknown("joins along the batch axis");
    }
    call.each(place.clone(), shape)
}

fn joined(call: &mut Call, inputs: &[Value], axis: i64) -> Option<Vec<Dim>> {
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let shapes = shapes?;
    let mut shape = (*shapes.first()?).clone();
    let axis = Call::axis(axis, shape.len())?;
    let lengths = shapes.iter().skip(1).map(|other| other.get(axis));
    for length in lengths {
        shape[axis] = call.walk.symbols.sum(&shape[axis], length?);
    }
    Some(shape)
}

/// `Split`: equal parts or given lengths.
pub fn split<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let axis = call.int_or("axis", 0);
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    let Some((shape, axis)) = data
        .shape
        .clone()
        .and_then(|shape| Some((Call::axis(axis, shape.len())?, shape)))
        .map(|(axis, shape)| (shape, axis))
    else {
        return call.all(settled_or(call, "cuts a tensor of unknown shape"));
    };
    let parts = call.node.output.len();
    let lengths = call.ints("split").map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let lengths = lengths.or_else(|| call.input(1)?.elements.clone()).filter(|lengths| lengths.len() == parts);
    let lengths_are_free = call.input(1).is_none_or(Value::is_free);
    let has_lengths = call.ints("split").is_some() || call.input(1).is_some();
    let count = Dim::number(i64::try_from(parts).unwrap_or(i64::MAX));
    let equal = shape[axis].over(&count).filter(|_| !has_lengths);
    (0..parts)
        .map(|part| {
            let mut shape = shape.clone();
            let known = lengths.as_ref().map(|lengths| lengths[part].clone()).or_else(|| equal.clone());
            shape[axis] = known.unwrap_or_else(|| call.fresh());
            match (call.settled(), data.place()) {
                (Some(Rows::Moved(_)), _) => call.unknown("cuts rows that were moved"),
                // Where it is cut may depend on rows, and then the lengths do.
                (Some(rows), _) => Value::new(rows, Some(shape).filter(|_| lengths_are_free)),
                (None, Some(place)) if place.axis == axis => call.unknown("cuts the batch axis"),
                (None, Some(place)) if lengths_are_free => call.each(place.clone(), shape),
                (None, _) => call.not_followed(),
            }
        })
        .collect()
}
