//! Operators that combine elements along axes: reductions, `ArgMax`, cumulative sums and sorting.

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchDependence, Value};

/// `Reduce…`.
pub fn reduce<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(axes) = ctx.ints_from_attribute_or_input("axes", 1) else { return vec![forced_or_unknown_axes(ctx)] };
    let axes = axes.unwrap_or_default();
    if axes.is_empty() && ctx.flag("noop_with_empty_axes") {
        return super::elementwise::evaluate(ctx);
    }
    vec![over(ctx, &axes, ctx.int_or("keepdims", 1) != 0, "reduces over")]
}

/// `ArgMax` and `ArgMin`.
pub fn extreme<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let axis = ctx.int_or("axis", 0);
    vec![over(ctx, &[axis], ctx.int_or("keepdims", 1) != 0, "takes an extreme along")]
}

fn forced_or_unknown_axes<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    match ctx.forced_dependence() {
        Some(dependence) => Value::new(dependence, None),
        None => ctx.unknown("has unknown axes"),
    }
}

/// Combines all elements along these axes; an empty list stands for all axes.
fn over<'g>(ctx: &mut NodeContext<'_, 'g, '_>, axes: &[i64], keeps: bool, words: &str) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let reduced = data.shape.as_ref().and_then(|shape| {
        let axes: Option<Vec<usize>> = axes.iter().map(|&axis| NodeContext::resolve_axis(axis, shape.len())).collect();
        axes.map(|axes| if axes.is_empty() { (0..shape.len()).collect() } else { axes })
    });
    let shape = data.shape.as_ref().zip(reduced.as_ref()).map(|(shape, axes)| {
        let dims = shape.iter().enumerate().filter(|(axis, _)| keeps || !axes.contains(axis));
        dims.map(|(axis, dim)| if axes.contains(&axis) { Dim::number(1) } else { dim.clone() }).collect()
    });
    if let Some(dependence) = ctx.forced_dependence() {
        return match dependence {
            BatchDependence::Selected(_) => ctx.unknown("combines elements of any rows"),
            dependence => Value::new(dependence, shape),
        };
    }
    let Some(batch_axis) = data.batch_axis() else { return Value::new(data.dependence.clone(), shape) };
    let (Some(axes), Some(shape)) = (reduced, shape) else { return ctx.unknown("has unknown axes") };
    if axes.contains(&batch_axis.axis) {
        return Value::new(BatchDependence::Coupled(ctx.reason(&format!("{words} the batch axis"))), Some(shape));
    }
    let before = axes.iter().filter(|&&axis| axis < batch_axis.axis).count();
    ctx.per_row(batch_axis.moved_to(batch_axis.axis - if keeps { 0 } else { before }), shape)
}

/// Operators along one axis that keep the shape: `CumSum`, `CumProd`, and normalization.
pub fn along<'g>(ctx: &mut NodeContext<'_, 'g, '_>, axis: Option<i64>, words: &str) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, data.shape);
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis(), data.shape.clone()) else { return ctx.unsupported() };
    match axis.and_then(|axis| NodeContext::resolve_axis(axis, shape.len())) {
        None => ctx.unknown("has an unknown axis"),
        Some(axis) if axis == batch_axis.axis => {
            Value::new(BatchDependence::Coupled(ctx.reason(&format!("{words} the batch axis"))), Some(shape))
        }
        Some(_) => ctx.per_row(batch_axis.clone(), shape),
    }
}

/// `TopK`: values and indices.
pub fn top_k<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let axis = ctx.int_or("axis", -1);
    let count = ctx.int("k").map(Dim::number);
    let count = count.or_else(|| ctx.input(1)?.elements.as_ref()?.first().cloned());
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let (Some(batch_axis), Some(mut shape)) = (data.batch_axis().cloned(), data.shape) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let Some(axis) = NodeContext::resolve_axis(axis, shape.len()) else {
        return ctx.for_all_outputs(ctx.unknown("has an unknown axis"));
    };
    if axis == batch_axis.axis {
        return ctx.for_all_outputs(ctx.permuted("sorts along the batch axis"));
    }
    if ctx.input(1).is_some_and(|count| !count.is_invariant()) {
        return ctx.for_all_outputs(ctx.unknown("has a count that depends on rows"));
    }
    shape[axis] = count.unwrap_or_else(|| ctx.fresh_dim());
    let value = ctx.per_row(batch_axis, shape);
    ctx.for_all_outputs(value)
}

/// `Det` and other operators that reduce the last axes to one element.
pub fn last_axes<'g>(ctx: &mut NodeContext<'_, 'g, '_>, count: usize) -> Value<'g> {
    let axes: Vec<i64> = (1..=count).map(|axis| -i64::try_from(axis).unwrap_or(0)).collect();
    over(ctx, &axes, false, "combines")
}
