//! Matrix products: rows stay independent on axes that are not summed over.

use super::elementwise;
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

/// `MatMul` of the inputs at these indices. All other inputs are parameters such as scales, which must not depend on rows.
pub fn matmul<'g>(ctx: &mut NodeContext<'_, 'g, '_>, a: usize, b: usize) -> Values<'g> {
    let (Some(left), Some(right)) = (ctx.input(a).cloned(), ctx.input(b).cloned()) else {
        return ctx.for_all_outputs(ctx.unknown("has no inputs"));
    };
    if let Some(value) = parameters(ctx, &[a, b]) {
        return ctx.for_all_outputs(value);
    }
    let value = product(ctx, left, right);
    ctx.for_all_outputs(value)
}

/// The result if an input other than these depends on rows.
pub fn parameters<'g>(ctx: &NodeContext<'_, 'g, '_>, data: &[usize]) -> Option<Value<'g>> {
    if let Some(dependence) = ctx.forced_dependence().filter(|dependence| *dependence != BatchDependence::Invariant) {
        return Some(Value::new(dependence, None));
    }
    let others = ctx.inputs.iter().enumerate().filter(|(index, _)| !data.contains(index));
    let depends = others.into_iter().any(|(_, value)| value.as_ref().is_some_and(|value| !value.is_invariant()));
    depends.then(|| ctx.unknown("has a parameter that depends on rows"))
}

/// `FusedMatMul`, whose inputs may be transposed.
pub fn fused<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let (Some(mut left), Some(mut right)) = (ctx.input(0).cloned(), ctx.input(1).cloned()) else {
        return ctx.for_all_outputs(ctx.unknown("has no inputs"));
    };
    if let Some(value) = parameters(ctx, &[0, 1]) {
        return ctx.for_all_outputs(value);
    }
    if ctx.flag("transBatchA") || ctx.flag("transBatchB") {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    if ctx.flag("transA") {
        left = transposed(left);
    }
    if ctx.flag("transB") {
        right = transposed(right);
    }
    let value = product(ctx, left, right);
    ctx.for_all_outputs(value)
}

/// `Gemm`.
pub fn gemm<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let (Some(mut left), Some(mut right)) = (ctx.input(0).cloned(), ctx.input(1).cloned()) else {
        return ctx.for_all_outputs(ctx.unknown("has no inputs"));
    };
    if ctx.flag("transA") {
        left = transposed(left);
    }
    if ctx.flag("transB") {
        right = transposed(right);
    }
    let product = product(ctx, left, right);
    let values: Vec<Value> = std::iter::once(product).chain(ctx.input(2).cloned()).collect();
    // The bias is added to the product, so the dependences of the factors no longer apply.
    let inputs = std::mem::replace(&mut ctx.inputs, values.iter().cloned().map(Some).collect());
    let value = elementwise::broadcast(ctx, &values);
    ctx.inputs = inputs;
    ctx.for_all_outputs(value)
}

/// The value with its last two axes swapped.
fn transposed(mut value: Value) -> Value {
    let Some(shape) = &mut value.shape else { return value };
    let rank = shape.len();
    if rank < 2 {
        return value;
    }
    shape.swap(rank - 1, rank - 2);
    if let BatchDependence::PerRow(batch_axis) | BatchDependence::PerRowAndPosition(batch_axis, _) =
        &mut value.dependence
    {
        batch_axis.axis = match batch_axis.axis {
            axis if axis == rank - 1 => rank - 2,
            axis if axis == rank - 2 => rank - 1,
            axis => axis,
        };
    }
    value
}

/// The matrix product of two tensors.
fn product<'g>(ctx: &mut NodeContext<'_, 'g, '_>, left: Value<'g>, right: Value<'g>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        let shape = left.shape.zip(right.shape).and_then(|(a, b)| shape_of(ctx, a, b));
        return Value::new(dependence, shape);
    }
    let (Some(a), Some(b)) = (left.shape.clone(), right.shape.clone()) else {
        return ctx.unknown("multiplies a tensor of unknown shape");
    };
    let (ranks, Some(shape)) = ((a.len(), b.len()), shape_of(ctx, a, b)) else { return ctx.unsupported() };
    let batch_axis = match (left.batch_axis(), right.batch_axis()) {
        (None, None) => return ctx.unsupported(),
        (Some(batch_axis), None) => left_axis(batch_axis, ranks, shape.len()),
        (None, Some(batch_axis)) => right_axis(batch_axis, ranks, shape.len()),
        (Some(a), Some(b)) => match (left_axis(a, ranks, shape.len()), right_axis(b, ranks, shape.len())) {
            (Some(a), Some(b)) if a == b => Some(a),
            (Some(a), Some(b)) if a.axis == b.axis => {
                return ctx.unknown("multiplies batch axes that are merged with others");
            }
            (Some(_), Some(_)) => return ctx.coupled("multiplies each row with every other one"),
            _ => None,
        },
    };
    let Some(batch_axis) = batch_axis else { return ctx.coupled("sums over the batch axis") };
    let rank = ranks.0.max(ranks.1);
    for value in [&left, &right].into_iter().filter(|value| value.batch_axis().is_none()) {
        let other = value.shape.as_deref().unwrap_or_default();
        let axis = (batch_axis.axis + other.len()).checked_sub(rank).filter(|&axis| axis + 2 < other.len());
        if axis.is_some_and(|axis| !other[axis].is(1)) {
            let reason = ctx.reason("combines the batch axis with an axis of fixed length");
            return Value::new(BatchDependence::PerRowAndPosition(batch_axis, reason), Some(shape));
        }
    }
    ctx.per_row(batch_axis, shape)
}

/// The axis of the product that corresponds to an axis of the left factor; `None` if it is summed over.
fn left_axis(batch_axis: &BatchAxis, (a, b): (usize, usize), rank: usize) -> Option<BatchAxis> {
    if batch_axis.axis + 1 == a {
        return None;
    }
    // If the right factor is a vector, the rows of the left factor are the last axis.
    let from_end = a - batch_axis.axis - usize::from(b == 1);
    Some(batch_axis.moved_to(rank - from_end))
}

fn right_axis(batch_axis: &BatchAxis, (a, b): (usize, usize), rank: usize) -> Option<BatchAxis> {
    if b == 1 || batch_axis.axis + 2 == b {
        return None;
    }
    let from_end = b - batch_axis.axis;
    // If the left factor is a vector, the axes before the columns are one position nearer to the end.
    let from_end = if a == 1 && batch_axis.axis + 1 < b { from_end - 1 } else { from_end };
    Some(batch_axis.moved_to(rank - from_end))
}

fn shape_of(ctx: &mut NodeContext, mut a: Vec<Dim>, mut b: Vec<Dim>) -> Option<Vec<Dim>> {
    let (a_is_vector, b_is_vector) = (a.len() == 1, b.len() == 1);
    if a_is_vector {
        a.insert(0, Dim::number(1));
    }
    if b_is_vector {
        b.push(Dim::number(1));
    }
    let (Some((row_count, a)), Some((columns, b))) = (
        a.split_last().and_then(|(_, rest)| rest.split_last()),
        b.split_last().and_then(|(columns, rest)| Some((columns, rest.split_last()?.1))),
    ) else {
        return None;
    };
    let batches = [a, b].map(|dims| Value::new(BatchDependence::Invariant, Some(dims.to_vec())));
    let mut shape = elementwise::broadcast_shape(&mut ctx.interpreter.symbols, &batches)?;
    if !a_is_vector {
        shape.push(row_count.clone());
    }
    if !b_is_vector {
        shape.push(columns.clone());
    }
    Some(shape)
}
