//! Operators that read axis lengths, and those that make or change axes of given lengths.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{MAX_ELEMENTS, Place, Rows, Value};

/// `Shape`: the lengths, whatever the elements depend on.
pub fn shape<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0) else { return call.unknown("has no input") };
    let Some(dims) = &data.shape else { return length_of_unknown(call, data) };
    let rank = i64::try_from(dims.len()).unwrap_or(0);
    let place = |place: i64| usize::try_from(if place < 0 { place + rank } else { place }.clamp(0, rank)).unwrap_or(0);
    let start = place(call.int_or("start", 0).clamp(-rank, rank));
    let end = place(call.int_or("end", rank).clamp(-rank, rank)).max(start);
    let lengths = dims[start..end].to_vec();
    let count = Dim::number(i64::try_from(lengths.len()).unwrap_or(0));
    Value::of_elements(vec![count], lengths, &call.walk.symbols, || call.reason("gives the number of rows"))
}

/// Shapes that are not followed may depend on what the elements depend on.
fn length_of_unknown<'g>(call: &Call<'_, 'g, '_>, data: &Value<'g>) -> Value<'g> {
    match &data.rows {
        Rows::Free | Rows::Count(_) | Rows::Coupled(_) => Value::new(data.rows.clone(), None),
        _ => call.unknown("gives lengths that were not followed"),
    }
}

/// `Size`.
pub fn size<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let Some(dims) = &data.shape else { return length_of_unknown(call, &data) };
    let size = call.walk.symbols.product(dims);
    Value::of_elements(Vec::new(), vec![size], &call.walk.symbols, || call.reason("gives the number of rows"))
}

/// `ConstantOfShape`: for every row the same.
pub fn constant<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let dims = call.inputs.first().cloned().flatten().and_then(|dims| dims.elements_or_fresh(&mut call.walk.symbols));
    let Some(dims) = dims else { return call.not_followed() };
    let value = repeated(call, &[], &dims);
    let tensor = call.attribute("value").and_then(|attribute| attribute.t.as_ref());
    let fill = tensor.map_or(Some(0), |tensor| Value::constant(tensor).number());
    let count = Dim::product(&dims).and_then(|count| usize::try_from(count.as_number()?).ok());
    let elements =
        fill.zip(count.filter(|&count| count <= MAX_ELEMENTS)).map(|(fill, count)| vec![Dim::number(fill); count]);
    Value { elements, ..value }
}

/// A tensor of this shape, the same for every row, that is repeated along the axes that are longer in the target.
fn repeated<'g>(call: &Call<'_, 'g, '_>, shape: &[Dim], target: &[Dim]) -> Value<'g> {
    let counts = |dim: &Dim| call.walk.symbols.counts_rows(dim);
    let mut counted = (0..target.len()).filter(|&axis| counts(&target[axis]));
    let rows = match (counted.next(), counted.next()) {
        (None, _) => Rows::Free,
        (Some(axis), None) => {
            let at = (axis + shape.len()).checked_sub(target.len());
            let is_one = at.is_none_or(|axis| shape[axis].is(1));
            // All elements of the axis are the same, and any order of them is right.
            match target[axis].over(&Dim::batch()).filter(|_| is_one) {
                Some(inner) => Rows::Each(Place { axis, outer: Dim::number(1), inner }),
                None => return call.unknown("makes an axis whose length was not followed"),
            }
        }
        _ => return call.unknown("makes several axes as long as the batch"),
    };
    Value::new(rows, Some(target.to_vec()))
}

/// `Range`.
pub fn range<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(rows) = call.settled().filter(|rows| *rows != Rows::Free) {
        return Value::new(rows, None);
    }
    let only = |place: usize| call.input(place)?.elements.as_ref()?.first().cloned();
    let (Some(start), Some(limit), Some(step)) = (only(0), only(1), only(2)) else { return call.not_followed() };
    if !start.is(0) || !step.is(1) {
        let length = call.walk.symbols.computed("range", &[&start, &limit, &step]);
        let counts = call.walk.symbols.counts_rows(&length);
        return if counts { call.not_followed() } else { Value::new(Rows::Free, Some(vec![length])) };
    }
    let counts = call.walk.symbols.counts_rows(&limit);
    let rows = match limit == Dim::batch() {
        true => Rows::Numbered(Place::axis(0), call.reason("numbers the rows of the batch")),
        false if counts => Rows::Count(call.reason("counts up to the number of rows")),
        false => Rows::Free,
    };
    Value::new(rows, Some(vec![limit]))
}

