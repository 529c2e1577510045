//! How each operator carries rows from its inputs to its outputs.

mod attention;
mod contrib;
mod control;
mod einsum;
mod elementwise;
mod gather;
mod layout;
mod lengths;
mod matmul;
mod ml;
mod normalise;
mod recurrent;
mod reduce;
mod window;

use super::call::{Call, Values};
use super::symbols::Dim;
use super::value::{Rows, Value};

/// One value for each output of the node.
pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    match call.node.domain.as_str() {
        "" | "ai.onnx" => onnx(call),
        "ai.onnx.ml" => ml::evaluate(call),
        "com.microsoft" => contrib::evaluate(call),
        _ => call.all(call.not_followed()),
    }
}

fn onnx<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    match call.node.op_type.as_str() {
        "Abs" | "Acos" | "Acosh" | "Add" | "And" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitShift" | "BitwiseAnd"
        | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "Cast" | "Ceil" | "Celu" | "Clip" | "Cos" | "Cosh" | "Div"
        | "Elu" | "Equal" | "Erf" | "Exp" | "Floor" | "Gelu" | "Greater" | "GreaterOrEqual" | "HardSigmoid"
        | "HardSwish" | "Identity" | "IsInf" | "IsNaN" | "LeakyRelu" | "Less" | "LessOrEqual" | "Log" | "Max"
        | "Mean" | "Min" | "Mish" | "Mod" | "Mul" | "Neg" | "Not" | "Or" | "PRelu" | "Pow" | "Reciprocal"
        | "RegexFullMatch" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh"
        | "Softplus" | "Softsign" | "Sqrt" | "StringConcat" | "Sub" | "Sum" | "Swish" | "Tan" | "Tanh"
        | "ThresholdedRelu" | "Where" | "Xor" => elementwise::evaluate(call),
        "Dropout" | "CastLike" | "BitCast" => first_only(call),
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => lengths::like(call),
        "MatMul" | "MatMulInteger" => matmul::matmul(call, 0, 1),
        "QLinearMatMul" => matmul::matmul(call, 0, 3),
        "Gemm" => matmul::gemm(call),
        "Conv" | "ConvInteger" | "ConvTranspose" => window::convolution(call, 0, 1),
        "QLinearConv" => window::convolution(call, 0, 3),
        "MaxPool" | "AveragePool" | "LpPool" => window::pool(call),
        "LSTM" | "GRU" | "RNN" => recurrent::evaluate(call),
        "TopK" => reduce::top(call),
        "Split" => layout::split(call),
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => normalise::layer(call),
        "BatchNormalization" => normalise::batch(call),
        "DynamicQuantizeLinear" => normalise::dynamic(call),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => normalise::loss(call),
        "NonZero" | "Unique" | "NonMaxSuppression" => gather::picked(call),
        "AffineGrid" => affine_grid(call),
        "GridSample" => {
            let axes = call.input(0).and_then(Value::rank).unwrap_or(0);
            window::images(call, &[0, 1], axes)
        }
        "DeformConv" => window::images(call, &[0, 2, 4], 4),
        "STFT" => window::images(call, &[0], 4),
        "Col2Im" => window::images(call, &[0], 3),
        "Attention" => attention::evaluate(call),
        "If" => control::branches(call),
        "Loop" => control::repeat(call),
        "Scan" => control::scan(call),
        "StringNormalizer" | "TfIdfVectorizer" => ml::text(call),
        kind if kind.starts_with("Reduce") => reduce::reduce(call),
        "ArgMax" | "ArgMin" => reduce::extreme(call),
        _ => {
            let value = one(call);
            call.all(value)
        }
    }
}

