//! Control flow: `If`, `Loop` and `Scan`, whose bodies are followed on the values that they are given.

use std::collections::HashMap;

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Rows, Value};

/// How often a loop's body is followed until what it carries stays the same.
const MAX_ROUNDS: usize = 4;

/// `If`: both branches, or the one that is certain.
pub fn branches<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let (Some(then), Some(otherwise)) = (call.graph("then_branch"), call.graph("else_branch")) else {
        return call.all(call.unknown("lacks a branch"));
    };
    let Some(condition) = call.input(0).cloned() else { return call.all(call.unknown("has no condition")) };
    let branch = condition.number().map(|condition| if condition == 0 { otherwise } else { then });
    if let Some(branch) = branch {
        return call.walk.body(branch, Vec::new(), call.scope);
    }
    let values = call.walk.body(then, Vec::new(), call.scope);
    let others = call.walk.body(otherwise, Vec::new(), call.scope);
    let joined = values.into_iter().zip(others).map(|(value, other)| join(call, value, other));
    match condition.rows {
        Rows::Free => joined.collect(),
        Rows::Coupled(_) => call.all(Value::new(condition.rows, None)),
        _ => call.all(call.unknown("has a condition that depends on rows")),
    }
}

/// A value that is one of two.
fn join<'g>(call: &Call<'_, 'g, '_>, value: Value<'g>, other: Value<'g>) -> Value<'g> {
    let shape = if value.shape == other.shape { value.shape } else { None };
    match (value.rows, other.rows) {
        (rows @ (Rows::Each(_) | Rows::Numbered(..)), other) if rows == other && shape.is_some() => {
            Value::new(rows, shape)
        }
        (Rows::Coupled(reason), _) | (_, Rows::Coupled(reason)) => Value::new(Rows::Coupled(reason), None),
        (Rows::Unknown(reason), _) | (_, Rows::Unknown(reason)) => Value::unknown(reason),
        (rows, other) if rows == other && !matches!(rows, Rows::Each(_) | Rows::Numbered(..)) => {
            Value::new(rows, shape)
        }
        _ => call.unknown("has different results in different rounds or branches"),
    }
}

/// `Loop`: trip count, condition, what is carried from round to round.
pub fn repeat<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(body) = call.graph("body") else { return call.all(call.unknown("lacks its body")) };
    let control: Vec<Value> = call.inputs.iter().take(2).flatten().cloned().collect();
    if let Some(value) = control.iter().find(|value| !value.is_free()) {
        let value = match &value.rows {
            Rows::Coupled(_) => Value::new(value.rows.clone(), None),
            _ => call.unknown("runs as often as rows tell"),
        };
        return call.all(value);
    }
    let Some(mut carried) = call.inputs.get(2..).map(|inputs| inputs.iter().flatten().cloned().collect::<Vec<_>>())
    else {
        return call.all(call.not_followed());
    };
    let scalar = |rows: Rows| Value::new(rows, Some(Vec::new()));
    for _ in 0..MAX_ROUNDS {
        let inputs = [scalar(Rows::Free), scalar(Rows::Free)].into_iter().chain(carried.iter().cloned().map(varying));
        let mut values = call.walk.body(body, inputs.collect(), call.scope);
        if values.len() < carried.len() + 1 {
            return call.all(call.unknown("has a body with too few results"));
        }
        let elements = values.split_off(carried.len() + 1);
        let condition = values.remove(0);
        let (next, is_stable) = carry(call, &carried, values);
        if is_stable {
            return finish(call, &condition, next, elements);
        }
        carried = next;
    }
    call.all(call.unknown("carries values that change from round to round"))
}

/// What is carried is not what it was before the first round.
fn varying(value: Value) -> Value {
    Value { elements: None, constant: None, ..value }
}

/// What is carried into a round, whether it is the first or another one.
fn carry<'g>(call: &mut Call<'_, 'g, '_>, before: &[Value<'g>], after: Vec<Value<'g>>) -> (Vec<Value<'g>>, bool) {
    let mut is_stable = true;
    let next = before.iter().zip(after).map(|(old, new)| {
        let both = match (&old.rows, &new.rows) {
            // What is the same for all rows before the first round counts as belonging to each.
            (Rows::Free, _) if old.shape == new.shape => match &new.rows {
                Rows::Each(_) | Rows::Numbered(..) => call.unknown("carries values that change from round to round"),
                rows => Value::new(rows.clone(), new.shape.clone()),
            },
            (Rows::Free, Rows::Coupled(_)) => Value::new(new.rows.clone(), None),
            _ => join(call, old.clone(), new),
        };
        is_stable &= both.rows == old.rows && both.shape == old.shape;
        both
    });
    let next = next.collect();
    (next, is_stable)
}

