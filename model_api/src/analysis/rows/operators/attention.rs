//! `Attention` and `RotaryEmbedding` of ONNX: each row of the batch attends to itself.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Value};
use super::window::{have_rows, leading};

/// Queries, keys and values of `[batch, length, heads × size]` or `[batch, heads, length, size]`; the result has the shape
/// of the queries.
pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    const MASK: usize = 3;
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let mask_fits = call.input(MASK).is_none_or(|mask| match (&mask.shape, mask.place()) {
        // It is broadcast to four axes, the first of which is the batch.
        (Some(shape), Some(place)) => shape.len() == 4 && *place == Place::axis(0),
        (Some(shape), None) => mask.is_free() && (shape.len() < 4 || shape[0].is(1)),
        (None, _) => false,
    });
    let is_first = |value: &Value| value.place().is_none_or(|place| *place == Place::axis(0));
    let of_rows: &[usize] =
        if call.input(MASK).is_some_and(|mask| !mask.is_free()) { &[0, 1, 2, 3, 4, 5, 6] } else { &[0, 1, 2, 4, 5, 6] };
    if !mask_fits || !have_rows(call, of_rows) || !call.given().all(is_first) {
        return call.all(call.unknown("has an input that does not hold the batch first"));
    }
    let query = call.input(0).and_then(|query| query.shape.clone());
    let (Some(query), Some(values)) = (query, call.input(2).and_then(|values| values.shape.clone())) else {
        return call.all(call.not_followed());
    };
    let rest = match (&query[..], &values[..]) {
        ([_, length, _], [_, _, width]) => {
            let heads = [call.int_or("q_num_heads", 1), call.int_or("kv_num_heads", 1)].map(Dim::number);
            let symbols = &mut call.walk.symbols;
            let width = symbols.times(width, &heads[0]);
            vec![length.clone(), symbols.quotient(&width, &heads[1])]
        }
        ([_, heads, length, _], [_, _, _, size]) => vec![heads.clone(), length.clone(), size.clone()],
        _ => return call.all(call.not_followed()),
    };
    let result = leading(call, |batch| std::iter::once(batch).chain(rest).collect());
    let others: Vec<Dim> = (0..3).map(|_| call.fresh()).collect();
    let other = leading(call, |batch| std::iter::once(batch).chain(others).collect());
    let mut results = call.all(other);
    if let Some(first) = results.first_mut() {
        *first = result;
    }
    results
}

/// `RotaryEmbedding` by the positions of each row.
pub fn rotary<'g>(call: &mut Call<'_, 'g, '_>) -> Value<'g> {
    let shape = call.input(0).and_then(|data| data.shape.clone());
    match shape {
        Some(shape) if call.settled().is_none() && call.input(3).is_some() && have_rows(call, &[0, 3]) => {
            leading(call, |batch| std::iter::once(batch).chain(shape.into_iter().skip(1)).collect())
        }
        _ => call.not_followed(),
    }
}
