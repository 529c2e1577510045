//! Control flow: `If`, `Loop` and `Scan`. Their bodies are evaluated on abstract values.

use std::collections::HashMap;

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

/// Maximum number of evaluations of a loop body until its carried values reach a fixed point.
const MAX_ROUNDS: usize = 4;

/// `If`: joins both branches, or takes one if the condition is constant.
pub fn branches<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let (Some(then), Some(otherwise)) = (ctx.graph("then_branch"), ctx.graph("else_branch")) else {
        return ctx.for_all_outputs(ctx.unknown("lacks a branch"));
    };
    let Some(condition) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no condition")) };
    let branch = condition.number().map(|condition| if condition == 0 { otherwise } else { then });
    if let Some(branch) = branch {
        return ctx.interpreter.run_body(branch, Vec::new(), ctx.scope);
    }
    let values = ctx.interpreter.run_body(then, Vec::new(), ctx.scope);
    let others = ctx.interpreter.run_body(otherwise, Vec::new(), ctx.scope);
    let joined = values.into_iter().zip(others).map(|(value, other)| join(ctx, value, other));
    match condition.dependence {
        BatchDependence::Invariant => joined.collect(),
        BatchDependence::Coupled(_) => ctx.for_all_outputs(Value::new(condition.dependence, None)),
        _ => ctx.for_all_outputs(ctx.unknown("has a condition that depends on rows")),
    }
}

/// The join of two values: the result may be either.
fn join<'g>(ctx: &NodeContext<'_, 'g, '_>, value: Value<'g>, other: Value<'g>) -> Value<'g> {
    let shape = if value.shape == other.shape { value.shape } else { None };
    match (value.dependence, other.dependence) {
        (dependence @ (BatchDependence::PerRow(_) | BatchDependence::PerRowAndPosition(..)), other)
            if dependence == other && shape.is_some() =>
        {
            Value::new(dependence, shape)
        }
        (BatchDependence::Coupled(reason), _) | (_, BatchDependence::Coupled(reason)) => {
            Value::new(BatchDependence::Coupled(reason), None)
        }
        (BatchDependence::Unknown(reason), _) | (_, BatchDependence::Unknown(reason)) => Value::unknown(reason),
        (dependence, other)
            if dependence == other
                && !matches!(dependence, BatchDependence::PerRow(_) | BatchDependence::PerRowAndPosition(..)) =>
        {
            Value::new(dependence, shape)
        }
        _ => ctx.unknown("has different results in different rounds or branches"),
    }
}

/// `Loop`: trip count, condition, carried values.
pub fn repeat<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(body) = ctx.graph("body") else { return ctx.for_all_outputs(ctx.unknown("lacks its body")) };
    let control: Vec<Value> = ctx.inputs.iter().take(2).flatten().cloned().collect();
    if let Some(value) = control.iter().find(|value| !value.is_invariant()) {
        let value = match &value.dependence {
            BatchDependence::Coupled(_) => Value::new(value.dependence.clone(), None),
            _ => ctx.unknown("has a trip count that depends on rows"),
        };
        return ctx.for_all_outputs(value);
    }
    let Some(mut carried) = ctx.inputs.get(2..).map(|inputs| inputs.iter().flatten().cloned().collect::<Vec<_>>())
    else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let scalar = |dependence: BatchDependence| Value::new(dependence, Some(Vec::new()));
    for _ in 0..MAX_ROUNDS {
        let inputs = [scalar(BatchDependence::Invariant), scalar(BatchDependence::Invariant)]
            .into_iter()
            .chain(carried.iter().cloned().map(varying));
        let mut values = ctx.interpreter.run_body(body, inputs.collect(), ctx.scope);
        if values.len() < carried.len() + 1 {
            return ctx.for_all_outputs(ctx.unknown("has a body with too few results"));
        }
        let elements = values.split_off(carried.len() + 1);
        let condition = values.remove(0);
        let (next, is_stable) = carry(ctx, &carried, values);
        if is_stable {
            return finish(ctx, &condition, next, elements);
        }
        carried = next;
    }
    ctx.for_all_outputs(ctx.unknown("carries values that change from round to round"))
}

/// A carried value inside the loop: its elements may differ from those before the first round.
fn varying(value: Value) -> Value {
    Value { elements: None, constant: None, ..value }
}

/// Joins the carried values before and after a round. Returns whether they have reached a fixed point.
fn carry<'g>(ctx: &mut NodeContext<'_, 'g, '_>, before: &[Value<'g>], after: Vec<Value<'g>>) -> (Vec<Value<'g>>, bool) {
    let mut is_stable = true;
    let next = before.iter().zip(after).map(|(old, new)| {
        let both = match (&old.dependence, &new.dependence) {
            // A value that is the same for all rows counts as one per row.
            (BatchDependence::Invariant, _) if old.shape == new.shape => match &new.dependence {
                BatchDependence::PerRow(_) | BatchDependence::PerRowAndPosition(..) => {
                    ctx.unknown("carries values that change from round to round")
                }
                dependence => Value::new(dependence.clone(), new.shape.clone()),
            },
            (BatchDependence::Invariant, BatchDependence::Coupled(_)) => Value::new(new.dependence.clone(), None),
            _ => join(ctx, old.clone(), new),
        };
        is_stable &= both.dependence == old.dependence && both.shape == old.shape;
        both
    });
    let next = next.collect();
    (next, is_stable)
}

