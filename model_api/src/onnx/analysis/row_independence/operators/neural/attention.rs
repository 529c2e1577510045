//! `Attention` and `RotaryEmbedding` of ONNX: each row attends only to itself.

use super::window::{batch_first, only_these_hold_rows};
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, Value};

/// `Attention` on `[batch, length, heads × size]` or `[batch, heads, length, size]`. The result has the shape of the
/// queries.
pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    const MASK: usize = 3;
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let mask_fits = ctx.input(MASK).is_none_or(|mask| match (&mask.shape, mask.batch_axis()) {
        // The mask is broadcast to four axes, the first of which is the batch.
        (Some(shape), Some(batch_axis)) => shape.len() == 4 && *batch_axis == BatchAxis::on(0),
        (Some(shape), None) => mask.is_invariant() && (shape.len() < 4 || shape[0].is(1)),
        (None, _) => false,
    });
    let is_first = |value: &Value| value.batch_axis().is_none_or(|batch_axis| *batch_axis == BatchAxis::on(0));
    let of_rows: &[usize] = if ctx.input(MASK).is_some_and(|mask| !mask.is_invariant()) {
        &[0, 1, 2, 3, 4, 5, 6]
    } else {
        &[0, 1, 2, 4, 5, 6]
    };
    if !mask_fits || !only_these_hold_rows(ctx, of_rows) || !ctx.present_inputs().all(is_first) {
        return ctx.for_all_outputs(ctx.unknown("has an input that does not hold the batch first"));
    }
    let query = ctx.input(0).and_then(|query| query.shape.clone());
    let (Some(query), Some(values)) = (query, ctx.input(2).and_then(|values| values.shape.clone())) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let rest = match (&query[..], &values[..]) {
        ([_, length, _], [_, _, width]) => {
            let heads = [ctx.int_or("q_num_heads", 1), ctx.int_or("kv_num_heads", 1)].map(Dim::number);
            let symbols = &mut ctx.interpreter.symbols;
            let width = symbols.times(width, &heads[0]);
            vec![length.clone(), symbols.quotient(&width, &heads[1])]
        }
        ([_, heads, length, _], [_, _, _, size]) => vec![heads.clone(), length.clone(), size.clone()],
        _ => return ctx.for_all_outputs(ctx.unsupported()),
    };
    let result = batch_first(ctx, |batch| std::iter::once(batch).chain(rest).collect());
    let others: Vec<Dim> = (0..3).map(|_| ctx.fresh_dim()).collect();
    let other = batch_first(ctx, |batch| std::iter::once(batch).chain(others).collect());
    let mut results = ctx.for_all_outputs(other);
    if let Some(first) = results.first_mut() {
        *first = result;
    }
    results
}

/// `RotaryEmbedding` with position ids per row.
pub fn rotary<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    let shape = ctx.input(0).and_then(|data| data.shape.clone());
    match shape {
        Some(shape)
            if ctx.forced_dependence().is_none() && ctx.input(3).is_some() && only_these_hold_rows(ctx, &[0, 3]) =>
        {
            batch_first(ctx, |batch| std::iter::once(batch).chain(shape.into_iter().skip(1)).collect())
        }
        _ => ctx.unsupported(),
    }
}
