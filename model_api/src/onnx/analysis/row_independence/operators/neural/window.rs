//! Operators on `[batch, channels, …]` that process each image by itself: convolution, pooling and others.

use super::super::matmul::parameters;
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

/// A convolution of the input at index `data` with the kernel at index `kernel`.
pub fn convolution<'g>(ctx: &mut NodeContext<'_, 'g, '_>, data: usize, kernel: usize) -> Values<'g> {
    let value = convolved(ctx, data, kernel);
    ctx.for_all_outputs(value)
}

fn convolved<'g>(ctx: &mut NodeContext<'_, 'g, '_>, data: usize, kernel: usize) -> Value<'g> {
    if let Some(value) = parameters(ctx, &[data]) {
        return value;
    }
    let shapes = ctx.input(data).and_then(|data| data.shape.clone());
    let kernel = ctx.input(kernel).and_then(|kernel| kernel.shape.clone());
    let (Some(shape), Some(kernel)) = (shapes, kernel) else { return ctx.unsupported() };
    if shape.len() != kernel.len() || shape.len() < 3 {
        return ctx.unsupported();
    }
    let transposes = ctx.node.op_type == "ConvTranspose";
    let channels = if transposes {
        kernel[1].times(&Dim::number(ctx.int_or("group", 1))).unwrap_or_else(|| ctx.fresh_dim())
    } else {
        kernel[0].clone()
    };
    let mut result = vec![shape[0].clone(), channels];
    for axis in 2..shape.len() {
        let length =
            if transposes { ctx.fresh_dim() } else { window_length(ctx, &shape[axis], axis - 2, &kernel[axis]) };
        result.push(length);
    }
    let batch_axis = ctx.input(data).and_then(|data| data.batch_axis().cloned());
    match batch_axis {
        None => Value::new(BatchDependence::Invariant, Some(result)),
        Some(batch_axis) if batch_axis.axis == 0 => ctx.per_row(batch_axis, result),
        Some(batch_axis) if batch_axis.axis == 1 && ctx.int_or("group", 1) == 1 => {
            ctx.coupled("sums over the batch axis")
        }
        Some(batch_axis) if batch_axis.axis > 1 && !kernel[batch_axis.axis].is(1) => {
            ctx.coupled("slides over the batch axis")
        }
        Some(_) => ctx.unsupported(),
    }
}

/// `MaxPool`, `AveragePool`, `LpPool`.
pub fn pool<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    if ctx.inputs.iter().skip(1).flatten().any(|value| !value.is_invariant()) {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    if batch_axis.axis > 1 {
        return ctx.for_all_outputs(ctx.coupled("slides over the batch axis"));
    }
    let mut result = shape[..2].to_vec();
    for (axis, length) in shape.iter().enumerate().skip(2) {
        let size = ctx.ints("kernel_shape").and_then(|sizes| sizes.get(axis - 2).copied());
        let length = match size {
            Some(size) => window_length(ctx, length, axis - 2, &Dim::number(size)),
            None => ctx.fresh_dim(),
        };
        result.push(length);
    }
    let value = ctx.per_row(batch_axis.clone(), result);
    let mut values = vec![value; ctx.node.output.len()];
    // The second output of MaxPool holds indices into the whole tensor.
    if let Some(indices) = values.get_mut(1) {
        indices.dependence =
            BatchDependence::PerRowAndPosition(batch_axis, ctx.reason("returns indices into the whole batch"));
    }
    values
}

