//! Operators that normalise: rows stay apart where no statistic is taken over the batch axis.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Rows, Value};
use super::matmul::parameters;
use super::reduce;

/// `Softmax`, `LogSoftmax` and `Hardmax`. Before version 13 they take all axes from `axis` on as one.
pub fn softmax<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if call.version() >= 13 || call.node.domain == "com.microsoft" {
        let axis = call.int_or("axis", -1);
        return reduce::along(call, Some(axis), "normalises along");
    }
    trailing(call, 1)
}

/// Operators whose statistics are taken over all axes from `axis` on.
fn trailing<'g>(call: &mut Call<'_, 'g, '_>, default: i64) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(rows) = call.settled() {
        return Value::new(rows, data.shape);
    }
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape) else { return call.not_followed() };
    let axis = call.int_or("axis", default);
    match Call::axis(axis, shape.len()) {
        Some(axis) if axis <= place.axis => call.coupled("normalises over the batch axis"),
        Some(_) => call.each(place, shape),
        None => call.unknown("has an axis that is not known"),
    }
}

/// `LayerNormalization`: the result, and mean and deviation of each row.
pub fn layer<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = parameters(call, &[0]) {
        let shape = call.input(0).and_then(|data| data.shape.clone());
        return call.all(Value { shape, ..value });
    }
    let value = trailing(call, -1);
    let axis = value.rank().and_then(|rank| Call::axis(call.int_or("axis", -1), rank));
    let mut values = call.all(value);
    for statistic in values.iter_mut().skip(1) {
        if let (Some(shape), Some(axis)) = (&mut statistic.shape, axis) {
            shape[axis..].fill(Dim::number(1));
        }
    }
    values
}

/// `BatchNormalization`: with statistics of the training data, or of this batch.
pub fn batch<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = parameters(call, &[0]) {
        return call.all(value);
    }
    let outputs = call.node.output.iter().filter(|output| !output.is_empty()).count();
    let trains = match call.version() {
        14.. => call.flag("training_mode"),
        7.. => outputs > 1,
        _ => !call.flag("is_test"),
    };
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    let Some(place) = data.place().cloned() else { return call.all(Value::new(data.rows, data.shape)) };
    let shape = data.shape.unwrap_or_default();
    let value = match place.axis {
        0 if trains => call.coupled("normalises by the mean and variance of the batch, as in training"),
        0 => call.each(place, shape),
        _ => call.unknown("has the batch on another axis than the first"),
    };
    call.all(value)
}

/// `InstanceNormalization` and `GroupNormalization`: statistics of each image.
pub fn instance<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(value) = parameters(call, &[0]) {
        return value;
    }
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let Some(place) = data.place().cloned() else { return Value::new(data.rows, data.shape) };
    match place.axis {
        0 => call.each(place, data.shape.unwrap_or_default()),
        1 => call.unknown("has the batch on another axis than the first"),
        _ => call.coupled("normalises over the batch axis"),
    }
}

/// `LRN`: over neighbouring channels.
pub fn local<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    reduce::along(call, Some(1), "normalises along")
}

/// `MeanVarianceNormalization`: over the batch unless the axes say otherwise.
pub fn mean_variance<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(rows) = call.settled() {
        return Value::new(rows, data.shape);
    }
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape) else { return call.not_followed() };
    let axes = call.ints("axes").unwrap_or(&[0, 2, 3]);
    let axes: Option<Vec<usize>> = axes.iter().map(|&axis| Call::axis(axis, shape.len())).collect();
    match axes {
        Some(axes) if axes.contains(&place.axis) => call.coupled("normalises over the batch axis"),
        Some(_) => call.each(place, shape),
        None => call.unknown("has axes that are not known"),
    }
}

/// Losses, which are one number for the batch unless they are not reduced.
pub fn loss<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let value = match call.settled() {
        Some(rows) => Value::new(rows, None),
        None if call.text("reduction") == Some("none") => call.not_followed(),
        None => call.coupled("combines the losses of all rows"),
    };
    call.all(value)
}

/// `QuantizeLinear` and `DequantizeLinear` by scales that are known beforehand.
pub fn quantise<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(value) = parameters(call, &[0]) {
        let shape = data.shape.filter(|_| matches!(value.rows, Rows::Coupled(_)));
        return Value { shape, ..value };
    }
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape.clone()) else {
        return Value::new(data.rows, data.shape);
    };
    let axis = Call::axis(call.int_or("axis", 1), shape.len());
    let one_scale =
        call.input(1).and_then(|scale| Dim::product(scale.shape.as_ref()?)).is_some_and(|count| count.is(1));
    if one_scale || axis.is_some_and(|axis| axis != place.axis && call.int_or("block_size", 0) == 0) {
        return call.each(place, shape);
    }
    call.unknown("has scales whose axis is not known")
}

/// `DynamicQuantizeLinear`: one scale for the whole tensor.
pub fn dynamic<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    let rows = match call.settled() {
        Some(rows) => rows,
        None => Rows::Coupled(call.reason("takes its scale from the range of the whole batch")),
    };
    let scalar = || Value::new(rows.clone(), Some(Vec::new()));
    vec![Value::new(rows.clone(), data.shape), scalar(), scalar()]
}
