//! Shape operators: those that read axis lengths, and those that create or change axes of given lengths.

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, MAX_ELEMENTS, Value};

/// `Shape`: the lengths do not depend on the elements.
pub fn shape<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0) else { return ctx.unknown("has no input") };
    let Some(dims) = &data.shape else { return length_of_unknown(ctx, data) };
    let rank = i64::try_from(dims.len()).unwrap_or(0);
    let position =
        |index: i64| usize::try_from(if index < 0 { index + rank } else { index }.clamp(0, rank)).unwrap_or(0);
    let start = position(ctx.int_or("start", 0).clamp(-rank, rank));
    let end = position(ctx.int_or("end", rank).clamp(-rank, rank)).max(start);
    let lengths = dims[start..end].to_vec();
    let count = Dim::number(i64::try_from(lengths.len()).unwrap_or(0));
    Value::of_elements(vec![count], lengths, &ctx.interpreter.symbols, || ctx.reason("returns the number of rows"))
}

/// An unknown shape may depend on whatever the elements depend on.
fn length_of_unknown<'g>(ctx: &NodeContext<'_, 'g, '_>, data: &Value<'g>) -> Value<'g> {
    match &data.dependence {
        BatchDependence::Invariant | BatchDependence::BatchSize(_) | BatchDependence::Coupled(_) => {
            Value::new(data.dependence.clone(), None)
        }
        _ => ctx.unknown("returns lengths that were not traced"),
    }
}

/// `Size`.
pub fn size<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let Some(dims) = &data.shape else { return length_of_unknown(ctx, &data) };
    let size = ctx.interpreter.symbols.product(dims);
    Value::of_elements(Vec::new(), vec![size], &ctx.interpreter.symbols, || ctx.reason("returns the number of rows"))
}

/// `ConstantOfShape`: the same for every row.
pub fn constant<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let dims =
        ctx.inputs.first().cloned().flatten().and_then(|dims| dims.elements_or_fresh(&mut ctx.interpreter.symbols));
    let Some(dims) = dims else { return ctx.unsupported() };
    let value = repeated(ctx, &[], &dims);
    let tensor = ctx.attribute("value").and_then(|attribute| attribute.t.as_ref());
    let fill = tensor.map_or(Some(0), |tensor| Value::constant(tensor).number());
    let count = Dim::product(&dims).and_then(|count| usize::try_from(count.as_number()?).ok());
    let elements =
        fill.zip(count.filter(|&count| count <= MAX_ELEMENTS)).map(|(fill, count)| vec![Dim::number(fill); count]);
    Value { elements, ..value }
}

/// A tensor of this shape, the same for every row, repeated along the axes that are longer in the target.
fn repeated<'g>(ctx: &NodeContext<'_, 'g, '_>, shape: &[Dim], target: &[Dim]) -> Value<'g> {
    let counts = |dim: &Dim| ctx.interpreter.symbols.depends_on_batch_size(dim);
    let mut counted = (0..target.len()).filter(|&axis| counts(&target[axis]));
    let dependence = match (counted.next(), counted.next()) {
        (None, _) => BatchDependence::Invariant,
        (Some(axis), None) => {
            let at = (axis + shape.len()).checked_sub(target.len());
            let is_one = at.is_none_or(|axis| shape[axis].is(1));
            // All elements of the axis are equal, so every assignment to rows is correct.
            match target[axis].over(&Dim::batch()).filter(|_| is_one) {
                Some(inner) => BatchDependence::PerRow(BatchAxis { axis, outer: Dim::number(1), inner }),
                None => return ctx.unknown("creates an axis whose length was not traced"),
            }
        }
        _ => return ctx.unknown("creates several axes with the length of the batch"),
    };
    Value::new(dependence, Some(target.to_vec()))
}

/// `Range`.
pub fn range<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence().filter(|dependence| *dependence != BatchDependence::Invariant) {
        return Value::new(dependence, None);
    }
    let only = |index: usize| ctx.input(index)?.elements.as_ref()?.first().cloned();
    let (Some(start), Some(limit), Some(step)) = (only(0), only(1), only(2)) else { return ctx.unsupported() };
    if !start.is(0) || !step.is(1) {
        let length = ctx.interpreter.symbols.computed("range", &[&start, &limit, &step]);
        let counts = ctx.interpreter.symbols.depends_on_batch_size(&length);
        return if counts { ctx.unsupported() } else { Value::new(BatchDependence::Invariant, Some(vec![length])) };
    }
    let counts = ctx.interpreter.symbols.depends_on_batch_size(&limit);
    let dependence = match limit == Dim::batch() {
        true => BatchDependence::PerRowAndPosition(BatchAxis::on(0), ctx.reason("numbers the rows of the batch")),
        false if counts => BatchDependence::BatchSize(ctx.reason("counts up to the number of rows")),
        false => BatchDependence::Invariant,
    };
    Value::new(dependence, Some(vec![limit]))
}