/// The number of window positions along an axis.
fn window_length(ctx: &mut NodeContext, length: &Dim, axis: usize, size: &Dim) -> Dim {
    let get = |name: &str, index: usize, default: i64| {
        ctx.ints(name).filter(|ints| !ints.is_empty()).map_or(Some(default), |ints| ints.get(index).copied())
    };
    let spatial = ctx.ints("pads").map_or(0, |pads| pads.len() / 2);
    let (Some(stride), Some(dilation), Some(before), Some(after)) =
        (get("strides", axis, 1), get("dilations", axis, 1), get("pads", axis, 0), get("pads", axis + spatial, 0))
    else {
        return ctx.fresh_dim();
    };
    let auto = ctx.text("auto_pad").unwrap_or("NOTSET").to_owned();
    let ceil = ctx.flag("ceil_mode");
    let same = auto.starts_with("SAME");
    let computed = length.as_number().zip(size.as_number()).and_then(|(length, size)| {
        if stride < 1 || length < 0 || size < 1 {
            return None;
        }
        if same {
            return length.checked_add(stride - 1).map(|length| length / stride);
        }
        let pads = if auto == "VALID" { 0 } else { before.checked_add(after)? };
        let window = size.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let room = length.checked_add(pads)?.checked_sub(window).filter(|&room| room >= 0)?;
        // With ceil_mode the last window may or may not begin in the padding, so the length is unknown.
        (!ceil || room % stride == 0).then_some(room / stride + 1)
    });
    if let Some(length) = computed {
        return Dim::number(length);
    }
    if same && stride == 1 {
        return length.clone();
    }
    let plain = size.as_number().is_some_and(|size| {
        size.checked_sub(1).and_then(|size| size.checked_mul(dilation)) == before.checked_add(after)
    });
    if stride == 1 && plain && auto == "NOTSET" {
        return length.clone();
    }
    let mode = Dim::number(i64::from(ceil) + 2 * i64::from(same) + 4 * i64::from(auto == "VALID"));
    let numbers = [stride, dilation, before, after].map(Dim::number);
    let [stride, dilation, before, after] = &numbers;
    ctx.interpreter.symbols.computed("window", &[length, size, stride, dilation, before, after, &mode])
}

/// `GlobalAveragePool` and similar operators: each channel of each image becomes one element.
pub fn global<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape) else { return ctx.unsupported() };
    if batch_axis.axis > 1 {
        return ctx.coupled("pools over the batch axis");
    }
    let shape = shape.into_iter().enumerate().map(|(axis, dim)| if axis < 2 { dim } else { Dim::number(1) });
    ctx.per_row(batch_axis, shape.collect())
}

/// Operators that process each image of `[batch, …]` by itself. The inputs at `of_rows` hold one image per row; all others are
/// the same for all rows. The result has `axes` axes of unknown length.
pub fn per_image<'g>(ctx: &mut NodeContext<'_, 'g, '_>, of_rows: &[usize], axes: usize) -> Values<'g> {
    let rest: Vec<Dim> = (1..axes).map(|_| ctx.fresh_dim()).collect();
    let value = if only_these_hold_rows(ctx, of_rows) {
        batch_first(ctx, |batch| std::iter::once(batch).chain(rest).collect())
    } else {
        ctx.unsupported()
    };
    ctx.for_all_outputs(value)
}

/// Whether exactly these inputs depend on rows. Absent inputs are ignored.
pub fn only_these_hold_rows(ctx: &NodeContext, inputs: &[usize]) -> bool {
    let fits = |(index, value): (usize, &Option<Value>)| {
        value.as_ref().is_none_or(|value| value.is_invariant() != inputs.contains(&index))
    };
    ctx.inputs.iter().enumerate().all(fits)
}

/// The result of an operator that processes each row by itself and has the batch on the first axis of all its inputs.
pub fn batch_first<'g>(ctx: &NodeContext<'_, 'g, '_>, shape: impl FnOnce(Dim) -> Vec<Dim>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let mut input_axes = ctx.present_inputs().filter(|value| !value.is_invariant()).map(Value::batch_axis);
    let Some(batch_axis) = input_axes.next().flatten().filter(|batch_axis| batch_axis.axis == 0) else {
        return ctx.unknown("does not have the batch on the first axis of its inputs");
    };
    if input_axes.any(|other| other != Some(batch_axis)) {
        return ctx.unknown("does not have the batch on the first axis of its inputs");
    }
    match batch_axis.length() {
        Some(length) => ctx.per_row(BatchAxis { axis: 0, ..batch_axis.clone() }, shape(length)),
        None => ctx.unsupported(),
    }
}

/// `DepthToSpace` and `SpaceToDepth`.
pub fn blocks<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let size = Dim::number(ctx.int_or("blocksize", 1));
    let shape = ctx.input(0).and_then(|data| data.shape.clone()).filter(|shape| shape.len() == 4);
    let Some(shape) = shape else { return ctx.unsupported() };
    let symbols = &mut ctx.interpreter.symbols;
    let square = symbols.times(&size, &size);
    let (channels, height, width) = if ctx.node.op_type == "DepthToSpace" {
        (symbols.quotient(&shape[1], &square), symbols.times(&shape[2], &size), symbols.times(&shape[3], &size))
    } else {
        (symbols.times(&shape[1], &square), symbols.quotient(&shape[2], &size), symbols.quotient(&shape[3], &size))
    };
    batch_first(ctx, |batch| vec![batch, channels, height, width])
}