fn finish<'g>(
    call: &mut Call<'_, 'g, '_>,
    condition: &Value<'g>,
    carried: Vec<Value<'g>>,
    elements: Vec<Value<'g>>,
) -> Values<'g> {
    if !condition.is_free() {
        let ends = |value: Value<'g>| match (&condition.rows, value.rows) {
            (_, Rows::Coupled(reason)) => Value::new(Rows::Coupled(reason), None),
            _ => call.unknown("ends when rows tell"),
        };
        return carried.into_iter().chain(elements).map(ends).collect();
    }
    let rounds = call.fresh();
    let stacked = elements.into_iter().map(|value| stack(value, 0, &rounds));
    carried.into_iter().chain(stacked).collect()
}

/// A result of each round, joined along a new axis.
fn stack<'g>(value: Value<'g>, axis: usize, rounds: &Dim) -> Value<'g> {
    let shape = value.shape.map(|mut shape| {
        shape.insert(axis.min(shape.len()), rounds.clone());
        shape
    });
    let move_place = |place: Place| place.at(place.axis + usize::from(place.axis >= axis));
    let rows = match value.rows {
        Rows::Each(place) => Rows::Each(move_place(place)),
        Rows::Numbered(place, reason) => Rows::Numbered(move_place(place), reason),
        rows => rows,
    };
    Value::new(rows, shape)
}

/// `Scan`: states, then sequences that are gone through along an axis.
pub fn scan<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(body) = call.graph("body") else { return call.all(call.unknown("lacks its body")) };
    let sequences = usize::try_from(call.int_or("num_scan_inputs", 0)).unwrap_or(usize::MAX);
    let inputs: Vec<Value> = call.given().cloned().collect();
    let Some(states) = inputs.len().checked_sub(sequences).filter(|_| call.version() >= 9) else {
        return call.all(call.not_followed());
    };
    let Some((parts, length, over_rows)) = parts(call, &inputs[states..]) else { return call.all(call.not_followed()) };
    let mut carried = inputs[..states].to_vec();
    for _ in 0..MAX_ROUNDS {
        let round = carried.iter().cloned().map(varying).chain(parts.iter().cloned());
        let mut values = call.walk.body(body, round.collect(), call.scope);
        if values.len() < states {
            return call.all(call.unknown("has a body with too few results"));
        }
        let elements = values.split_off(states);
        if over_rows {
            values = values.into_iter().map(|value| through_rows(call, value)).collect();
        }
        let (next, is_stable) = carry(call, &carried, values);
        if is_stable {
            return results(call, next, elements, &length);
        }
        carried = next;
    }
    call.all(call.unknown("carries values that change from round to round"))
}

/// A state that has seen a row, and is carried to the next one.
fn through_rows<'g>(call: &Call<'_, 'g, '_>, value: Value<'g>) -> Value<'g> {
    match value.rows {
        Rows::Picked(_) => call.coupled("carries a state from row to row"),
        _ => value,
    }
}

/// One element of each sequence, the length of the sequences, and whether they are gone through row by row.
fn parts<'g>(call: &mut Call<'_, 'g, '_>, sequences: &[Value<'g>]) -> Option<(Vec<Value<'g>>, Dim, bool)> {
    let given = call.ints("scan_input_axes").unwrap_or_default();
    let (mut length, mut over_rows) = (None, false);
    let mut parts = Vec::new();
    for (place, value) in sequences.iter().enumerate() {
        let mut shape = value.shape.clone()?;
        let axis = Call::axis(given.get(place).copied().unwrap_or(0), shape.len())?;
        length = Some(shape.remove(axis));
        let without = |place: &Place| place.at(place.axis - usize::from(place.axis > axis));
        let rows = match &value.rows {
            Rows::Each(place) | Rows::Numbered(place, _) if place.axis == axis => {
                over_rows = true;
                Rows::Picked(call.reason("goes through the batch axis"))
            }
            Rows::Each(place) => Rows::Each(without(place)),
            Rows::Numbered(place, reason) => Rows::Numbered(without(place), reason.clone()),
            rows => rows.clone(),
        };
        parts.push(Value::new(rows, Some(shape)));
    }
    Some((parts, length?, over_rows))
}

fn results<'g>(call: &Call<'_, 'g, '_>, states: Vec<Value<'g>>, elements: Vec<Value<'g>>, length: &Dim) -> Values<'g> {
    let given: HashMap<usize, i64> =
        call.ints("scan_output_axes").unwrap_or_default().iter().copied().enumerate().collect();
    let stacked = elements.into_iter().enumerate().map(|(place, value)| {
        let rank = value.rank().map(|rank| rank + 1);
        let axis = rank.and_then(|rank| Call::axis(given.get(&place).copied().unwrap_or(0), rank));
        match (axis, &value.rows) {
            // Each element is that of one row, which the analysis does not follow any further.
            (_, Rows::Picked(_)) | (None, _) => match value.rows {
                Rows::Coupled(_) => value,
                _ => call.unknown("goes through the batch axis"),
            },
            (Some(axis), _) => stack(value, axis, length),
        }
    });
    states.into_iter().chain(stacked).collect()
}