fn finish<'g>(
    ctx: &mut NodeContext<'_, 'g, '_>,
    condition: &Value<'g>,
    carried: Vec<Value<'g>>,
    elements: Vec<Value<'g>>,
) -> Values<'g> {
    if !condition.is_invariant() {
        let ends = |value: Value<'g>| match (&condition.dependence, value.dependence) {
            (_, BatchDependence::Coupled(reason)) => Value::new(BatchDependence::Coupled(reason), None),
            _ => ctx.unknown("ends on a condition that depends on rows"),
        };
        return carried.into_iter().chain(elements).map(ends).collect();
    }
    let rounds = ctx.fresh_dim();
    let stacked = elements.into_iter().map(|value| stack(value, 0, &rounds));
    carried.into_iter().chain(stacked).collect()
}

/// The results of all rounds, stacked along a new axis.
fn stack<'g>(value: Value<'g>, axis: usize, rounds: &Dim) -> Value<'g> {
    let shape = value.shape.map(|mut shape| {
        shape.insert(axis.min(shape.len()), rounds.clone());
        shape
    });
    let moved = |batch_axis: BatchAxis| batch_axis.moved_to(batch_axis.axis + usize::from(batch_axis.axis >= axis));
    let dependence = match value.dependence {
        BatchDependence::PerRow(batch_axis) => BatchDependence::PerRow(moved(batch_axis)),
        BatchDependence::PerRowAndPosition(batch_axis, reason) => {
            BatchDependence::PerRowAndPosition(moved(batch_axis), reason)
        }
        dependence => dependence,
    };
    Value::new(dependence, shape)
}

/// `Scan`: states, then sequences that are iterated along an axis.
pub fn scan<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(body) = ctx.graph("body") else { return ctx.for_all_outputs(ctx.unknown("lacks its body")) };
    let sequences = usize::try_from(ctx.int_or("num_scan_inputs", 0)).unwrap_or(usize::MAX);
    let inputs: Vec<Value> = ctx.present_inputs().cloned().collect();
    let Some(states) = inputs.len().checked_sub(sequences).filter(|_| ctx.version() >= 9) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let Some((parts, length, over_rows)) = parts(ctx, &inputs[states..]) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let mut carried = inputs[..states].to_vec();
    for _ in 0..MAX_ROUNDS {
        let round = carried.iter().cloned().map(varying).chain(parts.iter().cloned());
        let mut values = ctx.interpreter.run_body(body, round.collect(), ctx.scope);
        if values.len() < states {
            return ctx.for_all_outputs(ctx.unknown("has a body with too few results"));
        }
        let elements = values.split_off(states);
        if over_rows {
            values = values.into_iter().map(|value| through_rows(ctx, value)).collect();
        }
        let (next, is_stable) = carry(ctx, &carried, values);
        if is_stable {
            return results(ctx, next, elements, &length);
        }
        carried = next;
    }
    ctx.for_all_outputs(ctx.unknown("carries values that change from round to round"))
}

/// A state that is carried from row to row.
fn through_rows<'g>(ctx: &NodeContext<'_, 'g, '_>, value: Value<'g>) -> Value<'g> {
    match value.dependence {
        BatchDependence::Selected(_) => ctx.coupled("carries a state from row to row"),
        _ => value,
    }
}

/// One element of each sequence, the length of the sequences, and whether they are iterated row by row.
fn parts<'g>(ctx: &mut NodeContext<'_, 'g, '_>, sequences: &[Value<'g>]) -> Option<(Vec<Value<'g>>, Dim, bool)> {
    let given = ctx.ints("scan_input_axes").unwrap_or_default();
    let (mut length, mut over_rows) = (None, false);
    let mut parts = Vec::new();
    for (index, value) in sequences.iter().enumerate() {
        let mut shape = value.shape.clone()?;
        let axis = NodeContext::resolve_axis(given.get(index).copied().unwrap_or(0), shape.len())?;
        length = Some(shape.remove(axis));
        let without =
            |batch_axis: &BatchAxis| batch_axis.moved_to(batch_axis.axis - usize::from(batch_axis.axis > axis));
        let dependence = match &value.dependence {
            BatchDependence::PerRow(batch_axis) | BatchDependence::PerRowAndPosition(batch_axis, _)
                if batch_axis.axis == axis =>
            {
                over_rows = true;
                BatchDependence::Selected(ctx.reason("goes through the batch axis"))
            }
            BatchDependence::PerRow(batch_axis) => BatchDependence::PerRow(without(batch_axis)),
            BatchDependence::PerRowAndPosition(batch_axis, reason) => {
                BatchDependence::PerRowAndPosition(without(batch_axis), reason.clone())
            }
            dependence => dependence.clone(),
        };
        parts.push(Value::new(dependence, Some(shape)));
    }
    Some((parts, length?, over_rows))
}

fn results<'g>(
    ctx: &NodeContext<'_, 'g, '_>,
    states: Vec<Value<'g>>,
    elements: Vec<Value<'g>>,
    length: &Dim,
) -> Values<'g> {
    let given: HashMap<usize, i64> =
        ctx.ints("scan_output_axes").unwrap_or_default().iter().copied().enumerate().collect();
    let stacked = elements.into_iter().enumerate().map(|(index, value)| {
        let rank = value.rank().map(|rank| rank + 1);
        let axis = rank.and_then(|rank| NodeContext::resolve_axis(given.get(&index).copied().unwrap_or(0), rank));
        match (axis, &value.dependence) {
            // Each element belongs to one row. The analysis does not trace this further.
            (_, BatchDependence::Selected(_)) | (None, _) => match value.dependence {
                BatchDependence::Coupled(_) => value,
                _ => ctx.unknown("goes through the batch axis"),
            },
            (Some(axis), _) => stack(value, axis, length),
        }
    });
    states.into_iter().chain(stacked).collect()
}
