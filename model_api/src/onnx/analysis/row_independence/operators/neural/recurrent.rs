//! Recurrent layers: `LSTM`, `GRU` and `RNN`.

use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, Value};

/// `layout` decides the axes of the sequence and of the results.
pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let batch_first = ctx.flag("layout");
    let layout_axis = usize::from(!batch_first);
    let (Some(batch_axis), Some(shape)) =
        (ctx.input(0).and_then(|data| data.batch_axis().cloned()), ctx.input(0).and_then(|data| data.shape.clone()))
    else {
        return ctx.for_all_outputs(ctx.unknown("has an input that does not hold the batch"));
    };
    if shape.len() != 3 {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    if batch_axis.axis != layout_axis {
        return ctx.for_all_outputs(ctx.coupled("scans over the batch axis"));
    }
    // Sequence lengths have one element per row; states hold the batch on the same axis as the sequences.
    let at = |input: usize| if input == 4 { 0 } else { layout_axis };
    for (input, value) in ctx.inputs.iter().enumerate().skip(1) {
        let Some(value) = value else { continue };
        let is_weight = matches!(input, 1..=3 | 7);
        let fits =
            if is_weight { value.is_invariant() } else { value.batch_axis() == Some(&batch_axis.moved_to(at(input))) };
        if !fits {
            return ctx.for_all_outputs(ctx.unknown("has a state or a length that does not hold the batch"));
        }
    }
    let directions = Dim::number(if ctx.text("direction") == Some("bidirectional") { 2 } else { 1 });
    let hidden = match ctx.int("hidden_size") {
        Some(size) => Dim::number(size),
        None => ctx.fresh_dim(),
    };
    let (steps, batch) = (shape[1 - layout_axis].clone(), shape[layout_axis].clone());
    let (all, all_at) = if batch_first {
        (vec![batch.clone(), steps, directions.clone(), hidden.clone()], 0)
    } else {
        (vec![steps, directions.clone(), batch.clone(), hidden.clone()], 2)
    };
    let (last, last_at) =
        if batch_first { (vec![batch, directions, hidden], 0) } else { (vec![directions, batch, hidden], 1) };
    let result = |shape: &[Dim], axis: usize| {
        let batch_axis = BatchAxis { axis, ..batch_axis.clone() };
        ctx.per_row(batch_axis, shape.to_vec())
    };
    vec![result(&all, all_at), result(&last, last_at), result(&last, last_at)]
}
