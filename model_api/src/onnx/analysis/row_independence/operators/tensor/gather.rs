//! Indexing operators: slices, gathers and scatters.

use crate::onnx::analysis::row_independence::elements;
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::{Dim, SymbolTable};
use crate::onnx::analysis::row_independence::value::{BatchAxis, BatchDependence, Value};

/// Smallest slice end that stands for the end of the axis. Exporters write a large number there for an axis of open length;
/// no batch has as many rows.
const NO_END: i64 = 100_000_000;

/// The start, end and step of a slice along one axis.
struct SliceRange {
    start: Dim,
    end: Dim,
    step: i64,
}

impl SliceRange {
    /// Whether the whole axis is taken.
    fn is_all(&self, length: &Dim) -> bool {
        let to_the_end = self.end.as_number().is_some_and(|end| end >= NO_END) || self.end == *length;
        self.step == 1 && self.start.is(0) && to_the_end
    }

    fn length(&self, of: &Dim, symbols: &mut SymbolTable) -> Dim {
        if self.is_all(of) {
            return of.clone();
        }
        if let (Some(start), Some(end), Some(of)) = (self.start.as_number(), self.end.as_number(), of.as_number()) {
            return Dim::number(slice_length(start, end, self.step, of));
        }
        // An end beyond the axis is clamped to its length.
        if self.step == 1 && self.start.is(0) && self.end.as_number().is_none() && of.as_number().is_some() {
            return symbols.shorter(of, &self.end);
        }
        symbols.computed("slice", &[of, &self.start, &self.end, &Dim::number(self.step)])
    }
}

fn slice_length(start: i64, end: i64, step: i64, of: i64) -> i64 {
    let from_end = |index: i64| if index < 0 { index.saturating_add(of) } else { index };
    let (start, end) = (from_end(start), from_end(end));
    let span =
        if step > 0 { end.clamp(0, of) - start.clamp(0, of) } else { start.clamp(-1, of - 1) - end.clamp(-1, of - 1) };
    let step = step.saturating_abs().max(1);
    if span <= 0 { 0 } else { span / step + i64::from(span % step != 0) }
}

/// `Slice`.
pub fn slice<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let Some(ranges) = ranges(ctx, data.rank()) else { return not_sliced(ctx) };
    if let Some(value) = sliced_elements(ctx, &data, &ranges) {
        return value;
    }
    let shape = data.shape.as_ref().map(|old| {
        let mut shape = old.clone();
        for (axis, range) in &ranges {
            shape[*axis] = range.length(&old[*axis], &mut ctx.interpreter.symbols);
        }
        shape
    });
    match ctx.forced_dependence() {
        Some(BatchDependence::Permuted(_)) => return ctx.unknown("slices rows that were permuted"),
        // If the start or end depends on rows, so does the length.
        Some(dependence) => {
            return Value::new(
                dependence.clone(),
                shape.filter(|_| dependence == BatchDependence::Invariant || data.dependence == dependence),
            );
        }
        None => {}
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), shape) else { return ctx.unsupported() };
    let batch = ranges.iter().find(|(axis, _)| *axis == batch_axis.axis);
    if batch.is_some_and(|(axis, range)| data.shape.as_ref().is_none_or(|old| !range.is_all(&old[*axis]))) {
        return ctx.permuted("selects a part of the batch axis");
    }
    let counts = |dim: &Dim| ctx.interpreter.symbols.depends_on_batch_size(dim);
    let others = ranges.iter().filter(|(axis, _)| *axis != batch_axis.axis);
    if others.into_iter().any(|(_, range)| counts(&range.start) || counts(&range.end)) {
        return ctx.per_row(batch_axis, shape);
    }
    Value::new(data.dependence, Some(shape))
}

fn not_sliced<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    match ctx.forced_dependence() {
        Some(BatchDependence::Permuted(_)) => ctx.unknown("slices rows that were permuted"),
        Some(dependence) => Value::new(dependence, None),
        None => ctx.unknown("slices at unknown indices"),
    }
}

