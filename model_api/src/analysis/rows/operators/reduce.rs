//! Operators that combine the elements along some axes: reductions, extremes, running sums and sorting.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Rows, Value};

/// `Reduce…`.
pub fn reduce<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(axes) = call.ints_from("axes", 1) else { return vec![unknown_axes(call)] };
    let axes = axes.unwrap_or_default();
    if axes.is_empty() && call.flag("noop_with_empty_axes") {
        return super::elementwise::evaluate(call);
    }
    vec![over(call, &axes, call.int_or("keepdims", 1) != 0, "reduces over")]
}

/// `ArgMax` and `ArgMin`.
pub fn extreme<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let axis = call.int_or("axis", 0);
    vec![over(call, &[axis], call.int_or("keepdims", 1) != 0, "looks for an extreme along")]
}

fn unknown_axes<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    match call.settled() {
        Some(rows) => Value::new(rows, None),
        None => call.unknown("has axes that are not known"),
    }
}

/// Combines all elements along these axes; no axes are all.
fn over<'g>(call: &mut Call<'_, 'g, '_>, axes: &[i64], keeps: bool, words: &str) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let reduced = data.shape.as_ref().and_then(|shape| {
        let axes: Option<Vec<usize>> = axes.iter().map(|&axis| Call::axis(axis, shape.len())).collect();
        axes.map(|axes| if axes.is_empty() { (0..shape.len()).collect() } else { axes })
    });
    let shape = data.shape.as_ref().zip(reduced.as_ref()).map(|(shape, axes)| {
        let dims = shape.iter().enumerate().filter(|(axis, _)| keeps || !axes.contains(axis));
        dims.map(|(axis, dim)| if axes.contains(&axis) { Dim::number(1) } else { dim.clone() }).collect()
    });
    if let Some(rows) = call.settled() {
        return match rows {
            Rows::Picked(_) => call.unknown("combines elements of any rows"),
            rows => Value::new(rows, shape),
        };
    }
    let Some(place) = data.place() else { return Value::new(data.rows.clone(), shape) };
    let (Some(axes), Some(shape)) = (reduced, shape) else { return call.unknown("has axes that are not known") };
    if axes.contains(&place.axis) {
        return Value::new(Rows::Coupled(call.reason(&format!("{words} the batch axis"))), Some(shape));
    }
    let before = axes.iter().filter(|&&axis| axis < place.axis).count();
    call.each(place.at(place.axis - if keeps { 0 } else { before }), shape)
}

/// Operators that go along one axis and keep the shape: `CumSum`, `CumProd`, and those that normalise.
pub fn along<'g>(call: &mut Call<'_, 'g, '_>, axis: Option<i64>, words: &str) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(rows) = call.settled() {
        return Value::new(rows, data.shape);
    }
    let (Some(place), Some(shape)) = (data.place(), data.shape.clone()) else { return call.not_followed() };
    match axis.and_then(|axis| Call::axis(axis, shape.len())) {
        None => call.unknown("has an axis that is not known"),
        Some(axis) if axis == place.axis => {
            Value::new(Rows::Coupled(call.reason(&format!("{words} the batch axis"))), Some(shape))
        }
        Some(_) => call.each(place.clone(), shape),
    }
}

/// `TopK`: values and places.
pub fn top<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let axis = call.int_or("axis", -1);
    let count = call.int("k").map(Dim::number);
    let count = count.or_else(|| call.input(1)?.elements.as_ref()?.first().cloned());
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let (Some(place), Some(mut shape)) = (data.place().cloned(), data.shape) else {
        return call.all(call.not_followed());
    };
    let Some(axis) = Call::axis(axis, shape.len()) else {
        return call.all(call.unknown("has an axis that is not known"));
    };
    if axis == place.axis {
        return call.all(call.moved("sorts along the batch axis"));
    }
    if call.input(1).is_some_and(|count| !count.is_free()) {
        return call.all(call.unknown("has a count that depends on rows"));
    }
    shape[axis] = count.unwrap_or_else(|| call.fresh());
    let value = call.each(place, shape);
    call.all(value)
}

/// `Det` and others that turn the last axes of a tensor into a single element.
pub fn last_axes<'g>(call: &mut Call<'_, 'g, '_>, count: usize) -> Value<'g> {
    let axes: Vec<i64> = (1..=count).map(|axis| -i64::try_from(axis).unwrap_or(0)).collect();
    over(call, &axes, false, "combines")
}
