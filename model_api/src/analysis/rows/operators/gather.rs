//! Operators that choose elements by index: slices, gathers and scatters.

use super::super::call::{Call, Values};
use super::super::elements;
use super::super::symbols::{Dim, Symbols};
use super::super::value::{Place, Rows, Value};

/// Exporters write the end of an axis whose length is open as some large number. No batch has as many rows.
const NO_END: i64 = 100_000_000;

/// The start, end and step of a slice along one axis.
struct Cut {
    start: Dim,
    end: Dim,
    step: i64,
}

impl Cut {
    /// Whether the whole axis is taken.
    fn is_all(&self, length: &Dim) -> bool {
        let to_the_end = self.end.as_number().is_some_and(|end| end >= NO_END) || self.end == *length;
        self.step == 1 && self.start.is(0) && to_the_end
    }

    fn length(&self, of: &Dim, symbols: &mut Symbols) -> Dim {
        if self.is_all(of) {
            return of.clone();
        }
        if let (Some(start), Some(end), Some(of)) = (self.start.as_number(), self.end.as_number(), of.as_number()) {
            return Dim::number(cut_length(start, end, self.step, of));
        }
        // An end before that of the axis counts as far as it goes.
        if self.step == 1 && self.start.is(0) && self.end.as_number().is_none() && of.as_number().is_some() {
            return symbols.shorter(of, &self.end);
        }
        symbols.computed("slice", &[of, &self.start, &self.end, &Dim::number(self.step)])
    }
}

fn cut_length(start: i64, end: i64, step: i64, of: i64) -> i64 {
    let from_end = |place: i64| if place < 0 { place.saturating_add(of) } else { place };
    let (start, end) = (from_end(start), from_end(end));
    let span =
        if step > 0 { end.clamp(0, of) - start.clamp(0, of) } else { start.clamp(-1, of - 1) - end.clamp(-1, of - 1) };
    let step = step.saturating_abs().max(1);
    if span <= 0 { 0 } else { span / step + i64::from(span % step != 0) }
}

/// `Slice`.
pub fn slice<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    let Some(cuts) = cuts(call, data.rank()) else { return not_sliced(call) };
    if let Some(value) = sliced_elements(call, &data, &cuts) {
        return value;
    }
    let shape = data.shape.as_ref().map(|old| {
        let mut shape = old.clone();
        for (axis, cut) in &cuts {
            shape[*axis] = cut.length(&old[*axis], &mut call.walk.symbols);
        }
        shape
    });
    match call.settled() {
        Some(Rows::Moved(_)) => return call.unknown("cuts rows that were moved"),
        // Where it is cut may depend on rows, and then its length does.
        Some(rows) => return Value::new(rows.clone(), shape.filter(|_| rows == Rows::Free || data.rows == rows)),
        None => {}
    }
    let (Some(place), Some(shape)) = (data.place().cloned(), shape) else { return call.not_followed() };
    let batch = cuts.iter().find(|(axis, _)| *axis == place.axis);
    if batch.is_some_and(|(axis, cut)| data.shape.as_ref().is_none_or(|old| !cut.is_all(&old[*axis]))) {
        return call.moved("takes a part of the batch axis");
    }
    let counts = |dim: &Dim| call.walk.symbols.counts_rows(dim);
    let others = cuts.iter().filter(|(axis, _)| *axis != place.axis);
    if others.into_iter().any(|(_, cut)| counts(&cut.start) || counts(&cut.end)) {
        return call.each(place, shape);
    }
    Value::new(data.rows, Some(shape))
}

fn not_sliced<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    match call.settled() {
        Some(Rows::Moved(_)) => call.unknown("cuts rows that were moved"),
        Some(rows) => Value::new(rows, None),
        None => call.unknown("cuts at places that are not known"),
    }
}

/// What is cut from which axis, where the axes and steps are known.
fn cuts(call: &mut Call, rank: Option<usize>) -> Option<Vec<(usize, Cut)>> {
    let of_attribute =
        |name: &str| call.ints(name).map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let attributes = of_attribute("starts").zip(of_attribute("ends"));
    let (starts, ends) = if let Some(attributes) = attributes {
        attributes
    } else {
        let symbols = &mut call.walk.symbols;
        let starts = call.inputs.get(1)?.as_ref()?.elements_or_fresh(symbols)?;
        (starts, call.inputs.get(2)?.as_ref()?.elements_or_fresh(symbols)?)
    };
    let axes = call.ints_from("axes", 3)?;
    let axes = axes.unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = match call.input(4) {
        Some(steps) => steps.numbers()?,
        None => vec![1; starts.len()],
    };
    if starts.len() != ends.len() || starts.len() != axes.len() || starts.len() != steps.len() {
        return None;
    }
    let cuts = starts.into_iter().zip(ends).zip(axes).zip(steps);
    cuts.map(|(((start, end), axis), step)| Some((Call::axis(axis, rank?)?, Cut { start, end, step }))).collect()
}

