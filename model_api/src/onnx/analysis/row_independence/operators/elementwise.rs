//! Elementwise operators, with broadcasting.

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::{Dim, SymbolTable};
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, MAX_ELEMENTS, Value};

/// An elementwise operator, including its elements if they are tracked.
pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let inputs: Vec<Value> = ctx.present_inputs().cloned().collect();
    let mut value = broadcast(ctx, &inputs);
    if let Some(elements) = elements(ctx, &inputs, value.shape.as_deref()) {
        let counts = elements.iter().any(|element| ctx.interpreter.symbols.depends_on_batch_size(element));
        if !counts && matches!(value.dependence, BatchDependence::BatchSize(_)) {
            value.dependence = BatchDependence::Invariant;
        }
        value.elements = Some(elements);
    }
    ctx.for_all_outputs(value)
}

/// Dependence and shape of the result of an elementwise operator.
pub fn broadcast<'g>(ctx: &mut NodeContext<'_, 'g, '_>, inputs: &[Value<'g>]) -> Value<'g> {
    let shape = broadcast_shape(&mut ctx.interpreter.symbols, inputs);
    if let Some(dependence) = ctx.forced_dependence() {
        let numbered = inputs.iter().any(|value| {
            matches!(value.dependence, BatchDependence::PerRowAndPosition(..) | BatchDependence::BatchSize(_))
        });
        if numbered && matches!(dependence, BatchDependence::Selected(_)) {
            return ctx.unknown("compares rows by number with elements of any rows");
        }
        return Value::new(dependence, shape);
    }
    let Some(rank) = shape.as_ref().map(Vec::len) else {
        let counts = inputs.iter().find(|value| matches!(value.dependence, BatchDependence::BatchSize(_)));
        return match counts {
            Some(value) if inputs.iter().all(|value| value.batch_axis().is_none()) => {
                Value::new(value.dependence.clone(), None)
            }
            _ => ctx.unknown("broadcasts a tensor of unknown shape"),
        };
    };
    let input_axes = inputs
        .iter()
        .filter_map(|value| Some(value.batch_axis()?.moved_to(value.batch_axis()?.axis + rank - value.rank()?)));
    let input_axes: Vec<BatchAxis> = input_axes.collect();
    let Some(batch_axis) = input_axes.first() else {
        let counts = inputs.iter().find(|value| matches!(value.dependence, BatchDependence::BatchSize(_)));
        return counts.map_or_else(
            || ctx.unknown("is not supported by the analysis"),
            |value| Value::new(value.dependence.clone(), shape),
        );
    };
    if input_axes.iter().any(|other| other.axis != batch_axis.axis) {
        return ctx.coupled("combines the batch axis of one input with another axis of the other");
    }
    if input_axes.iter().any(|other| other != batch_axis) {
        return ctx.unknown("combines batch axes that are merged with others in different ways");
    }
    let mut numbered = None;
    for value in inputs.iter().filter(|value| value.batch_axis().is_none()) {
        let Some(values_shape) = &value.shape else { return ctx.unknown("broadcasts a tensor of unknown shape") };
        let axis = (batch_axis.axis + values_shape.len()).checked_sub(rank);
        if axis.is_some_and(|axis| !values_shape[axis].is(1)) {
            numbered = Some(ctx.reason("combines the batch axis with an axis of fixed length"));
        }
    }
    let shape = shape.unwrap_or_default();
    let Some(length) = batch_axis.length() else { return ctx.unknown("is not supported by the analysis") };
    let shape =
        shape.into_iter().enumerate().map(|(axis, dim)| if axis == batch_axis.axis { length.clone() } else { dim });
    let value = ctx.per_row(batch_axis.clone(), shape.collect());
    match numbered {
        Some(reason) => Value { dependence: BatchDependence::PerRowAndPosition(batch_axis.clone(), reason), ..value },
        None => value,
    }
}

/// The common shape after broadcasting.
pub fn broadcast_shape(symbols: &mut SymbolTable, inputs: &[Value]) -> Option<Vec<Dim>> {
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let shapes = shapes?;
    let rank = shapes.iter().map(|shape| shape.len()).max()?;
    let dims = (0..rank).map(|axis| {
        let lengths = shapes.iter().filter_map(|shape| shape.get((axis + shape.len()).checked_sub(rank)?));
        lengths.fold(Dim::number(1), |length, other| symbols.broadcast(&length, other))
    });
    Some(dims.collect())
}

/// The elements of the result, if those of the inputs are tracked.
fn elements<'g>(ctx: &mut NodeContext<'_, 'g, '_>, inputs: &[Value<'g>], shape: Option<&[Dim]>) -> Option<Vec<Dim>> {
    const FLOATS_AND_INTEGERS: [i64; 4] = [1, 6, 7, 11];
    let kind = ctx.node.op_type.as_str();
    match kind {
        "Cast" if !FLOATS_AND_INTEGERS.contains(&ctx.int_or("to", 0)) => return None,
        "Add" | "Sub" | "Mul" | "Div" | "Neg" | "Equal" | "Where" | "Identity" | "Cast" | "Floor" | "Ceil" | "Min"
        | "Max" | "Mod" | "Not" => {}
        _ => return None,
    }
    // At least one input must have tracked elements; unknown elements of the others become symbols.
    inputs.iter().find(|value| value.elements.is_some())?;
    let count = usize::try_from(Dim::product(shape?)?.as_number()?).ok().filter(|&count| count <= MAX_ELEMENTS)?;
    let symbols = &mut ctx.interpreter.symbols;
    let operands: Option<Vec<Vec<Dim>>> = inputs.iter().map(|value| value.elements_or_fresh(symbols)).collect();
    let operands = operands?;
    // Inputs have either as many elements as the result, or one.
    let fits = |operand: &Vec<Dim>| operand.len() == count || operand.len() == 1;
    if !operands.iter().all(fits) {
        return None;
    }
    let at = |index: usize| operands.iter().map(move |operand| operand.get(index).unwrap_or(&operand[0]).clone());
    (0..count).map(|index| element(symbols, kind, &at(index).collect::<Vec<_>>())).collect()
}

fn element(symbols: &mut SymbolTable, kind: &str, of: &[Dim]) -> Option<Dim> {
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

fn extreme(symbols: &mut SymbolTable, least: bool, first: &Dim, rest: &[Dim]) -> Dim {
    rest.iter().fold(first.clone(), |found, other| match (found.as_number(), other.as_number()) {
        (Some(a), Some(b)) => Dim::number(if least { a.min(b) } else { a.max(b) }),
        _ if found == *other => found,
        _ => symbols.computed(if least { "least" } else { "most" }, &[&found, other]),
    })
}