/// `Expand`.
pub fn expand<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let target =
        ctx.inputs.get(1).cloned().flatten().and_then(|dims| dims.elements_or_fresh(&mut ctx.interpreter.symbols));
    let (Some(shape), Some(target)) = (&data.shape, target) else { return ctx.unsupported() };
    let both = [
        Value::new(BatchDependence::Invariant, Some(shape.clone())),
        Value::new(BatchDependence::Invariant, Some(target.clone())),
    ];
    let Some(full) = crate::onnx::analysis::row_independence::operators::elementwise::broadcast_shape(
        &mut ctx.interpreter.symbols,
        &both,
    ) else {
        return ctx.unsupported();
    };
    match &data.dependence {
        BatchDependence::Invariant => repeated(ctx, shape, &full),
        BatchDependence::PerRow(batch_axis) | BatchDependence::PerRowAndPosition(batch_axis, _) => {
            let batch_axis = batch_axis.moved_to(batch_axis.axis + full.len() - shape.len());
            let numbered = match &data.dependence {
                BatchDependence::PerRowAndPosition(_, reason) => {
                    BatchDependence::PerRowAndPosition(batch_axis.clone(), reason.clone())
                }
                _ => BatchDependence::PerRow(batch_axis.clone()),
            };
            let at = (batch_axis.axis + target.len()).checked_sub(full.len()).map(|axis| &target[axis]);
            match at {
                Some(dim) if !dim.is(1) && Some(dim) != batch_axis.length().as_ref() => {
                    ctx.unknown("creates an axis whose length was not traced")
                }
                _ => Value::new(numbered, Some(full)),
            }
        }
        dependence => Value::new(dependence.clone(), Some(full)),
    }
}

/// `Tile`.
pub fn tile<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let repeats =
        ctx.inputs.get(1).cloned().flatten().and_then(|value| value.elements_or_fresh(&mut ctx.interpreter.symbols));
    let (Some(shape), Some(repeats)) = (&data.shape, repeats) else { return ctx.unsupported() };
    if shape.len() != repeats.len() {
        return ctx.unsupported();
    }
    let symbols = &mut ctx.interpreter.symbols;
    let full: Vec<Dim> = shape.iter().zip(&repeats).map(|(dim, times)| symbols.times(dim, times)).collect();
    match &data.dependence {
        BatchDependence::Invariant => {
            let mut counted =
                (0..full.len()).filter(|&axis| ctx.interpreter.symbols.depends_on_batch_size(&repeats[axis]));
            let dependence = match (counted.next(), counted.next()) {
                (None, _) => BatchDependence::Invariant,
                (Some(axis), None) => match full[axis].over(&Dim::batch()) {
                    Some(inner) => BatchDependence::PerRow(BatchAxis { axis, outer: Dim::number(1), inner }),
                    None => return ctx.unsupported(),
                },
                _ => return ctx.unsupported(),
            };
            Value::new(dependence, Some(full))
        }
        BatchDependence::PerRow(batch_axis) | BatchDependence::PerRowAndPosition(batch_axis, _) => {
            match batch_axis.outer.times(&repeats[batch_axis.axis]) {
                Some(outer) => {
                    let numbered = data.dependence.clone();
                    let batch_axis = BatchAxis { outer, ..batch_axis.clone() };
                    let dependence = match numbered {
                        BatchDependence::PerRowAndPosition(_, reason) => {
                            BatchDependence::PerRowAndPosition(batch_axis, reason)
                        }
                        _ => BatchDependence::PerRow(batch_axis),
                    };
                    Value::new(dependence, Some(full))
                }
                None => ctx.unsupported(),
            }
        }
        dependence => Value::new(dependence.clone(), Some(full)),
    }
}

/// `Pad`.
pub fn pad<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let by_attribute = ctx.ints("pads").map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let pads = by_attribute.or_else(|| ctx.inputs.get(1)?.clone()?.elements_or_fresh(&mut ctx.interpreter.symbols));
    let axes = ctx.input(3).map(Value::numbers);
    let (Some(old), Some(pads)) = (&data.shape, pads) else { return forced_or_unknown(ctx) };
    let axes = match axes {
        Some(axes) => {
            axes.map(|axes| axes.iter().filter_map(|&axis| NodeContext::resolve_axis(axis, old.len())).collect())
        }
        None => Some((0..old.len()).collect::<Vec<_>>()),
    };
    let Some(axes) = axes.filter(|axes| axes.len() * 2 == pads.len()) else { return forced_or_unknown(ctx) };
    let mut shape = old.clone();
    for (index, &axis) in axes.iter().enumerate() {
        let symbols = &mut ctx.interpreter.symbols;
        let both = symbols.sum(&pads[index], &pads[index + axes.len()]);
        shape[axis] = symbols.sum(&shape[axis], &both);
    }
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(
            dependence.clone(),
            Some(shape).filter(|_| dependence == BatchDependence::Invariant || dependence == data.dependence),
        );
    }
    let Some(batch_axis) = data.batch_axis().cloned() else { return ctx.unsupported() };
    let batch = axes.iter().position(|&axis| axis == batch_axis.axis);
    if batch.is_some_and(|at| !pads[at].is(0) || !pads[at + axes.len()].is(0)) {
        return ctx.unknown("pads the batch axis");
    }
    Value::new(data.dependence, Some(shape))
}

