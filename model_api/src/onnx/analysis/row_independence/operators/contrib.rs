//! Contrib operators of ONNX Runtime (`com.microsoft`), which exporters and optimisers create by fusion.

use super::neural::normalization;
use super::neural::window::{self, batch_first};
use super::{elementwise, matmul, reduce};
use crate::onnx::analysis::row_independence::node_context::{NodeContext, Values};
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::{BatchAxis, Value};

pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    match ctx.node.op_type.as_str() {
        "FastGelu" | "Gelu" | "BiasGelu" | "QuickGelu" | "BiasAdd" => elementwise::evaluate(ctx),
        "FusedMatMul" => matmul::fused(ctx),
        "FusedGemm" => matmul::gemm(ctx),
        "MatMulNBits" | "MatMulFpQ4" | "MatMulBnb4" => by_packed_weights(ctx),
        "MatMulIntegerToFloat" => matmul::matmul(ctx, 0, 1),
        "QLinearMatMul" | "QGemm" => matmul::matmul(ctx, 0, 3),
        "FusedConv" => window::convolution(ctx, 0, 1),
        "QLinearAdd" | "QLinearMul" => scaled(ctx, &[0, 3]),
        "QLinearSigmoid" | "QLinearLeakyRelu" => scaled(ctx, &[0]),
        "QLinearSoftmax" => qlinear_softmax(ctx),
        "QLinearGlobalAveragePool" => {
            let value = matmul::parameters(ctx, &[0]).unwrap_or_else(|| window::global(ctx));
            ctx.for_all_outputs(value)
        }
        "QuantizeLinear" | "DequantizeLinear" => {
            let value = normalization::quantize(ctx);
            ctx.for_all_outputs(value)
        }
        "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" => {
            let value = match ctx.forced_dependence() {
                Some(dependence) => Value::new(dependence, None),
                None => ctx.coupled("takes its scale from the range of the whole batch"),
            };
            ctx.for_all_outputs(value)
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip_layer(ctx),
        "SimplifiedLayerNormalization" | "LayerNormalization" => normalization::layer(ctx),
        "EmbedLayerNormalization" => embed_layer(ctx),
        "Attention" | "QAttention" | "MultiHeadAttention" | "GroupQueryAttention" => attention(ctx),
        "RotaryEmbedding" => rotary(ctx),
        _ => ctx.for_all_outputs(ctx.unsupported()),
    }
}

/// Matrix products with packed weights: attributes give the shape of the result.
fn by_packed_weights<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = matmul::parameters(ctx, &[0]) {
        return ctx.for_all_outputs(value);
    }
    let Some(data) = ctx.input(0).cloned() else { return ctx.for_all_outputs(ctx.unknown("has no input")) };
    let (Some(batch_axis), Some(mut shape)) = (data.batch_axis().cloned(), data.shape) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let columns = match ctx.int("N") {
        Some(columns) => Dim::number(columns),
        None => ctx.fresh_dim(),
    };
    if batch_axis.axis + 1 == shape.len() {
        return ctx.for_all_outputs(ctx.coupled("sums over the batch axis"));
    }
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let value = ctx.per_row(batch_axis, shape);
    ctx.for_all_outputs(value)
}

/// Quantized elementwise operators with constant scales.
fn scaled<'g>(ctx: &mut NodeContext<'_, 'g, '_>, data: &[usize]) -> Values<'g> {
    if let Some(value) = matmul::parameters(ctx, data) {
        return ctx.for_all_outputs(value);
    }
    let inputs: Vec<Value> = data.iter().filter_map(|&index| ctx.input(index).cloned()).collect();
    let value = elementwise::broadcast(ctx, &inputs);
    ctx.for_all_outputs(value)
}

fn qlinear_softmax<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = matmul::parameters(ctx, &[0]).unwrap_or_else(|| {
        let axis = ctx.int_or("axis", -1);
        let is_last = ctx
            .input(0)
            .and_then(Value::rank)
            .is_some_and(|rank| NodeContext::resolve_axis(axis, rank) == rank.checked_sub(1));
        // Old operator sets normalise over several axes. The last axis means the same in all of them.
        if is_last { reduce::along(ctx, Some(axis), "normalises along") } else { ctx.unsupported() }
    });
    ctx.for_all_outputs(value)
}

