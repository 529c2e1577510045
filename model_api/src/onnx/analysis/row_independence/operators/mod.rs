//! Transfer functions: the abstract result of each operator.

mod contrib;
mod control;
mod einsum;
mod elementwise;
mod matmul;
mod ml;
mod neural;
mod reduce;
mod tensor;

use super::node_context::{NodeContext, Values};
use super::symbolic_dims::Dim;
use super::value::{BatchDependence, Value};
use neural::{attention, normalization, recurrent, window};
use tensor::{gather, layout, shape};

/// One value for each output of the node.
pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    match ctx.node.domain.as_str() {
        "" | "ai.onnx" => onnx(ctx),
        "ai.onnx.ml" => ml::evaluate(ctx),
        "com.microsoft" => contrib::evaluate(ctx),
        _ => ctx.for_all_outputs(ctx.unsupported()),
    }
}

fn onnx<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    match ctx.node.op_type.as_str() {
        "Abs" | "Acos" | "Acosh" | "Add" | "And" | "Asin" | "Asinh" | "Atan" | "Atanh" | "BitShift" | "BitwiseAnd"
        | "BitwiseNot" | "BitwiseOr" | "BitwiseXor" | "Cast" | "Ceil" | "Celu" | "Clip" | "Cos" | "Cosh" | "Div"
        | "Elu" | "Equal" | "Erf" | "Exp" | "Floor" | "Gelu" | "Greater" | "GreaterOrEqual" | "HardSigmoid"
        | "HardSwish" | "Identity" | "IsInf" | "IsNaN" | "LeakyRelu" | "Less" | "LessOrEqual" | "Log" | "Max"
        | "Mean" | "Min" | "Mish" | "Mod" | "Mul" | "Neg" | "Not" | "Or" | "PRelu" | "Pow" | "Reciprocal"
        | "RegexFullMatch" | "Relu" | "Round" | "Selu" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh"
        | "Softplus" | "Softsign" | "Sqrt" | "StringConcat" | "Sub" | "Sum" | "Swish" | "Tan" | "Tanh"
        | "ThresholdedRelu" | "Where" | "Xor" => elementwise::evaluate(ctx),
        "Dropout" | "CastLike" | "BitCast" => pass_through(ctx),
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => shape::like(ctx),
        "MatMul" | "MatMulInteger" => matmul::matmul(ctx, 0, 1),
        "QLinearMatMul" => matmul::matmul(ctx, 0, 3),
        "Gemm" => matmul::gemm(ctx),
        "Conv" | "ConvInteger" | "ConvTranspose" => window::convolution(ctx, 0, 1),
        "QLinearConv" => window::convolution(ctx, 0, 3),
        "MaxPool" | "AveragePool" | "LpPool" => window::pool(ctx),
        "LSTM" | "GRU" | "RNN" => recurrent::evaluate(ctx),
        "TopK" => reduce::top_k(ctx),
        "Split" => layout::split(ctx),
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => normalization::layer(ctx),
        "BatchNormalization" => normalization::batch(ctx),
        "DynamicQuantizeLinear" => normalization::dynamic(ctx),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => normalization::loss(ctx),
        "NonZero" | "Unique" | "NonMaxSuppression" => gather::picked(ctx),
        "AffineGrid" => affine_grid(ctx),
        "GridSample" => {
            let axes = ctx.input(0).and_then(Value::rank).unwrap_or(0);
            window::per_image(ctx, &[0, 1], axes)
        }
        "DeformConv" => window::per_image(ctx, &[0, 2, 4], 4),
        "STFT" => window::per_image(ctx, &[0], 4),
        "Col2Im" => window::per_image(ctx, &[0], 3),
        "Attention" => attention::evaluate(ctx),
        "If" => control::branches(ctx),
        "Loop" => control::repeat(ctx),
        "Scan" => control::scan(ctx),
        "StringNormalizer" | "TfIdfVectorizer" => ml::text(ctx),
        kind if kind.starts_with("Reduce") => reduce::reduce(ctx),
        "ArgMax" | "ArgMin" => reduce::extreme(ctx),
        _ => {
            let value = single_output(ctx);
            ctx.for_all_outputs(value)
        }
    }
}

