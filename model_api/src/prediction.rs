use std::time::Duration;

use contract::{ClassScore, Prediction, Timing};

use crate::error::Error;
use crate::model::Model;
use crate::session::{Ran, Tensor};

/// A first output with more values is no list of classes, and would be megabytes of JSON.
const MAX_CLASSES: usize = 100_000;

/// The answer to a picture or an `image_arr`: row 0 of the first output, with labels.
pub fn read_out(model: &Model, ran: &Ran, decoding: Duration) -> Result<Prediction, Error> {
    let row = ran.outputs.first().map(row_zero).unwrap_or_default();
    if !(1..=MAX_CLASSES).contains(&row.len()) {
        return Err(Error::Unfit(format!("{} answers with no list of classes", model.name)));
    }
    if !row.iter().all(|value| value.is_finite()) {
        return Err(Error::NotFinite);
    }
    let cls = index_of_largest(&row);
    let score = |(class, &value)| ClassScore { label: model.label(class), value };
    Ok(Prediction {
        model: model.name.clone(),
        version: model.version.clone(),
        cls,
        label: model.label(cls),
        value: row[cls],
        probabilities: row.iter().enumerate().map(score).collect(),
        model_digest: model.digest.clone(),
        device: ran.session.device.name.clone(),
        timing_ms: Timing { decode: ms(decoding), queue: ms(ran.waited), infer: ms(ran.ran) },
    })
}

/// What belongs to the first of the batch: everything but the first axis.
fn row_zero(output: &Tensor) -> Vec<f32> {
    let length = output.shape.iter().skip(1).product();
    let mut values = output.to_f32();
    values.truncate(length);
    values
}

/// The first of several equal ones, as `argmax` has it.
fn index_of_largest(row: &[f32]) -> usize {
    let larger = |best: usize, (index, value): (usize, &f32)| if *value > row[best] { index } else { best };
    row.iter().enumerate().fold(0, larger)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Datatype;

    #[test]
    fn row_zero_is_what_belongs_to_the_first_of_the_batch() {
        let output = |shape: &[usize]| {
            let values: Vec<f32> = (1..=6_u8).take(shape.iter().product()).map(f32::from).collect();
            row_zero(&Tensor::from_f32("y", Datatype::Fp32, shape.to_vec(), &values).unwrap())
        };
        assert_eq!(output(&[2, 3]), [1., 2., 3.]);
        assert_eq!(output(&[1, 6]), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(output(&[6]), [1.]);
        assert_eq!(output(&[]), [1.]);
    }

    #[test]
    fn of_equal_values_the_first_is_the_class() {
        assert_eq!(index_of_largest(&[0.1, 0.4, 0.4]), 1);
        assert_eq!(index_of_largest(&[-1.0]), 0);
    }
}