/// The axes and their slice ranges, if axes and steps are known.
fn ranges(ctx: &mut NodeContext, rank: Option<usize>) -> Option<Vec<(usize, SliceRange)>> {
    let of_attribute =
        |name: &str| ctx.ints(name).map(|ints| ints.iter().copied().map(Dim::number).collect::<Vec<_>>());
    let attributes = of_attribute("starts").zip(of_attribute("ends"));
    let (starts, ends) = if let Some(attributes) = attributes {
        attributes
    } else {
        let symbols = &mut ctx.interpreter.symbols;
        let starts = ctx.inputs.get(1)?.as_ref()?.elements_or_fresh(symbols)?;
        (starts, ctx.inputs.get(2)?.as_ref()?.elements_or_fresh(symbols)?)
    };
    let axes = ctx.ints_from_attribute_or_input("axes", 3)?;
    let axes = axes.unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = match ctx.input(4) {
        Some(steps) => steps.numbers()?,
        None => vec![1; starts.len()],
    };
    if starts.len() != ends.len() || starts.len() != axes.len() || starts.len() != steps.len() {
        return None;
    }
    let ranges = starts.into_iter().zip(ends).zip(axes).zip(steps);
    ranges
        .map(|(((start, end), axis), step)| {
            Some((NodeContext::resolve_axis(axis, rank?)?, SliceRange { start, end, step }))
        })
        .collect()
}

/// A slice of a tensor whose elements are tracked.
fn sliced_elements<'g>(
    ctx: &NodeContext<'_, 'g, '_>,
    data: &Value<'g>,
    ranges: &[(usize, SliceRange)],
) -> Option<Value<'g>> {
    let mut value = data.clone();
    for (axis, range) in ranges {
        let positions = positions(range, value.shape.as_ref()?.get(*axis)?.as_number()?)?;
        value.elements = Some(elements::gathered(&value, *axis, &positions)?);
        value.shape.as_mut()?[*axis] = Dim::number(i64::try_from(positions.len()).ok()?);
    }
    let reason = || ctx.reason("returns lengths with the number of rows");
    Some(Value::of_elements(value.shape?, value.elements?, &ctx.interpreter.symbols, reason))
}

/// The positions of an axis that a slice selects.
fn positions(range: &SliceRange, length: i64) -> Option<Vec<usize>> {
    let start = range.start.as_number()?;
    let start = if start < 0 { start.saturating_add(length) } else { start };
    let start = if range.step > 0 { start.clamp(0, length) } else { start.clamp(-1, length - 1) };
    let count = slice_length(range.start.as_number()?, range.end.as_number()?, range.step, length);
    (0..count).map(|index| usize::try_from(start + index * range.step).ok()).collect()
}

/// `Gather`.
pub fn gather<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let (Some(data), Some(indices)) = (ctx.input(0).cloned(), ctx.input(1).cloned()) else {
        return ctx.unknown("has no inputs");
    };
    if let Some(value) = element(ctx, &data, &indices) {
        return value;
    }
    let axis = data.rank().and_then(|rank| NodeContext::resolve_axis(ctx.int_or("axis", 0), rank));
    let shape = axis
        .zip(data.shape.as_ref())
        .zip(indices.shape.as_ref())
        .map(|((axis, data), indices)| [&data[..axis], indices, &data[axis + 1..]].concat());
    if let Some(dependence) = indexed(ctx) {
        return dependence.map_or_else(|words| ctx.unknown(words), |dependence| Value::new(dependence, shape));
    }
    let (Some(axis), Some(shape), Some(rank)) = (axis, shape, indices.rank()) else {
        return ctx.unknown("has indices or data of unknown shape");
    };
    let batch_axis = match (data.batch_axis(), indices.batch_axis()) {
        (Some(batch_axis), None) if batch_axis.axis == axis => {
            return match indices.dependence {
                BatchDependence::Invariant => ctx.permuted("selects rows by index"),
                _ => ctx.unknown("selects rows by index"),
            };
        }
        (Some(batch_axis), None) if batch_axis.axis < axis => batch_axis.clone(),
        (Some(batch_axis), None) => batch_axis.moved_to(batch_axis.axis - 1 + rank),
        (None, Some(batch_axis)) => batch_axis.moved_to(batch_axis.axis + axis),
        _ => return ctx.unknown("selects rows by indices that depend on rows"),
    };
    ctx.per_row(batch_axis, shape)
}

