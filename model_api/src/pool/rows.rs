//! Whether the rows of a batch have anything to do with each other.
//!
//! Most models answer a batch of two as they answer two batches of one. One that normalises over its batch, sorts it, or
//! counts it does not, and must not be shown the requests of different callers together. The graph does not say which kind it
//! is, so it is tried: two different rows, one after the other and together.

use std::future::pending;

use open_inference::{Datatype, Tensor, TensorMetadata};

use crate::session::{Blueprint, Hello, Session, SessionError, trial_row};

/// What the trial has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Two rows together are answered as each is alone.
    Independent,
    /// They are not; this is how.
    Dependent(String),
    /// The model refuses inputs that are as good as any guess, and nothing follows from that.
    Untried,
    /// An input has no open first axis, so there are no rows.
    NoBatch,
}

/// Runs the model three times: on a row, on another one, and on both. The error is the session's death; none of the three
/// runs may be given up.
pub async fn try_rows<S: Session>(session: &mut S, hello: &Hello, blueprint: &Blueprint) -> Result<Rows, String> {
    let row = |number| hello.required_inputs().map(|input| trial_row(input, &blueprint.shapes, number)).collect();
    let rows: (Option<Vec<Tensor>>, Option<Vec<Tensor>>) = (row(0), row(1));
    let (Some(first), Some(second)) = rows else { return Ok(Rows::NoBatch) };
    let mut alone = Vec::new();
    for inputs in [&first[..], &second] {
        match run(session, &[inputs]).await? {
            Some(outputs) => alone.push(outputs),
            None => return Ok(Rows::Untried),
        }
    }
    let Some(together) = run(session, &[&first, &second]).await? else {
        return Ok(Rows::Dependent("it refuses two rows and takes each".to_owned()));
    };
    Ok(compare(&hello.outputs, &alone, &together))
}

/// `None` when the model refuses the inputs.
async fn run<S: Session>(session: &mut S, requests: &[&[Tensor]]) -> Result<Option<Vec<Tensor>>, String> {
    match session.run(requests, pending()).await {
        Ok(outputs) => Ok(Some(outputs)),
        Err(SessionError::Refused(_) | SessionError::GivenUp) => Ok(None),
        Err(SessionError::Died(reason)) => Err(reason),
    }
}

fn compare(outputs: &[TensorMetadata], alone: &[Vec<Tensor>], together: &[Tensor]) -> Rows {
    for (place, output) in outputs.iter().enumerate() {
        let name = &output.name;
        let parts: Option<Vec<&Tensor>> = alone.iter().map(|outputs| outputs.get(place)).collect();
        let stacked = parts.filter(|parts| parts.iter().all(|part| part.rows() == Some(1)));
        let stacked = stacked.and_then(|parts| Tensor::stack(&parts));
        let (Some(stacked), Some(both)) = (stacked, together.get(place)) else {
            return Rows::Dependent(format!("output {name:?} has other shapes for other rows"));
        };
        if both.shape != stacked.shape {
            return Rows::Dependent(format!("output {name:?} of two rows has the shape {:?}", both.shape));
        }
        if !are_close(&stacked, both) {
            return Rows::Dependent(format!("output {name:?} of two rows is not that of each"));
        }
    }
    Rows::Independent
}

/// Kernels add in another order for another number of rows, so floats may differ in what their precision leaves open: a
/// thousandth of the output's largest value, a fiftieth for half precision.
fn are_close(a: &Tensor, b: &Tensor) -> bool {
    let tolerance = match a.datatype {
        Datatype::Fp32 | Datatype::Fp64 => 1e-3,
        Datatype::Fp16 | Datatype::Bf16 => 2e-2,
        _ => return a.data == b.data,
    };
    let (a, b) = (a.to_f32(), b.to_f32());
    let largest = a.iter().filter(|value| value.is_finite()).fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let close = |(a, b): (&f32, &f32)| {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest
    };
    a.iter().zip(&b).all(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f32]) -> Tensor {
        Tensor::from_f32("y", Datatype::Fp32, vec![values.len(), 1], values).unwrap()
    }

    fn verdict(alone: [&[f32]; 2], together: &[f32]) -> Rows {
        let alone = alone.map(|values| vec![output(values)]);
        compare(&[TensorMetadata::new("y", Datatype::Fp32, &[-1, 1])], &alone, &[output(together)])
    }

    #[test]
    fn rows_are_independent_when_two_together_are_what_each_is_alone() {
        assert_eq!(verdict([&[1.0], &[3.0]], &[1.0, 3.001]), Rows::Independent);
        assert_eq!(verdict([&[f32::NAN], &[f32::INFINITY]], &[f32::NAN, f32::INFINITY]), Rows::Independent);
        for (together, words) in [
            (&[1.0, 3.1][..], "output \"y\" of two rows is not that of each"),
            (&[1.0, f32::NAN], "output \"y\" of two rows is not that of each"),
            (&[4.0], "output \"y\" of two rows has the shape [1, 1]"),
        ] {
            assert_eq!(verdict([&[1.0], &[3.0]], together), Rows::Dependent(words.to_owned()));
        }
        let scalars = verdict([&[1.0, 2.0], &[3.0]], &[1.0, 3.0]);
        assert_eq!(scalars, Rows::Dependent("output \"y\" has other shapes for other rows".to_owned()));
    }
}
