//! Layout operators, which only move elements: transpose, reshape, concat and split.

use crate::onnx::analysis::row_independence::elements;
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

/// `Transpose`.
pub fn transpose<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let Some(shape) = &data.shape else { return Value::new(data.dependence, None) };
    let rank = shape.len();
    let perm: Option<Vec<usize>> = match ctx.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| NodeContext::resolve_axis(axis, rank)).collect(),
        None => Some((0..rank).rev().collect()),
    };
    let is_whole = |perm: &Vec<usize>| perm.len() == rank && (0..rank).all(|axis| perm.contains(&axis));
    let Some(perm) = perm.filter(is_whole) else { return ctx.unknown("has an invalid permutation") };
    let moved = Some(perm.iter().map(|&axis| shape[axis].clone()).collect());
    let batch_axis = |batch_axis: &BatchAxis| {
        perm.iter().position(|&axis| axis == batch_axis.axis).map(|axis| batch_axis.moved_to(axis))
    };
    let dependence = match &data.dependence {
        BatchDependence::PerRow(old) => batch_axis(old).map(BatchDependence::PerRow),
        BatchDependence::PerRowAndPosition(old, reason) => {
            batch_axis(old).map(|batch_axis| BatchDependence::PerRowAndPosition(batch_axis, reason.clone()))
        }
        dependence => Some(dependence.clone()),
    };
    let elements = elements::transposed(&data, &perm);
    dependence.map_or_else(
        || ctx.unknown("has an invalid permutation"),
        |dependence| Value { elements, ..Value::new(dependence, moved) },
    )
}

/// The same elements in another shape.
pub fn reshaped<'g>(ctx: &NodeContext<'_, 'g, '_>, data: &Value<'g>, shape: Vec<Dim>) -> Value<'g> {
    let Some(batch_axis) = data.batch_axis() else { return Value::new(data.dependence.clone(), Some(shape)) };
    let Some(batch_axis) = data.shape.as_ref().and_then(|old| reshaped_axis(batch_axis, old, &shape)) else {
        return ctx.unknown("produces a shape without a recognisable batch axis");
    };
    let dependence = match &data.dependence {
        BatchDependence::PerRowAndPosition(_, reason) => BatchDependence::PerRowAndPosition(batch_axis, reason.clone()),
        _ => BatchDependence::PerRow(batch_axis),
    };
    Value::new(dependence, Some(shape))
}

/// The batch axis after a reshape. In row-major order, the number of elements before and after those of a row stays the same,
/// so the axes on one side are enough.
fn reshaped_axis(batch_axis: &BatchAxis, old: &[Dim], new: &[Dim]) -> Option<BatchAxis> {
    let axis = new.iter().position(Dim::contains_batch)?;
    let from_front = || {
        let before = Dim::product(&old[..batch_axis.axis])?.times(&batch_axis.outer)?;
        let outer = before.over(&Dim::product(&new[..axis])?)?;
        let inner = new[axis].over(&outer.times(&Dim::batch())?)?;
        Some((outer, inner))
    };
    let from_back = || {
        let after = Dim::product(&old[batch_axis.axis + 1..])?.times(&batch_axis.inner)?;
        let inner = after.over(&Dim::product(&new[axis + 1..])?)?;
        let outer = new[axis].over(&inner.times(&Dim::batch())?)?;
        Some((outer, inner))
    };
    let (outer, inner) = from_front().or_else(from_back)?;
    Some(BatchAxis { axis, outer, inner })
}

/// `Reshape`.
pub fn reshape<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let by_attribute = ctx.ints("shape").map(|ints| ints.iter().copied().map(Dim::number).collect());
    let target = by_attribute.or_else(|| ctx.input(1)?.clone().elements_or_fresh(&mut ctx.interpreter.symbols));
    let Some(target) = target else { return forced_or_unknown(ctx, "has an unknown target shape") };
    if let Some(dependence) = ctx.forced_dependence() {
        let shape = data.shape.as_deref().and_then(|old| resolve(ctx, old, &target));
        return Value { elements: data.elements, ..Value::new(dependence, shape) };
    }
    let Some(shape) = data.shape.as_deref().and_then(|old| resolve(ctx, old, &target)) else {
        return Value { elements: data.elements, ..forced_or_unknown(ctx, "has an unknown target shape") };
    };
    Value { elements: data.elements.clone(), ..reshaped(ctx, &data, shape) }
}