/// Elements of a vector of lengths.
fn element<'g>(ctx: &NodeContext<'_, 'g, '_>, data: &Value<'g>, indices: &Value<'g>) -> Option<Value<'g>> {
    let elements = data.elements.as_ref().filter(|_| data.rank() == Some(1))?;
    let at = |index: i64| elements.get(NodeContext::resolve_axis(index, elements.len())?).cloned();
    let chosen = indices.numbers()?.into_iter().map(at).collect::<Option<Vec<_>>>()?;
    let reason = ctx.reason("returns the number of rows");
    Some(Value::of_elements(indices.shape.clone()?, chosen, &ctx.interpreter.symbols, || reason))
}

/// The dependence of an indexing operator if it is the same for all of them. An error if it may undo an earlier permutation or
/// selection.
fn indexed(ctx: &NodeContext) -> Option<Result<BatchDependence, &'static str>> {
    let dependence = ctx.forced_dependence()?;
    let undone =
        |value: &Value| matches!(value.dependence, BatchDependence::Permuted(_) | BatchDependence::Selected(_));
    let by_number = |value: &Value| {
        matches!(value.dependence, BatchDependence::PerRowAndPosition(..) | BatchDependence::BatchSize(_))
    };
    let data_is_undone = ctx.input(0).is_some_and(undone);
    Some(match dependence {
        BatchDependence::Permuted(_) | BatchDependence::Selected(_)
            if data_is_undone || ctx.present_inputs().any(by_number) =>
        {
            Err("may restore the order of rows")
        }
        dependence => Ok(dependence),
    })
}

/// `GatherElements`, and `ScatterElements` whose updates are a third tensor of the same rank.
pub fn by_elements<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let inputs: Vec<Value> = ctx.present_inputs().cloned().collect();
    // A gather has the shape of the indices, a scatter the shape of the data.
    let shaped = if inputs.len() == 2 { inputs.get(1) } else { inputs.first() };
    let shape = shaped.and_then(|value| value.shape.clone());
    if let Some(dependence) = ctx.forced_dependence() {
        return match dependence {
            BatchDependence::Permuted(_) | BatchDependence::Selected(_) => ctx.unknown("may restore the order of rows"),
            dependence => Value::new(dependence, shape),
        };
    }
    let (Some(batch_axis), Some(shape)) = (inputs.first().and_then(Value::batch_axis).cloned(), shape) else {
        return ctx.unsupported();
    };
    if inputs.iter().any(|value| value.batch_axis() != Some(&batch_axis)) {
        return ctx.unknown("has inputs with different batch axes");
    }
    match NodeContext::resolve_axis(ctx.int_or("axis", 0), shape.len()) {
        Some(axis) if axis == batch_axis.axis => ctx.unknown("selects rows by index"),
        Some(_) => ctx.per_row(batch_axis, shape),
        None => ctx.unknown("has an unknown axis"),
    }
}