fn forced_or_unknown<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    match ctx.forced_dependence() {
        Some(dependence) => Value::new(dependence, None),
        None => ctx.unknown("has unknown lengths"),
    }
}

/// `Resize` and `Upsample`.
pub fn resize<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let (Some(batch_axis), Some(old)) = (data.batch_axis().cloned(), data.shape.clone()) else {
        return ctx.unsupported();
    };
    if ctx.inputs.iter().skip(1).flatten().any(|value| value.batch_axis().is_some()) {
        return ctx.unknown("has sizes that depend on rows");
    }
    let axes: Vec<usize> = match ctx.ints("axes") {
        Some(axes) => axes.iter().filter_map(|&axis| NodeContext::resolve_axis(axis, old.len())).collect(),
        None => (0..old.len()).collect(),
    };
    let at = axes.iter().position(|&axis| axis == batch_axis.axis);
    let (scales, sizes) = factors(ctx);
    let sizes = sizes.filter(|sizes| sizes.len() == axes.len());
    let keeps_batch = match (at, &scales, &sizes) {
        (None, ..) => true,
        (Some(at), Some(scales), _) if scales.len() == axes.len() => (scales[at] - 1.0).abs() < f32::EPSILON,
        (Some(at), _, Some(sizes)) => sizes[at] == old[batch_axis.axis],
        _ => false,
    };
    if !keeps_batch {
        return ctx.unknown("may resize the batch axis");
    }
    let mut shape = old.clone();
    for (at, &axis) in axes.iter().enumerate().filter(|&(_, &axis)| axis != batch_axis.axis) {
        shape[axis] = match (&sizes, scales.as_ref().and_then(|scales| scales.get(at))) {
            (Some(sizes), _) => sizes[at].clone(),
            (None, Some(&scale)) => scaled(ctx, &old[axis], scale),
            (None, None) => ctx.fresh_dim(),
        };
    }
    Value::new(data.dependence, Some(shape))
}

#[allow(clippy::cast_possible_truncation, reason = "only whole factors are traced")]
fn scaled(ctx: &mut NodeContext, dim: &Dim, scale: f32) -> Dim {
    let whole = (scale.fract() == 0.0 && (1.0..1024.0).contains(&scale)).then_some(scale as i64);
    match whole.and_then(|scale| dim.times(&Dim::number(scale))) {
        Some(dim) => dim,
        None => ctx.fresh_dim(),
    }
}

/// Constant scales, and sizes. Their input indices depend on the operator set.
fn factors(ctx: &mut NodeContext) -> (Option<Vec<f32>>, Option<Vec<Dim>>) {
    if let Some(scales) = ctx.attribute("scales") {
        return (Some(scales.floats.clone()), None);
    }
    let is_first = ctx.node.op_type == "Upsample" || ctx.version() < 11;
    let scales = ctx.input(if is_first { 1 } else { 2 }).and_then(|value| value.constant).and_then(floats);
    let sizes =
        ctx.inputs.get(3).cloned().flatten().and_then(|sizes| sizes.elements_or_fresh(&mut ctx.interpreter.symbols));
    (scales.filter(|scales| !scales.is_empty()), sizes)
}

fn floats(tensor: &crate::onnx::proto::Tensor) -> Option<Vec<f32>> {
    let raw = &tensor.raw_data[..];
    if tensor.data_type != 1 || raw.len() > 4 * MAX_ELEMENTS {
        return None;
    }
    if raw.is_empty() {
        return Some(tensor.float_data.iter().copied().take(MAX_ELEMENTS).collect());
    }
    Some(raw.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// `EyeLike`, `RandomNormalLike` and other operators that only use the shape.
pub fn like<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = match ctx.input(0) {
        Some(data) if data.is_invariant() => Value::new(BatchDependence::Invariant, data.shape.clone()),
        Some(data) if ctx.node.op_type != "EyeLike" => Value::new(data.dependence.clone(), data.shape.clone()),
        _ => ctx.unsupported(),
    };
    ctx.for_all_outputs(value)
}
