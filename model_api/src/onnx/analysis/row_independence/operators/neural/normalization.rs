//! Normalization operators: rows stay independent unless a statistic is taken over the batch axis.

use super::super::matmul::parameters;
use super::super::reduce;
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchDependence, Value};

/// `Softmax`, `LogSoftmax` and `Hardmax`. Before operator set 13 they flatten all axes from `axis` on.
pub fn softmax<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if ctx.version() >= 13 || ctx.node.domain == "com.microsoft" {
        let axis = ctx.int_or("axis", -1);
        return reduce::along(ctx, Some(axis), "normalises along");
    }
    trailing(ctx, 1)
}

/// Operators whose statistics are taken over all axes from `axis` on.
fn trailing<'g>(ctx: &mut NodeContext<'_, 'g, '_>, default: i64) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, data.shape);
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape) else { return ctx.unsupported() };
    let axis = ctx.int_or("axis", default);
    match NodeContext::resolve_axis(axis, shape.len()) {
        Some(axis) if axis <= batch_axis.axis => ctx.coupled("normalises over the batch axis"),
        Some(_) => ctx.per_row(batch_axis, shape),
        None => ctx.unknown("has an unknown axis"),
    }
}

/// `LayerNormalization`: the result, and mean and standard deviation of each row.
pub fn layer<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = parameters(ctx, &[0]) {
        let shape = ctx.input(0).and_then(|data| data.shape.clone());
        return ctx.for_all_outputs(Value { shape, ..value });
    }
    let value = trailing(ctx, -1);
    let axis = value.rank().and_then(|rank| NodeContext::resolve_axis(ctx.int_or("axis", -1), rank));
    let mut values = ctx.for_all_outputs(value);
    for statistic in values.iter_mut().skip(1) {
        if let (Some(shape), Some(axis)) = (&mut statistic.shape, axis) {
            shape[axis..].fill(Dim::number(1));
        }
    }
    values
}

/// `BatchNormalization`: with running statistics, or in training mode with those of this batch.
pub fn batch<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = parameters(ctx, &[0]) {
        return ctx.for_all_outputs(value);
    }
    let outputs = ctx.node.output.iter().filter(|output| !output.is_empty()).count();
    let trains = match ctx.version() {
        14.. => ctx.flag("training_mode"),
        7.. => outputs > 1,
        _ => !ctx.flag("is_test"),
    };
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    let Some(batch_axis) = data.batch_axis().cloned() else {
        return ctx.for_all_outputs(Value::new(data.dependence, data.shape));
    };
    let shape = data.shape.unwrap_or_default();
    let value = match batch_axis.axis {
        0 if trains => ctx.coupled("normalises by the mean and variance of the batch, as in training"),
        0 => ctx.per_row(batch_axis, shape),
        _ => ctx.unknown("has the batch on another axis than the first"),
    };
    ctx.for_all_outputs(value)
}

/// `InstanceNormalization` and `GroupNormalization`: with statistics of each image.
pub fn instance<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(value) = parameters(ctx, &[0]) {
        return value;
    }
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let Some(batch_axis) = data.batch_axis().cloned() else { return Value::new(data.dependence, data.shape) };
    match batch_axis.axis {
        0 => ctx.per_row(batch_axis, data.shape.unwrap_or_default()),
        1 => ctx.unknown("has the batch on another axis than the first"),
        _ => ctx.coupled("normalises over the batch axis"),
    }
}

/// `LRN`: normalises over neighbouring channels.
pub fn local<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    reduce::along(ctx, Some(1), "normalises along")
}

/// `MeanVarianceNormalization`: the default axes include the batch axis.
pub fn mean_variance<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, data.shape);
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape) else { return ctx.unsupported() };
    let axes = ctx.ints("axes").unwrap_or(&[0, 2, 3]);
    let axes: Option<Vec<usize>> = axes.iter().map(|&axis| NodeContext::resolve_axis(axis, shape.len())).collect();
    match axes {
        Some(axes) if axes.contains(&batch_axis.axis) => ctx.coupled("normalises over the batch axis"),
        Some(_) => ctx.per_row(batch_axis, shape),
        None => ctx.unknown("has unknown axes"),
    }
}

/// Loss functions: one number for the batch unless `reduction` is `none`.
pub fn loss<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = match ctx.forced_dependence() {
        Some(dependence) => Value::new(dependence, None),
        None if ctx.text("reduction") == Some("none") => ctx.unsupported(),
        None => ctx.coupled("combines the losses of all rows"),
    };
    ctx.for_all_outputs(value)
}

/// `QuantizeLinear` and `DequantizeLinear` with constant scales.
pub fn quantize<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(value) = parameters(ctx, &[0]) {
        let shape = data.shape.filter(|_| matches!(value.dependence, BatchDependence::Coupled(_)));
        return Value { shape, ..value };
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape.clone()) else {
        return Value::new(data.dependence, data.shape);
    };
    let axis = NodeContext::resolve_axis(ctx.int_or("axis", 1), shape.len());
    let one_scale = ctx.input(1).and_then(|scale| Dim::product(scale.shape.as_ref()?)).is_some_and(|count| count.is(1));
    if one_scale || axis.is_some_and(|axis| axis != batch_axis.axis && ctx.int_or("block_size", 0) == 0) {
        return ctx.per_row(batch_axis, shape);
    }
    ctx.unknown("has scales with an unknown axis")
}

/// `DynamicQuantizeLinear`: one scale for the whole tensor.
pub fn dynamic<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    let dependence = match ctx.forced_dependence() {
        Some(dependence) => dependence,
        None => BatchDependence::Coupled(ctx.reason("takes its scale from the range of the whole batch")),
    };
    let scalar = || Value::new(dependence.clone(), Some(Vec::new()));
    vec![Value::new(dependence.clone(), data.shape), scalar(), scalar()]
}