/// `GatherND`.
pub fn nd<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let (Some(data), Some(indices)) = (ctx.input(0).cloned(), ctx.input(1).cloned()) else {
        return ctx.unknown("has no inputs");
    };
    if let Some(dependence) = indexed(ctx) {
        return dependence.map_or_else(|words| ctx.unknown(words), |dependence| Value::new(dependence, None));
    }
    let (Some(data_shape), Some(index_shape)) = (&data.shape, &indices.shape) else { return ctx.unsupported() };
    let batch_axes = usize::try_from(ctx.int_or("batch_dims", 0)).unwrap_or(0);
    let Some((depth, index_axes)) = index_shape.split_last() else { return ctx.unsupported() };
    let depth = depth.as_number().and_then(|depth| usize::try_from(depth).ok());
    let rest = depth.and_then(|depth| data_shape.get(depth.checked_add(batch_axes)?..));
    let Some(rest) = rest else { return ctx.unsupported() };
    let shape = [index_axes, rest].concat();
    let in_both =
        indices.batch_axis().filter(|batch_axis| batch_axis.axis < batch_axes && data.batch_axis() == Some(batch_axis));
    let in_indices = indices
        .batch_axis()
        .filter(|batch_axis| batch_axis.axis < index_axes.len() && data.is_invariant() && batch_axes == 0);
    match in_both.or(in_indices).cloned() {
        Some(axis) => ctx.per_row(axis, shape),
        None => ctx.unsupported(),
    }
}

/// `OneHot`, which adds an axis.
pub fn one_hot<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(indices) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    let depth = ctx.input(1).and_then(|depth| depth.elements.as_ref()?.first().cloned());
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let (Some(batch_axis), Some(mut shape)) = (indices.batch_axis().cloned(), indices.shape) else {
        return ctx.unsupported();
    };
    if ctx.inputs.iter().skip(1).flatten().any(|value| !value.is_invariant()) {
        return ctx.unsupported();
    }
    let Some(axis) = NodeContext::resolve_axis(ctx.int_or("axis", -1), shape.len() + 1) else {
        return ctx.unsupported();
    };
    let depth = depth.unwrap_or_else(|| ctx.fresh_dim());
    shape.insert(axis, depth);
    ctx.per_row(batch_axis.moved_to(batch_axis.axis + usize::from(axis <= batch_axis.axis)), shape)
}

/// `ReverseSequence`.
pub fn reverse<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0).cloned() else { return ctx.unknown("has no input") };
    if let Some(dependence) = ctx.forced_dependence() {
        return match dependence {
            BatchDependence::Permuted(_) => ctx.unknown("may restore the order of rows"),
            dependence => Value::new(dependence, data.shape),
        };
    }
    let (Some(batch_axis), Some(shape)) = (data.batch_axis().cloned(), data.shape) else { return ctx.unsupported() };
    let batch = NodeContext::resolve_axis(ctx.int_or("batch_axis", 1), shape.len());
    let time = NodeContext::resolve_axis(ctx.int_or("time_axis", 0), shape.len());
    let lengths_fit = ctx.input(1).is_some_and(|lengths| lengths.batch_axis() == Some(&BatchAxis::on(0)));
    match batch_axis.axis {
        axis if Some(axis) == batch && batch_axis.is_unmerged() && lengths_fit => ctx.per_row(batch_axis, shape),
        axis if Some(axis) == time => ctx.permuted("reverses the batch axis"),
        _ => ctx.unsupported(),
    }
}

/// `Compress`: rows stay independent along another axis if the condition is the same for all rows.
pub fn compress<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let condition_is_free = ctx.input(1).is_some_and(Value::is_invariant);
    let data = ctx.input(0).cloned();
    let batch_axis = data.as_ref().and_then(|data| Some((data.batch_axis()?.clone(), data.shape.clone()?)));
    let Some((batch_axis, mut shape)) = batch_axis else { return ctx.selected(WHOLE_BATCH) };
    match ctx.int("axis").and_then(|axis| NodeContext::resolve_axis(axis, shape.len())) {
        Some(axis) if condition_is_free && axis != batch_axis.axis => {
            shape[axis] = ctx.fresh_dim();
            ctx.per_row(batch_axis, shape)
        }
        _ => ctx.selected(WHOLE_BATCH),
    }
}

const WHOLE_BATCH: &str = "returns a number of elements that depends on the whole batch";

/// `NonZero`, `Unique` and other operators whose output length depends on the elements.
pub fn picked<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = match ctx.forced_dependence() {
        Some(dependence) => Value::new(dependence, None),
        None => ctx.selected(WHOLE_BATCH),
    };
    ctx.for_all_outputs(value)
}