/// `Expand`.
pub fn expand<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let target = call.inputs.get(1).cloned().flatten().and_then(|dims| dims.elements_or_fresh(&mut call.walk.symbols));
    let (Some(shape), Some(target)) = (&data.shape, target) else { return call.not_followed() };
    let both = [Value::new(Rows::Free, Some(shape.clone())), Value::new(Rows::Free, Some(target.clone()))];
    let Some(full) = super::elementwise::broadcast_shape(&mut call.walk.symbols, &both) else {
        return call.not_followed();
    };
    match &data.rows {
        Rows::Free => repeated(call, shape, &full),
        Rows::Each(place) | Rows::Numbered(place, _) => {
            let place = place.at(place.axis + full.len() - shape.len());
            let numbered = match &data.rows {
                Rows::Numbered(_, reason) => Rows::Numbered(place.clone(), reason.clone()),
                _ => Rows::Each(place.clone()),
            };
            let at = (place.axis + target.len()).checked_sub(full.len()).map(|axis| &target[axis]);
            match at {
                Some(dim) if !dim.is(1) && Some(dim) != place.length().as_ref() => {
                    call.unknown("makes an axis whose length was not followed")
                }
                _ => Value::new(numbered, Some(full)),
            }
        }
        rows => Value::new(rows.clone(), Some(full)),
    }
}

/// `Tile`.
pub fn tile<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let repeats =
        call.inputs.get(1).cloned().flatten().and_then(|value| value.elements_or_fresh(&mut call.walk.symbols));
    let (Some(shape), Some(repeats)) = (&data.shape, repeats) else { return call.not_followed() };
    if shape.len() != repeats.len() {
        return call.not_followed();
    }
    let symbols = &mut call.walk.symbols;
    let full: Vec<Dim> = shape.iter().zip(&repeats).map(|(dim, times)| symbols.times(dim, times)).collect();
    match &data.rows {
        Rows::Free => {
            let mut counted = (0..full.len()).filter(|&axis| call.walk.symbols.counts_rows(&repeats[axis]));
            let rows = match (counted.next(), counted.next()) {
                (None, _) => Rows::Free,
                (Some(axis), None) => match full[axis].over(&Dim::batch()) {
                    Some(inner) => Rows::Each(Place { axis, outer: Dim::number(1), inner }),
                    None => return call.not_followed(),
                },
                _ => return call.not_followed(),
            };
            Value::new(rows, Some(full))
        }
        Rows::Each(place) | Rows::Numbered(place, _) => match place.outer.times(&repeats[place.axis]) {
            Some(outer) => {
                let numbered = data.rows.clone();
                let place = Place { outer, ..place.clone() };
                let rows = match numbered {
                    Rows::Numbered(_, reason) => Rows::Numbered(place, reason),
                    _ => Rows::Each(place),
                };
                Value::new(rows, Some(full))
            }
            None => call.not_followed(),
        },
        rows => Value::new(rows.clone(), Some(full)),
    }
}

/// `Pad`.
pub fn pad<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let by_attribute = call.ints("pads").map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let pads = by_attribute.or_else(|| call.inputs.get(1)?.clone()?.elements_or_fresh(&mut call.walk.symbols));
    let axes = call.input(3).map(Value::numbers);
    let (Some(old), Some(pads)) = (&data.shape, pads) else { return settled_or(call) };
    let axes = match axes {
        Some(axes) => axes.map(|axes| axes.iter().filter_map(|&axis| Call::axis(axis, old.len())).collect()),
        None => Some((0..old.len()).collect::<Vec<_>>()),
    };
    let Some(axes) = axes.filter(|axes| axes.len() * 2 == pads.len()) else { return settled_or(call) };
    let mut shape = old.clone();
    for (place, &axis) in axes.iter().enumerate() {
        let symbols = &mut call.walk.symbols;
        let both = symbols.sum(&pads[place], &pads[place + axes.len()]);
        shape[axis] = symbols.sum(&shape[axis], &both);
    }
    if let Some(rows) = call.settled() {
        return Value::new(rows.clone(), Some(shape).filter(|_| rows == Rows::Free || rows == data.rows));
    }
    let Some(place) = data.place().cloned() else { return call.not_followed() };
    let batch = axes.iter().position(|&axis| axis == place.axis);
    if batch.is_some_and(|at| !pads[at].is(0) || !pads[at + axes.len()].is(0)) {
        return call.unknown("pads the batch axis");
    }
    Value::new(data.rows, Some(shape))
}