/// A slice of a tensor whose elements are followed.
fn sliced_elements<'g>(call: &Call<'_, 'g, '_>, data: &Value<'g>, cuts: &[(usize, Cut)]) -> Option<Value<'g>> {
    let mut value = data.clone();
    for (axis, cut) in cuts {
        let places = places(cut, value.shape.as_ref()?.get(*axis)?.as_number()?)?;
        value.elements = Some(elements::taken(&value, *axis, &places)?);
        value.shape.as_mut()?[*axis] = Dim::number(i64::try_from(places.len()).ok()?);
    }
    let reason = || call.reason("gives lengths with the number of rows");
    Some(Value::of_elements(value.shape?, value.elements?, &call.walk.symbols, reason))
}

/// The places that a slice takes of an axis.
fn places(cut: &Cut, length: i64) -> Option<Vec<usize>> {
    let start = cut.start.as_number()?;
    let start = if start < 0 { start.saturating_add(length) } else { start };
    let start = if cut.step > 0 { start.clamp(0, length) } else { start.clamp(-1, length - 1) };
    let count = cut_length(cut.start.as_number()?, cut.end.as_number()?, cut.step, length);
    (0..count).map(|place| usize::try_from(start + place * cut.step).ok()).collect()
}

/// `Gather`.
pub fn gather<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let (Some(data), Some(indices)) = (call.input(0).cloned(), call.input(1).cloned()) else {
        return call.unknown("has no inputs");
    };
    if let Some(value) = element(call, &data, &indices) {
        return value;
    }
    let axis = data.rank().and_then(|rank| Call::axis(call.int_or("axis", 0), rank));
    let shape = axis
        .zip(data.shape.as_ref())
        .zip(indices.shape.as_ref())
        .map(|((axis, data), indices)| [&data[..axis], indices, &data[axis + 1..]].concat());
    if let Some(rows) = indexed(call) {
        return rows.map_or_else(|words| call.unknown(words), |rows| Value::new(rows, shape));
    }
    let (Some(axis), Some(shape), Some(rank)) = (axis, shape, indices.rank()) else {
        return call.unknown("has indices or data of unknown shape");
    };
    let place = match (data.place(), indices.place()) {
        (Some(place), None) if place.axis == axis => {
            return match indices.rows {
                Rows::Free => call.moved("takes rows by index"),
                _ => call.unknown("takes rows by index"),
            };
        }
        (Some(place), None) if place.axis < axis => place.clone(),
        (Some(place), None) => place.at(place.axis - 1 + rank),
        (None, Some(place)) => place.at(place.axis + axis),
        _ => return call.unknown("takes rows by the indices of rows"),
    };
    call.each(place, shape)
}

/// Elements of a vector of lengths.
fn element<'g>(call: &Call<'_, 'g, '_>, data: &Value<'g>, indices: &Value<'g>) -> Option<Value<'g>> {
    let elements = data.elements.as_ref().filter(|_| data.rank() == Some(1))?;
    let at = |index: i64| elements.get(Call::axis(index, elements.len())?).cloned();
    let chosen = indices.numbers()?.into_iter().map(at).collect::<Option<Vec<_>>>()?;
    let reason = call.reason("gives the number of rows");
    Some(Value::of_elements(indices.shape.clone()?, chosen, &call.walk.symbols, || reason))
}

/// The result of an operator that indexes, whatever it does: unknown where it may undo what others did before it.
fn indexed(call: &Call) -> Option<Result<Rows, &'static str>> {
    let rows = call.settled()?;
    let undone = |value: &Value| matches!(value.rows, Rows::Moved(_) | Rows::Picked(_));
    let by_number = |value: &Value| matches!(value.rows, Rows::Numbered(..) | Rows::Count(_));
    let data_is_undone = call.input(0).is_some_and(undone);
    Some(match rows {
        Rows::Moved(_) | Rows::Picked(_) if data_is_undone || call.given().any(by_number) => {
            Err("may put rows back to where they were")
        }
        rows => Ok(rows),
    })
}