fn forced_or_unknown<'g>(ctx: &NodeContext<'_, 'g, '_>, words: &str) -> Value<'g> {
    match ctx.forced_dependence() {
        Some(dependence) => Value::new(dependence, None),
        None => ctx.unknown(words),
    }
}

/// The target shape with its zeros and its -1 resolved.
fn resolve(ctx: &mut NodeContext, old: &[Dim], target: &[Dim]) -> Option<Vec<Dim>> {
    let copies = !ctx.flag("allowzero");
    let mut shape = target.to_vec();
    for (axis, dim) in shape.iter_mut().enumerate().filter(|(_, dim)| copies && dim.is(0)) {
        *dim = old.get(axis)?.clone();
    }
    let open: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis].is(-1)).collect();
    if let [open] = open[..] {
        let symbols = &mut ctx.interpreter.symbols;
        let all = symbols.product(old);
        let others: Vec<Dim> =
            shape.iter().enumerate().filter(|&(axis, _)| axis != open).map(|(_, dim)| dim.clone()).collect();
        let others = symbols.product(&others);
        shape[open] = symbols.quotient(&all, &others);
    }
    (open.len() < 2).then_some(shape)
}

/// `Flatten`.
pub fn flatten<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let Some(old) = &data.shape else { return Value::new(data.dependence, None) };
    let axis = ctx.int_or("axis", 1);
    let axis = if usize::try_from(axis) == Ok(old.len()) {
        Some(old.len())
    } else {
        NodeContext::resolve_axis(axis, old.len())
    };
    let Some(axis) = axis else { return ctx.unknown("has an unknown axis") };
    let symbols = &mut ctx.interpreter.symbols;
    let shape = vec![symbols.product(&old[..axis]), symbols.product(&old[axis..])];
    reshaped(ctx, &data, shape)
}

/// `Squeeze` and `Unsqueeze`.
pub fn squeeze<'g>(ctx: &mut NodeContext<'_, 'g, '_>, inserts: bool) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let (Some(axes), Some(shape)) = (ctx.ints_from_attribute_or_input("axes", 1), data.shape.clone()) else {
        return forced_or_unknown(ctx, "has unknown axes");
    };
    let keep = |value: Value<'g>| Value { elements: data.elements.clone(), ..value };
    let Some(axes) = axes.filter(|axes| !axes.is_empty() || inserts) else {
        // Removes all axes of length 1. They are known only if every length is.
        let known = |(axis, dim): (usize, &Dim)| {
            dim.as_number().is_some() || data.batch_axis().is_some_and(|batch_axis| batch_axis.axis == axis)
        };
        if !shape.iter().enumerate().all(known) || data.batch_axis().is_some() {
            return forced_or_unknown(ctx, "removes unknown axes of length 1");
        }
        let shape = shape.into_iter().filter(|dim| !dim.is(1)).collect();
        return keep(reshaped(ctx, &data, shape));
    };
    let rank = if inserts { shape.len() + axes.len() } else { shape.len() };
    let axes: Option<Vec<usize>> = axes.iter().map(|&axis| NodeContext::resolve_axis(axis, rank)).collect();
    let Some(axes) = axes else { return forced_or_unknown(ctx, "has unknown axes") };
    if let Some(batch_axis) = data.batch_axis().filter(|batch_axis| !inserts && axes.contains(&batch_axis.axis)) {
        let _ = batch_axis;
        return ctx.unknown("removes the batch axis");
    }
    let mut dims = shape.into_iter();
    let new = if inserts {
        (0..rank).filter_map(|axis| if axes.contains(&axis) { Some(Dim::number(1)) } else { dims.next() }).collect()
    } else {
        dims.enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| dim).collect()
    };
    keep(reshaped(ctx, &data, new))
}

