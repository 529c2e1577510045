//! Operators of ONNX Runtime (`com.microsoft`), into which exporters and optimisers fuse others.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Value};
use super::window::{self, leading};
use super::{elementwise, matmul, normalise, reduce};

pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    match call.node.op_type.as_str() {
        "FastGelu" | "Gelu" | "BiasGelu" | "QuickGelu" | "BiasAdd" => elementwise::evaluate(call),
        "FusedMatMul" => matmul::fused(call),
        "FusedGemm" => matmul::gemm(call),
        "MatMulNBits" | "MatMulFpQ4" | "MatMulBnb4" => by_packed_weights(call),
        "MatMulIntegerToFloat" => matmul::matmul(call, 0, 1),
        "QLinearMatMul" | "QGemm" => matmul::matmul(call, 0, 3),
        "FusedConv" => window::convolution(call, 0, 1),
        "QLinearAdd" | "QLinearMul" => scaled(call, &[0, 3]),
        "QLinearSigmoid" | "QLinearLeakyRelu" => scaled(call, &[0]),
        "QLinearSoftmax" => normalised(call),
        "QLinearGlobalAveragePool" => {
            let value = matmul::parameters(call, &[0]).unwrap_or_else(|| window::global(call));
            call.all(value)
        }
        "QuantizeLinear" | "DequantizeLinear" => {
            let value = normalise::quantise(call);
            call.all(value)
        }
        "DynamicQuantizeMatMul" | "DynamicQuantizeLSTM" => {
            let value = match call.settled() {
                Some(rows) => Value::new(rows, None),
                None => call.coupled("takes its scale from the range of the whole batch"),
            };
            call.all(value)
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip_layer(call),
        "SimplifiedLayerNormalization" | "LayerNormalization" => normalise::layer(call),
        "EmbedLayerNormalization" => embed_layer(call),
        "Attention" | "QAttention" | "MultiHeadAttention" | "GroupQueryAttention" => attention(call),
        "RotaryEmbedding" => rotary(call),
        _ => call.all(call.not_followed()),
    }
}

/// Weights that are packed: the shape of the result is in the attributes.
fn by_packed_weights<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(value) = matmul::parameters(call, &[0]) {
        return call.all(value);
    }
    let Some(data) = call.input(0).cloned() else { return call.all(call.unknown("has no input")) };
    let (Some(place), Some(mut shape)) = (data.place().cloned(), data.shape) else {
        return call.all(call.not_followed());
    };
    let columns = match call.int("N") {
        Some(columns) => Dim::number(columns),
        None => call.fresh(),
    };
    if place.axis + 1 == shape.len() {
        return call.all(call.coupled("sums over the batch axis"));
    }
    if let Some(last) = shape.last_mut() {
        *last = columns;
    }
    let value = call.each(place, shape);
    call.all(value)
}

/// Element by element, with scales that are known beforehand.
fn scaled<'g>(call: &mut Call<'_, 'g, '_>, data: &[usize]) -> Values<'g> {
    if let Some(value) = matmul::parameters(call, data) {
        return call.all(value);
    }
    let inputs: Vec<Value> = data.iter().filter_map(|&place| call.input(place).cloned()).collect();
    let value = elementwise::broadcast(call, &inputs);
    call.all(value)
}

fn normalised<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let value = matmul::parameters(call, &[0]).unwrap_or_else(|| {
        let axis = call.int_or("axis", -1);
        let is_last =
            call.input(0).and_then(Value::rank).is_some_and(|rank| Call::axis(axis, rank) == rank.checked_sub(1));
        // Over several axes in old versions of the operator set: the last alone is the same in all.
        if is_last { reduce::along(call, Some(axis), "normalises along") } else { call.not_followed() }
    });
    call.all(value)
}