/// `GatherElements`, and `ScatterElements` whose updates are a third tensor of the same rank.
pub fn by_elements<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let inputs: Vec<Value> = call.given().cloned().collect();
    // The result has the shape of the indices where they gather, and that of the data where they scatter.
    let shaped = if inputs.len() == 2 { inputs.get(1) } else { inputs.first() };
    let shape = shaped.and_then(|value| value.shape.clone());
    if let Some(rows) = call.settled() {
        return match rows {
            Rows::Moved(_) | Rows::Picked(_) => call.unknown("may put rows back to where they were"),
            rows => Value::new(rows, shape),
        };
    }
    let (Some(place), Some(shape)) = (inputs.first().and_then(Value::place).cloned(), shape) else {
        return call.not_followed();
    };
    if inputs.iter().any(|value| value.place() != Some(&place)) {
        return call.unknown("has inputs that do not all have the same batch axis");
    }
    match Call::axis(call.int_or("axis", 0), shape.len()) {
        Some(axis) if axis == place.axis => call.unknown("takes rows by index"),
        Some(_) => call.each(place, shape),
        None => call.unknown("has an axis that is not known"),
    }
}

/// `GatherND`.
pub fn nd<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let (Some(data), Some(indices)) = (call.input(0).cloned(), call.input(1).cloned()) else {
        return call.unknown("has no inputs");
    };
    if let Some(rows) = indexed(call) {
        return rows.map_or_else(|words| call.unknown(words), |rows| Value::new(rows, None));
    }
    let (Some(data_shape), Some(index_shape)) = (&data.shape, &indices.shape) else { return call.not_followed() };
    let batch_axes = usize::try_from(call.int_or("batch_dims", 0)).unwrap_or(0);
    let Some((depth, places)) = index_shape.split_last() else { return call.not_followed() };
    let depth = depth.as_number().and_then(|depth| usize::try_from(depth).ok());
    let rest = depth.and_then(|depth| data_shape.get(depth.checked_add(batch_axes)?..));
    let Some(rest) = rest else { return call.not_followed() };
    let shape = [places, rest].concat();
    let in_both = indices.place().filter(|place| place.axis < batch_axes && data.place() == Some(place));
    let in_indices = indices.place().filter(|place| place.axis < places.len() && data.is_free() && batch_axes == 0);
    match in_both.or(in_indices).cloned() {
        Some(place) => call.each(place, shape),
        None => call.not_followed(),
    }
}

/// `OneHot`, which adds an axis.
pub fn one_hot<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(indices) = call.input(0).cloned() else { return call.unknown("has no input") };
    let depth = call.input(1).and_then(|depth| depth.elements.as_ref()?.first().cloned());
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let (Some(place), Some(mut shape)) = (indices.place().cloned(), indices.shape) else { return call.not_followed() };
    if call.inputs.iter().skip(1).flatten().any(|value| !value.is_free()) {
        return call.not_followed();
    }
    let Some(axis) = Call::axis(call.int_or("axis", -1), shape.len() + 1) else { return call.not_followed() };
    let depth = depth.unwrap_or_else(|| call.fresh());
    shape.insert(axis, depth);
    call.each(place.at(place.axis + usize::from(axis <= place.axis)), shape)
}

/// `ReverseSequence`.
pub fn reverse<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0).cloned() else { return call.unknown("has no input") };
    if let Some(rows) = call.settled() {
        return match rows {
            Rows::Moved(_) => call.unknown("may put rows back to where they were"),
            rows => Value::new(rows, data.shape),
        };
    }
    let (Some(place), Some(shape)) = (data.place().cloned(), data.shape) else { return call.not_followed() };
    let batch = Call::axis(call.int_or("batch_axis", 1), shape.len());
    let time = Call::axis(call.int_or("time_axis", 0), shape.len());
    let lengths_fit = call.input(1).is_some_and(|lengths| lengths.place() == Some(&Place::axis(0)));
    match place.axis {
        axis if Some(axis) == batch && place.is_plain() && lengths_fit => call.each(place, shape),
        axis if Some(axis) == time => call.moved("reverses the batch axis"),
        _ => call.not_followed(),
    }
}

/// `Compress`: along another axis, by a condition that is the same for all rows, it leaves them apart.
pub fn compress<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let condition_is_free = call.input(1).is_some_and(Value::is_free);
    let data = call.input(0).cloned();
    let place = data.as_ref().and_then(|data| Some((data.place()?.clone(), data.shape.clone()?)));
    let Some((place, mut shape)) = place else { return call.picked(WHOLE_BATCH) };
    match call.int("axis").and_then(|axis| Call::axis(axis, shape.len())) {
        Some(axis) if condition_is_free && axis != place.axis => {
            shape[axis] = call.fresh();
            call.each(place, shape)
        }
        _ => call.picked(WHOLE_BATCH),
    }
}

const WHOLE_BATCH: &str = "gives as many elements as it finds in the whole batch";

/// `NonZero`, `Unique` and others whose result is as long as the elements tell.
pub fn picked<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let value = match call.settled() {
        Some(rows) => Value::new(rows, None),
        None => call.picked(WHOLE_BATCH),
    };
    call.all(value)
}