/// `Concat`.
pub fn concat<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let inputs: Vec<Value> = ctx.present_inputs().cloned().collect();
    let axis = ctx.int_or("axis", 1);
    let shape = joined(ctx, &inputs, axis);
    let fresh = |value: &Value| value.elements_or_fresh(&mut ctx.interpreter.symbols);
    let elements = inputs.iter().map(fresh).collect::<Option<Vec<_>>>().map(|elements| elements.concat());
    if let Some(elements) = elements.filter(|_| shape.as_ref().is_some_and(|shape| shape.len() == 1)) {
        let dims = shape.unwrap_or_default();
        let reason = ctx.reason("concatenates lengths with the number of rows");
        return Value::of_elements(dims, elements, &ctx.interpreter.symbols, || reason);
    }
    if let Some(dependence) = ctx.forced_dependence() {
        return match dependence {
            BatchDependence::Permuted(_) => ctx.unknown("concatenates rows that were permuted"),
            dependence => Value::new(dependence, shape),
        };
    }
    let Some(shape) = shape else { return ctx.unknown("concatenates tensors of unknown shape") };
    let Some(batch_axis) = inputs.iter().find_map(Value::batch_axis) else { return ctx.unsupported() };
    if inputs.iter().any(|value| value.batch_axis() != Some(batch_axis)) {
        return ctx.unknown("concatenates tensors with different batch axes");
    }
    if NodeContext::resolve_axis(axis, shape.len()) == Some(batch_axis.axis) {
        return ctx.unknown("concatenates along the batch axis");
    }
    ctx.per_row(batch_axis.clone(), shape)
}

fn joined(ctx: &mut NodeContext, inputs: &[Value], axis: i64) -> Option<Vec<Dim>> {
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let shapes = shapes?;
    let mut shape = (*shapes.first()?).clone();
    let axis = NodeContext::resolve_axis(axis, shape.len())?;
    let lengths = shapes.iter().skip(1).map(|other| other.get(axis));
    for length in lengths {
        shape[axis] = ctx.interpreter.symbols.sum(&shape[axis], length?);
    }
    Some(shape)
}

/// `Split`: into equal parts or given lengths.
pub fn split<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let axis = ctx.int_or("axis", 0);
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    let Some((shape, axis)) = data
        .shape
        .clone()
        .and_then(|shape| Some((NodeContext::resolve_axis(axis, shape.len())?, shape)))
        .map(|(axis, shape)| (shape, axis))
    else {
        return ctx.for_all_outputs(forced_or_unknown(ctx, "splits a tensor of unknown shape"));
    };
    let parts = ctx.node.output.len();
    let lengths = ctx.ints("split").map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let lengths = lengths.or_else(|| ctx.input(1)?.elements.clone()).filter(|lengths| lengths.len() == parts);
    let lengths_are_free = ctx.input(1).is_none_or(Value::is_invariant);
    let has_lengths = ctx.ints("split").is_some() || ctx.input(1).is_some();
    let count = Dim::number(i64::try_from(parts).unwrap_or(i64::MAX));
    let equal = shape[axis].over(&count).filter(|_| !has_lengths);
    (0..parts)
        .map(|part| {
            let mut shape = shape.clone();
            let known = lengths.as_ref().map(|lengths| lengths[part].clone()).or_else(|| equal.clone());
            shape[axis] = known.unwrap_or_else(|| ctx.fresh_dim());
            match (ctx.forced_dependence(), data.batch_axis()) {
                (Some(BatchDependence::Permuted(_)), _) => ctx.unknown("splits rows that were permuted"),
                // If the split points depend on rows, so do the lengths.
                (Some(dependence), _) => Value::new(dependence, Some(shape).filter(|_| lengths_are_free)),
                (None, Some(batch_axis)) if batch_axis.axis == axis => ctx.unknown("splits the batch axis"),
                (None, Some(batch_axis)) if lengths_are_free => ctx.per_row(batch_axis.clone(), shape),
                (None, _) => ctx.unsupported(),
            }
        })
        .collect()
}