/// A residual connection and layer normalisation; the sum before it is the fourth result.
fn skip_layer<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let inputs: Vec<Value> = [0, 1].into_iter().filter_map(|place| call.input(place).cloned()).collect();
    if call.inputs.iter().skip(2).flatten().any(|value| !value.is_free()) {
        return call.all(call.not_followed());
    }
    let sum = elementwise::broadcast(call, &inputs);
    match sum.place() {
        Some(place) if Some(place.axis + 1) == sum.rank() => call.all(call.coupled("normalises over the batch axis")),
        Some(_) => {
            let statistic = call.unknown("gives a statistic that is not followed");
            vec![sum.clone(), statistic.clone(), statistic, sum]
        }
        None => call.all(sum),
    }
}

/// The embeddings of tokens, and how many tokens of each row are not masked.
fn embed_layer<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let sequence = call.input(0).and_then(|tokens| tokens.shape.as_ref()?.get(1).cloned());
    let hidden = call.input(2).and_then(|table| table.shape.as_ref()?.get(1).cloned());
    let (Some(sequence), Some(hidden)) = (sequence, hidden) else { return call.all(call.not_followed()) };
    if !window::have_rows(call, &[0, 1, 7]) {
        return call.all(call.not_followed());
    }
    let embedded = leading(call, |batch| vec![batch, sequence, hidden]);
    let count = leading(call, |batch| vec![batch]);
    vec![embedded.clone(), count, embedded]
}

/// Attention within each row. Keys and values of earlier steps hold the batch first, or second if both are in one tensor.
fn attention<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let of_rows: &[usize] = match call.node.op_type.as_str() {
        "Attention" => &[0, 3],
        "QAttention" => &[0, 5],
        "MultiHeadAttention" => &[0, 1, 2, 4, 6, 7],
        _ => &[0, 1, 2, 3, 4, 5],
    };
    let is_first = |value: &Value| value.place().is_none_or(|place| *place == Place::axis(0));
    if !window::have_rows(call, of_rows) || !call.given().all(is_first) || call.int_or("do_rotary", 0) != 0 {
        return call.all(call.unknown("has an input that does not hold the batch first"));
    }
    let query = call.input(0).filter(|value| value.rank() == Some(3) && !value.is_free());
    let Some(shape) = query.and_then(|query| query.shape.clone()) else { return call.all(call.not_followed()) };
    let hidden = attention_width(call, &shape);
    let hidden = hidden.unwrap_or_else(|| call.fresh());
    let result = leading(call, |batch| vec![batch, shape[1].clone(), hidden]);
    let mut values = call.all(call.unknown("gives keys and values that are not followed"));
    if let Some(first) = values.first_mut() {
        *first = result;
    }
    values
}

/// A third of the weights' columns; of separate queries, keys and values that of the values, or of the queries.
fn attention_width(call: &Call, query: &[Dim]) -> Option<Dim> {
    match call.node.op_type.as_str() {
        "Attention" | "QAttention" if call.ints("qkv_hidden_sizes").is_none() => {
            call.input(1)?.shape.as_ref()?.get(1)?.over(&Dim::number(3))
        }
        "Attention" | "QAttention" => call.ints("qkv_hidden_sizes")?.get(2).copied().map(Dim::number),
        "MultiHeadAttention" => match call.input(2) {
            Some(value) if value.rank() == Some(3) => value.shape.as_ref()?.get(2).cloned(),
            _ => None,
        },
        _ => query.get(2).cloned(),
    }
}

/// Turns each position by its angle; the shape stays.
fn rotary<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let Some(shape) = call.input(0).and_then(|data| data.shape.clone()) else { return call.all(call.not_followed()) };
    // Positions are those of each row, or one offset for all.
    let one_offset = call.input(1).is_some_and(|positions| positions.is_free() && positions.rank() == Some(1));
    if !window::have_rows(call, if one_offset { &[0] } else { &[0, 1] }) {
        return call.all(call.not_followed());
    }
    let value = leading(call, |batch| std::iter::once(batch).chain(shape.into_iter().skip(1)).collect());
    call.all(value)
}