/// Operators with one result.
fn one<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    match call.node.op_type.as_str() {
        "Constant" => constant(call),
        "ConstantOfShape" => lengths::constant(call),
        "Shape" => lengths::shape(call),
        "Size" => lengths::size(call),
        "Range" => lengths::range(call),
        "Expand" => lengths::expand(call),
        "Tile" => lengths::tile(call),
        "Pad" => lengths::pad(call),
        "Resize" | "Upsample" => lengths::resize(call),
        "Transpose" => layout::transpose(call),
        "Reshape" => layout::reshape(call),
        "Flatten" => layout::flatten(call),
        "Squeeze" => layout::squeeze(call, false),
        "Unsqueeze" => layout::squeeze(call, true),
        "Concat" => layout::concat(call),
        "Slice" => gather::slice(call),
        "Gather" => gather::gather(call),
        "GatherElements" | "ScatterElements" | "Scatter" => gather::by_elements(call),
        "GatherND" => gather::nd(call),
        "Compress" => gather::compress(call),
        "OneHot" => gather::one_hot(call),
        "ReverseSequence" => gather::reverse(call),
        "Softmax" | "LogSoftmax" | "Hardmax" => normalise::softmax(call),
        "InstanceNormalization" | "GroupNormalization" => normalise::instance(call),
        "MeanVarianceNormalization" => normalise::mean_variance(call),
        "LRN" => normalise::local(call),
        "LpNormalization" => reduce::along(call, Some(call.int_or("axis", -1)), "normalises along"),
        "QuantizeLinear" | "DequantizeLinear" => normalise::quantise(call),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => window::global(call),
        "DepthToSpace" | "SpaceToDepth" => window::blocks(call),
        "CumSum" | "CumProd" => {
            let axis = call.input(1).and_then(Value::number);
            reduce::along(call, axis, "sums along")
        }
        "Det" => reduce::last_axes(call, 2),
        "Trilu" => triangle(call),
        "RotaryEmbedding" => attention::rotary(call),
        "Einsum" => einsum::evaluate(call),
        "Multinomial" => {
            let count = Dim::number(call.int_or("sample_size", 1));
            ml::table(call, count)
        }
        "RandomNormal" | "RandomUniform" => {
            let shape = call.ints("shape").map(|shape| shape.iter().copied().map(Dim::number).collect());
            Value::new(Rows::Free, shape)
        }
        _ => call.not_followed(),
    }
}

/// Operators whose results have the rows and the shape of the first input. Others only switch something on.
fn first_only<'g>(call: &Call<'_, 'g, '_>) -> Values<'g> {
    let value = call.input(0).map(|data| Value { constant: None, ..data.clone() });
    call.all(value.unwrap_or_else(|| call.unknown("has no input")))
}

fn constant<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(tensor) = call.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return Value::constant(tensor);
    }
    let of = |shape: Vec<Dim>, elements: &[i64]| Value {
        elements: Some(elements.iter().copied().map(Dim::number).collect()),
        ..Value::new(Rows::Free, Some(shape))
    };
    let count = |count: usize| vec![Dim::number(i64::try_from(count).unwrap_or(0))];
    if let Some(number) = call.int("value_int") {
        return of(Vec::new(), &[number]);
    }
    if let Some(numbers) = call.ints("value_ints").filter(|numbers| numbers.len() <= super::value::MAX_ELEMENTS) {
        return of(count(numbers.len()), numbers);
    }
    let scalar = call.attribute("value_float").or_else(|| call.attribute("value_string"));
    let vector = call.attribute("value_floats").or_else(|| call.attribute("value_strings"));
    let vector = vector.map(|vector| count(vector.floats.len().max(vector.strings.len())));
    Value::new(Rows::Free, scalar.map(|_| Vec::new()).or(vector))
}

/// `Trilu` keeps an element by its place on the last two axes.
fn triangle<'g>(call: &Call<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = call.input(0) else { return call.unknown("has no input") };
    let diagonal_is_free = call.input(1).is_none_or(Value::is_free);
    match (call.settled(), data.place()) {
        (Some(rows), _) => Value::new(rows, data.shape.clone()),
        (None, Some(place)) if diagonal_is_free && data.rank().is_some_and(|rank| place.axis + 2 < rank) => {
            data.clone()
        }
        _ => call.not_followed(),
    }
}

/// `AffineGrid`: the size holds the number of images.
fn affine_grid<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    let is_plain = call.input(0).is_some_and(|angles| matches!(angles.rows, Rows::Each(_)));
    let size = call.input(1).and_then(|size| size.elements.clone());
    let value = match size {
        Some(size) if is_plain && size.len() > 3 && size[0] == Dim::batch() => {
            let data = call.inputs[0].clone();
            let inputs = std::mem::replace(&mut call.inputs, vec![data]);
            let shape = size[2..].iter().cloned().chain([Dim::number(i64::try_from(size.len() - 2).unwrap_or(0))]);
            let value = window::leading(call, |batch| std::iter::once(batch).chain(shape).collect());
            call.inputs = inputs;
            value
        }
        _ => call.not_followed(),
    };
    call.all(value)
}
