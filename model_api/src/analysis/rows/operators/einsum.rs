//! `Einsum`: rows stay apart where the batch axis has the same letter in all inputs and in the result.

use super::super::call::Call;
use super::super::symbols::Dim;
use super::super::value::Value;

pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    if let Some(rows) = call.settled() {
        return Value::new(rows, None);
    }
    let equation: String =
        call.text("equation").unwrap_or_default().chars().filter(|sign| !sign.is_whitespace()).collect();
    let Some((terms, result)) = equation.split_once("->").filter(|_| !equation.contains('.')) else {
        return call.not_followed();
    };
    let terms: Vec<Vec<char>> = terms.split(',').map(|term| term.chars().collect()).collect();
    let inputs: Vec<Value> = call.given().cloned().collect();
    let shapes: Option<Vec<&Vec<Dim>>> = inputs.iter().map(|value| value.shape.as_ref()).collect();
    let Some(shapes) = shapes.filter(|shapes| shapes.iter().map(|shape| shape.len()).eq(terms.iter().map(Vec::len)))
    else {
        return call.not_followed();
    };
    let mut letters =
        inputs.iter().zip(&terms).filter_map(|(value, term)| Some((value.place()?, term[value.place()?.axis])));
    let Some((place, letter)) = letters.next() else { return call.not_followed() };
    let others: Vec<_> = letters.collect();
    if others.iter().any(|&(_, other)| other != letter) {
        return call.coupled("multiplies each row with every other one");
    }
    if others.iter().any(|(other, _)| other.outer != place.outer || other.inner != place.inner) {
        return call.not_followed();
    }
    // The letter on another axis as well is a diagonal, or an axis of fixed length.
    let count = terms.iter().flatten().filter(|&&each| each == letter).count();
    if count != others.len() + 1 {
        return call.not_followed();
    }
    let Some(axis) = result.chars().position(|each| each == letter) else {
        return call.coupled("sums over the batch axis");
    };
    let mut shape = Vec::new();
    for each in result.chars() {
        let lengths = terms.iter().zip(&shapes).flat_map(|(term, shape)| term.iter().zip(shape.iter()));
        let lengths = lengths.filter(|&(&other, _)| other == each).map(|(_, dim)| dim);
        let symbols = &mut call.walk.symbols;
        shape.push(lengths.fold(Dim::number(1), |length, dim| symbols.broadcast(&length, dim)));
    }
    let place = place.at(axis);
    call.each(place, shape)
}