fn settled_or<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    match call.settled() {
        Some(rows) => Value::new(rows, None),
        None => call.unknown("has lengths that are not known"),
    }
}

/// `Resize` and `Upsample`.
pub fn resize<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let (Some(place), Some(old)) = (data.place().cloned(), data.shape.clone()) else { return call.not_followed() };
    if call.inputs.iter().skip(1).flatten().any(|value| value.place().is_some()) {
        return call.unknown("has sizes that depend on rows");
    }
    let axes: Vec<usize> = match call.ints("axes") {
        Some(axes) => axes.iter().filter_map(|&axis| Call::axis(axis, old.len())).collect(),
        None => (0..old.len()).collect(),
    };
    let at = axes.iter().position(|&axis| axis == place.axis);
    let (scales, sizes) = factors(call);
    let sizes = sizes.filter(|sizes| sizes.len() == axes.len());
    let keeps_batch = match (at, &scales, &sizes) {
        (None, ..) => true,
        (Some(at), Some(scales), _) if scales.len() == axes.len() => (scales[at] - 1.0).abs() < f32::EPSILON,
        (Some(at), _, Some(sizes)) => sizes[at] == old[place.axis],
        _ => false,
    };
    if !keeps_batch {
        return call.unknown("resizes the batch axis, as far as was followed");
    }
    let mut shape = old.clone();
    for (at, &axis) in axes.iter().enumerate().filter(|&(_, &axis)| axis != place.axis) {
        shape[axis] = match (&sizes, scales.as_ref().and_then(|scales| scales.get(at))) {
            (Some(sizes), _) => sizes[at].clone(),
            (None, Some(&scale)) => scaled(call, &old[axis], scale),
            (None, None) => call.fresh(),
        };
    }
    Value::new(data.rows, Some(shape))
}

#[allow(clippy::cast_possible_truncation, reason = "only whole factors are followed")]
fn scaled(call: &mut Call, dim: &Dim, scale: f32) -> Dim {
    let whole = (scale.fract() == 0.0 && (1.0..1024.0).contains(&scale)).then_some(scale as i64);
    match whole.and_then(|scale| dim.times(&Dim::number(scale))) {
        Some(dim) => dim,
        None => call.fresh(),
    }
}

/// Scales that are constants, and sizes: where they are depends on the version.
fn factors(call: &mut Call) -> (Option<Vec<f32>>, Option<Vec<Dim>>) {
    if let Some(scales) = call.attribute("scales") {
        return (Some(scales.floats.clone()), None);
    }
    let is_first = call.node.op_type == "Upsample" || call.version() < 11;
    let scales = call.input(if is_first { 1 } else { 2 }).and_then(|value| value.constant).and_then(floats);
    let sizes = call.inputs.get(3).cloned().flatten().and_then(|sizes| sizes.elements_or_fresh(&mut call.walk.symbols));
    (scales.filter(|scales| !scales.is_empty()), sizes)
}

fn floats(tensor: &crate::onnx_file::Tensor) -> Option<Vec<f32>> {
    let raw = &tensor.raw_data[..];
    if tensor.data_type != 1 || raw.len() > 4 * MAX_ELEMENTS {
        return None;
    }
    if raw.is_empty() {
        return Some(tensor.float_data.iter().copied().take(MAX_ELEMENTS).collect());
    }
    Some(raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// `EyeLike`, `RandomNormalLike` and others that only take the shape.
pub fn like<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let value = match call.input(0) {
        Some(data) if data.is_free() => Value::new(Rows::Free, data.shape.clone()),
        Some(data) if call.node.op_type != "EyeLike" => Value::new(data.rows.clone(), data.shape.clone()),
        _ => call.not_followed(),
    };
    call.all(value)
}
