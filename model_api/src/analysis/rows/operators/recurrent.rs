//! `LSTM`, `GRU` and `RNN`.

use super::super::call::{Call, Values};
use super::super::symbols::Dim;
use super::super::value::{Place, Value};

/// The axes of the sequence and of each result, by layout.
pub fn evaluate<'g>(call: &mut Call<'_, 'g, '_>) -> Values<'g> {
    if let Some(rows) = call.settled() {
        return call.all(Value::new(rows, None));
    }
    let batch_first = call.flag("layout");
    let batch_axis = usize::from(!batch_first);
    let (Some(place), Some(shape)) =
        (call.input(0).and_then(|data| data.place().cloned()), call.input(0).and_then(|data| data.shape.clone()))
    else {
        return call.all(call.unknown("has an input that does not hold the batch"));
    };
    if shape.len() != 3 {
        return call.all(call.not_followed());
    }
    if place.axis != batch_axis {
        return call.all(call.coupled("scans over the batch axis"));
    }
    // Sequence lengths hold one number for each row; states hold the batch where the sequences do.
    let at = |input: usize| if input == 4 { 0 } else { batch_axis };
    for (input, value) in call.inputs.iter().enumerate().skip(1) {
        let Some(value) = value else { continue };
        let is_weight = matches!(input, 1..=3 | 7);
        let fits = if is_weight { value.is_free() } else { value.place() == Some(&place.at(at(input))) };
        if !fits {
            return call.all(call.unknown("has a state or a length that does not hold the batch"));
        }
    }
    let directions = Dim::number(if call.text("direction") == Some("bidirectional") { 2 } else { 1 });
    let hidden = match call.int("hidden_size") {
        Some(size) => Dim::number(size),
        None => call.fresh(),
    };
    let (steps, batch) = (shape[1 - batch_axis].clone(), shape[batch_axis].clone());
    let (all, all_at) = if batch_first {
        (vec![batch.clone(), steps, directions.clone(), hidden.clone()], 0)
    } else {
        (vec![steps, directions.clone(), batch.clone(), hidden.clone()], 2)
    };
    let (last, last_at) =
        if batch_first { (vec![batch, directions, hidden], 0) } else { (vec![directions, batch, hidden], 1) };
    let result = |shape: &[Dim], axis: usize| {
        let place = Place { axis, ..place.clone() };
        call.each(place, shape.to_vec())
    };
    vec![result(&all, all_at), result(&last, last_at), result(&last, last_at)]
}
