//! Operators that compute each element from those in the same place, with broadcasting.

use super::super::call::{Call, Values};
use super::super::symbols::{Dim, Symbols};
use super::super::value::{MAX_ELEMENTS, Place, Rows, Value};

/// Operators with one or more inputs that are broadcast to each other.
pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let inputs: Vec<Value> = call.given().cloned().collect();
    let mut value = broadcast(call, &inputs);
    if let Some(elements) = elements(call, &inputs, value.shape.as_deref()) {
        let counts = elements.iter().any(|element| call.walk.symbols.counts_rows(element));
        if !counts && matches!(value.rows, Rows::Count(_)) {
            value.rows = Rows::Free;
        }
        value.elements = Some(elements);
    }
    call.all(value)
}

/// The result of an operator that is applied element by element; what it depends on and its shape.
pub fn broadcast<'g>(call: &mut Call<'_, 'g, '_>, inputs: &[Value<'g>]) -> Value<'g> {
    let shape = broadcast_shape(&mut call.walk.symbols, inputs);
    if let Some(rows) = call.settled() {
        let numbered = inputs.iter().any(|value| matches!(value.rows, Rows::Numbered(..) | Rows::Count(_)));
        if numbered && matches!(rows, Rows::Picked(_)) {
            return call.unknown("compares rows by number with elements of any rows");
        }
        return Value::new(rows, shape);
    }
    let Some(rank) = shape.as_ref().map(Vec::len) else {
        let counts = inputs.iter().find(|value| matches!(value.rows, Rows::Count(_)));
        return match counts {
            Some(value) if inputs.iter().all(|value| value.place().is_none()) => Value::new(value.rows.clone(), None),
            _ => call.unknown("broadcasts a tensor of unknown shape"),
        };
    };
    let places = inputs.iter().filter_map(|value| Some(value.place()?.at(value.place()?.axis + rank - value.rank()?)));
    let places: Vec<Place> = places.collect();
    let Some(place) = places.first() else {
        let counts = inputs.iter().find(|value| matches!(value.rows, Rows::Count(_)));
        return counts.map_or_else(|| call.unknown("is not followed"), |value| Value::new(value.rows.clone(), shape));
    };
    if places.iter().any(|other| other.axis != place.axis) {
        return call.coupled("combines the batch axis of one input with another axis of the other");
    }
    if places.iter().any(|other| other != place) {
        return call.unknown("combines batch axes that are merged with others in different ways");
    }
    let mut numbered = None;
    for value in inputs.iter().filter(|value| value.place().is_none()) {
        let Some(values_shape) = &value.shape else { return call.unknown("broadcasts a tensor of unknown shape") };
        let axis = (place.axis + values_shape.len()).checked_sub(rank);
        if axis.is_some_and(|axis| !values_shape[axis].is(1)) {
            numbered = Some(call.reason("combines the batch axis with an axis of fixed length"));
        }
    }
    let shape = shape.unwrap_or_default();
    let Some(length) = place.length() else { return call.unknown("is not followed") };
    let shape = shape.into_iter().enumerate().map(|(axis, dim)| if axis == place.axis { length.clone() } else { dim });
    let value = call.each(place.clone(), shape.collect());
    match numbered {
        Some(reason) => Value { rows: Rows::Numbered(place.clone(), reason), ..value },
        None => value,
    }
}

/// The shape that these shapes are broadcast to.
pub fn broadcast_shape(symbols: &mut Symbols, inputs: &[Value]) -> Option<Vec<Dim>> {
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let shapes = shapes?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let dims = (0..rank).map(|axis| {
        let lengths = shapes.iter().filter_map(|shape| shape.get((axis + shape.len()).checked_sub(rank)?));
        lengths.fold(Dim::number(1), |length, other| symbols.broadcast(&length, other))
    });
    Some(dims.collect())
}

/// The elements of the result, where those of the inputs are followed.
fn elements<'g>(call: &mut Call<'_, 'g, '_>, inputs: &[Value<'g>], shape: Option<&[Dim]>) -> Option<Vec<Dim>> {
    const FLOATS_AND_INTEGERS: [i64; 4] = [1, 6, 7, 11];
    let kind = call.node.op_type.as_str();
    match kind {
        "Cast" if !FLOATS_AND_INTEGERS.contains(&call.int_or("to", 0)) => return None,
        "Add" | "Sub" | "Mul" | "Div" | "Neg" | "Equal" | "Where" | "Identity" | "Cast" | "Floor" | "Ceil" | "Min"
        | "Max" | "Mod" | "Not" => {}
        _ => return None,
    }
    // One input at least holds lengths; the others then have elements of their own.
    inputs.iter().find(|value| value.elements.is_some())?;
    let count = usize::try_from(Dim::product(shape?)?.as_number()?).ok().filter(|&count| count <= MAX_ELEMENTS)?;
    let symbols = &mut call.walk.symbols;
    let operands: Option<Vec<Vec<Dim>>> = inputs.iter().map(|value| value.elements_or_fresh(symbols)).collect();
    let operands = operands?;
    // As many elements in all inputs are broadcast element by element; others are single ones.
    let fits = |operand: &Vec<Dim>| operand.len() == count || operand.len() == 1;
    if !operands.iter().all(fits) {
        return None;
    }
    let at = |place: usize| operands.iter().map(move |operand| operand.get(place).unwrap_or(&operand[0]).clone());
    (0..count).map(|place| element(symbols, kind, &at(place).collect::<Vec<_>>())).collect()
}

fn element(symbols: &mut Symbols, kind: &str, of: &[Dim]) -> Option<Dim> {
    let truth = |is_true: bool| Dim::number(i64::from(is_true));
    Some(match (kind, of) {
        ("Identity" | "Cast", [a]) => a.clone(),
        ("Floor" | "Ceil", [a]) if a.as_number().is_some() => a.clone(),
        ("Floor", [a]) => symbols.computed("floor", &[a]),
        ("Ceil", [a]) => symbols.computed("ceil", &[a]),
        ("Neg", [a]) => symbols.times(a, &Dim::number(-1)),
        ("Not", [a]) => match a.as_number() {
            Some(value) => truth(value == 0),
            None => symbols.computed("not", &[a]),
        },
        ("Add", [a, b]) => symbols.sum(a, b),
        ("Sub", [a, b]) => {
            let negative = symbols.times(b, &Dim::number(-1));
            symbols.sum(a, &negative)
        }
        ("Mul", [a, b]) => symbols.times(a, b),
        ("Div", [a, b]) => symbols.quotient(a, b),
        ("Mod", [a, b]) => match a.as_number().zip(b.as_number()) {
            Some((a @ 0.., b @ 1..)) => Dim::number(a % b),
            _ => symbols.computed("remainder", &[a, b]),
        },
        ("Equal", [a, b]) => match symbols.are_equal(a, b) {
            Some(equal) => truth(equal),
            None => symbols.computed("equal", &[a, b]),
        },
        ("Where", [condition, a, b]) => match condition.as_number() {
            Some(0) => b.clone(),
            Some(_) => a.clone(),
            None if a == b => a.clone(),
            None => symbols.computed("where", &[condition, a, b]),
        },
        ("Min" | "Max", [first, rest @ ..]) => extreme(symbols, kind == "Min", first, rest),
        _ => return None,
    })
}

fn extreme(symbols: &mut Symbols, least: bool, first: &Dim, rest: &[Dim]) -> Dim {
    rest.iter().fold(first.clone(), |found, other| match (found.as_number(), other.as_number()) {
        (Some(a), Some(b)) => Dim::number(if least { a.min(b) } else { a.max(b) }),
        _ if found == *other => found,
        _ => symbols.computed(if least { "least" } else { "most" }, &[&found, other]),
    })
}