/// Operators with one output.
fn single_output<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    match ctx.node.op_type.as_str() {
        "Constant" => constant(ctx),
        "ConstantOfShape" => shape::constant(ctx),
        "Shape" => shape::shape(ctx),
        "Size" => shape::size(ctx),
        "Range" => shape::range(ctx),
        "Expand" => shape::expand(ctx),
        "Tile" => shape::tile(ctx),
        "Pad" => shape::pad(ctx),
        "Resize" | "Upsample" => shape::resize(ctx),
        "Transpose" => layout::transpose(ctx),
        "Reshape" => layout::reshape(ctx),
        "Flatten" => layout::flatten(ctx),
        "Squeeze" => layout::squeeze(ctx, false),
        "Unsqueeze" => layout::squeeze(ctx, true),
        "Concat" => layout::concat(ctx),
        "Slice" => gather::slice(ctx),
        "Gather" => gather::gather(ctx),
        "GatherElements" | "ScatterElements" | "Scatter" => gather::by_elements(ctx),
        "GatherND" => gather::nd(ctx),
        "Compress" => gather::compress(ctx),
        "OneHot" => gather::one_hot(ctx),
        "ReverseSequence" => gather::reverse(ctx),
        "Softmax" | "LogSoftmax" | "Hardmax" => normalization::softmax(ctx),
        "InstanceNormalization" | "GroupNormalization" => normalization::instance(ctx),
        "MeanVarianceNormalization" => normalization::mean_variance(ctx),
        "LRN" => normalization::local(ctx),
        "LpNormalization" => reduce::along(ctx, Some(ctx.int_or("axis", -1)), "normalises along"),
        "QuantizeLinear" | "DequantizeLinear" => normalization::quantize(ctx),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => window::global(ctx),
        "DepthToSpace" | "SpaceToDepth" => window::blocks(ctx),
        "CumSum" | "CumProd" => {
            let axis = ctx.input(1).and_then(Value::number);
            reduce::along(ctx, axis, "sums along")
        }
        "Det" => reduce::last_axes(ctx, 2),
        "Trilu" => triangle(ctx),
        "RotaryEmbedding" => attention::rotary(ctx),
        "Einsum" => einsum::evaluate(ctx),
        "Multinomial" => {
            let count = Dim::number(ctx.int_or("sample_size", 1));
            ml::table(ctx, count)
        }
        "RandomNormal" | "RandomUniform" => {
            let shape = ctx.ints("shape").map(|shape| shape.iter().copied().map(Dim::number).collect());
            Value::new(BatchDependence::Invariant, shape)
        }
        _ => ctx.unsupported(),
    }
}

/// Operators whose results have the dependence and shape of the first input.
fn pass_through<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Values<'g> {
    let value = ctx.input(0).map(|data| Value { constant: None, ..data.clone() });
    ctx.for_all_outputs(value.unwrap_or_else(|| ctx.unknown("has no input")))
}

fn constant<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(tensor) = ctx.attribute("value").and_then(|attribute| attribute.t.as_ref()) {
        return Value::constant(tensor);
    }
    let of = |shape: Vec<Dim>, elements: &[i64]| Value {
        elements: Some(elements.iter().copied().map(Dim::number).collect()),
        ..Value::new(BatchDependence::Invariant, Some(shape))
    };
    let count = |count: usize| vec![Dim::number(i64::try_from(count).unwrap_or(0))];
    if let Some(number) = ctx.int("value_int") {
        return of(Vec::new(), &[number]);
    }
    if let Some(numbers) = ctx.ints("value_ints").filter(|numbers| numbers.len() <= super::value::MAX_ELEMENTS) {
        return of(count(numbers.len()), numbers);
    }
    let scalar = ctx.attribute("value_float").or_else(|| ctx.attribute("value_string"));
    let vector = ctx.attribute("value_floats").or_else(|| ctx.attribute("value_strings"));
    let vector = vector.map(|vector| count(vector.floats.len().max(vector.strings.len())));
    Value::new(BatchDependence::Invariant, scalar.map(|_| Vec::new()).or(vector))
}

/// `Trilu`: selects elements by their position on the last two axes.
fn triangle<'g>(ctx: &NodeContext<'_, 'g, '_>) -> Value<'g> {
    let Some(data) = ctx.input(0) else { return ctx.unknown("has no input") };
    let diagonal_is_free = ctx.input(1).is_none_or(Value::is_invariant);
    match (ctx.forced_dependence(), data.batch_axis()) {
        (Some(dependence), _) => Value::new(dependence, data.shape.clone()),
        (None, Some(batch_axis)) if diagonal_is_free && data.rank().is_some_and(|rank| batch_axis.axis + 2 < rank) => {
            data.clone()
        }
        _ => ctx.unsupported(),
    }
}

/// `AffineGrid`: the first element of `size` is the number of images.
fn affine_grid<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Values<'g> {
    let is_unmerged = ctx.input(0).is_some_and(|angles| matches!(angles.dependence, BatchDependence::PerRow(_)));
    let size = ctx.input(1).and_then(|size| size.elements.clone());
    let value = match size {
        Some(size) if is_unmerged && size.len() > 3 && size[0] == Dim::batch() => {
            let data = ctx.inputs[0].clone();
            let inputs = std::mem::replace(&mut ctx.inputs, vec![data]);
            let shape = size[2..].iter().cloned().chain([Dim::number(i64::try_from(size.len() - 2).unwrap_or(0))]);
            let value = window::batch_first(ctx, |batch| std::iter::once(batch).chain(shape).collect());
            ctx.inputs = inputs;
            value
        }
        _ => ctx.unsupported(),
    };
    ctx.for_all_outputs(value)
}
