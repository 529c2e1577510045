//! `Einsum`: rows stay independent if the batch axis has the same letter in all inputs and in the result.

use crate::onnx::analysis::row_independence::node_context::NodeContext;
use crate::onnx::analysis::row_independence::symbolic_dims::Dim;
use crate::onnx::analysis::row_independence::value::Value;

pub fn evaluate<'g>(ctx: &mut NodeContext<'_, 'g, '_>) -> Value<'g> {
    if let Some(dependence) = ctx.forced_dependence() {
        return Value::new(dependence, None);
    }
    let equation: String =
        ctx.text("equation").unwrap_or_default().chars().filter(|sign| !sign.is_whitespace()).collect();
    let Some((terms, result)) = equation.split_once("->").filter(|_| !equation.contains('.')) else {
        return ctx.unsupported();
    };
    let terms: Vec<Vec<char>> = terms.split(',').map(|term| term.chars().collect()).collect();
    let inputs: Vec<Value> = ctx.present_inputs().cloned().collect();
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let Some(shapes) = shapes.filter(|shapes| shapes.iter().map(|shape| shape.len()).eq(terms.iter().map(Vec::len)))
    else {
        return ctx.unsupported();
    };
    let mut letters = inputs
        .iter()
        .zip(&terms)
        .filter_map(|(value, term)| Some((value.batch_axis()?, term[value.batch_axis()?.axis])));
    let Some((batch_axis, letter)) = letters.next() else { return ctx.unsupported() };
    let others: Vec<_> = letters.collect();
    if others.iter().any(|&(_, other)| other != letter) {
        return ctx.coupled("multiplies each row with every other one");
    }
    if others.iter().any(|(other, _)| other.outer != batch_axis.outer || other.inner != batch_axis.inner) {
        return ctx.unsupported();
    }
    // The same letter on another axis is a diagonal, or an axis of fixed length.
    let count = terms.iter().flatten().filter(|&&each| each == letter).count();
    if count != others.len() + 1 {
        return ctx.unsupported();
    }
    let Some(axis) = result.chars().position(|each| each == letter) else {
        return ctx.coupled("sums over the batch axis");
    };
    let mut shape = Vec::new();
    for each in result.chars() {
        let lengths = terms.iter().zip(&shapes).flat_map(|(term, shape)| term.iter().zip(shape.iter()));
        let lengths = lengths.filter(|&(&other, _)| other == each).map(|(_, dim)| dim);
        let symbols = &mut ctx.interpreter.symbols;
        shape.push(lengths.fold(Dim::number(1), |length, dim| symbols.broadcast(&length, dim)));
    }
    let batch_axis = batch_axis.moved_to(axis);
    ctx.per_row(batch_axis, shape)
}