/// A residual connection and layer normalization. The fourth output is the sum before normalization.
fn skip_layer<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let inputs: Vec<Value> = [0, 1].into_iter().filter_map(|index| ctx.input(index).cloned()).collect();
    if ctx.inputs.iter().skip(2).flatten().any(|value| !value.is_invariant()) {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    let sum = elementwise::broadcast(ctx, &inputs);
    match sum.batch_axis() {
        Some(batch_axis) if Some(batch_axis.axis + 1) == sum.rank() => {
            ctx.for_all_outputs(ctx.coupled("normalises over the batch axis"))
        }
        Some(_) => {
            let statistic = ctx.unknown("returns a statistic that is not traced");
            vec![sum.clone(), statistic.clone(), statistic, sum]
        }
        None => ctx.for_all_outputs(sum),
    }
}

/// Token embeddings, and the number of unmasked tokens of each row.
fn embed_layer<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let sequence = ctx.input(0).and_then(|tokens| tokens.shape.as_ref()?.get(1).cloned());
    let hidden = ctx.input(2).and_then(|table| table.shape.as_ref()?.get(1).cloned());
    let (Some(sequence), Some(hidden)) = (sequence, hidden) else { return ctx.for_all_outputs(ctx.unsupported()) };
    if !window::only_these_hold_rows(ctx, &[0, 1, 7]) {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    let embedded = batch_first(ctx, |batch| vec![batch, sequence, hidden]);
    let count = batch_first(ctx, |batch| vec![batch]);
    vec![embedded.clone(), count, embedded]
}

/// Attention within each row. Past keys and values hold the batch first, or second if both are in one tensor.
fn attention<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return ctx.for_all_outputs(Value::new(dependence, None));
    }
    let of_rows: &[usize] = match ctx.node.op_type.as_str() {
        "Attention" => &[0, 3],
        "QAttention" => &[0, 5],
        "MultiHeadAttention" => &[0, 1, 2, 4, 6, 7],
        _ => &[0, 1, 2, 3, 4, 5],
    };
    let is_first = |value: &Value| value.batch_axis().is_none_or(|batch_axis| *batch_axis == BatchAxis::on(0));
    if !window::only_these_hold_rows(ctx, of_rows)
        || !ctx.present_inputs().all(is_first)
        || ctx.int_or("do_rotary", 0) != 0
    {
        return ctx.for_all_outputs(ctx.unknown("has an input that does not hold the batch first"));
    }
    let query = ctx.input(0).filter(|value| value.rank() == Some(3) && !value.is_invariant());
    let Some(shape) = query.and_then(|query| query.shape.clone()) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    let hidden = attention_width(ctx, &shape);
    let hidden = hidden.unwrap_or_else(|| ctx.fresh_dim());
    let result = batch_first(ctx, |batch| vec![batch, shape[1].clone(), hidden]);
    let mut values = ctx.for_all_outputs(ctx.unknown("returns keys and values that are not traced"));
    if let Some(first) = values.first_mut() {
        *first = result;
    }
    values
}

/// The hidden size: a third of the weights' columns. With separate inputs, the size of the values, or else of the queries.
fn attention_width(ctx: &NodeContext, query: &[Dim]) -> Option<Dim> {
    match ctx.node.op_type.as_str() {
        "Attention" | "QAttention" if ctx.ints("qkv_hidden_sizes").is_none() => {
            ctx.input(1)?.shape.as_ref()?.get(1)?.over(&Dim::number(3))
        }
        "Attention" | "QAttention" => ctx.ints("qkv_hidden_sizes")?.get(2).copied().map(Dim::number),
        "MultiHeadAttention" => match ctx.input(2) {
            Some(value) if value.rank() == Some(3) => value.shape.as_ref()?.get(2).cloned(),
            _ => None,
        },
        _ => query.get(2).cloned(),
    }
}

/// `RotaryEmbedding`: the result has the shape of the input.
fn rotary<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let Some(shape) = ctx.input(0).and_then(|data| data.shape.clone()) else {
        return ctx.for_all_outputs(ctx.unsupported());
    };
    // Position ids are given per row, or as one offset for all rows.
    let one_offset = ctx.input(1).is_some_and(|positions| positions.is_invariant() && positions.rank() == Some(1));
    if !window::only_these_hold_rows(ctx, if one_offset { &[0] } else { &[0, 1] }) {
        return ctx.for_all_outputs(ctx.unsupported());
    }
    let value = batch_first(ctx, |batch| std::iter::once(batch).chain(shape.into_iter().skip(1)).collect());
    ctx.for_all_outputs(value)
}
