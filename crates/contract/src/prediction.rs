use std::borrow::Cow;

use open_inference::{Inference, Provenance, Tensor};
use serde::Serialize;

/// A first output with more values is no list of classes, and would be megabytes of JSON.
const MAX_CLASSES: usize = 100_000;

/// An answer read as a choice between classes: row 0 of the first output, with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// The model that answered.
    pub model: &'a str,
    /// The version that answered.
    pub version: &'a str,
    /// Index of the largest value in row 0 of the first output.
    pub cls: usize,
    /// The label at `cls`; its number where the model has no labels.
    pub label: Cow<'a, str>,
    /// The value at `cls`.
    pub value: f32,
    /// Row 0 of the first output in the output's order.
    pub probabilities: Vec<ClassScore<'a>>,
    /// Who answered, and what it took.
    pub provenance: &'a Provenance,
}

/// One class and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore<'a> {
    /// The class's label.
    pub label: Cow<'a, str>,
    /// The model's value for it, unscaled.
    pub value: f32,
}

/// Why an answer cannot be read as a choice between classes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPrediction {
    /// The first output is empty, far too long, or no numbers.
    #[error("{model} answers with no list of classes")]
    NoClasses {
        /// The model.
        model: String,
    },
    /// JSON cannot say it, and no class could be chosen.
    #[error("the model's answer to this input is not a finite number")]
    NotFinite,
}

impl<'a> Prediction<'a> {
    /// Reads `inference`, an answer of a model whose classes are called `labels`.
    pub fn read_out(inference: &'a Inference, labels: &'a [String]) -> Result<Self, NoPrediction> {
        let row = inference.outputs.first().map(row_zero).unwrap_or_default();
        if !(1..=MAX_CLASSES).contains(&row.len()) {
            return Err(NoPrediction::NoClasses { model: inference.model.clone() });
        }
        if !row.iter().all(|value| value.is_finite()) {
            return Err(NoPrediction::NotFinite);
        }
        let cls = index_of_largest(&row);
        let label = |class: usize| {
            labels.get(class).map_or_else(|| Cow::Owned(class.to_string()), |label| Cow::Borrowed(label.as_str()))
        };
        let score = |(class, &value)| ClassScore { label: label(class), value };
        Ok(Self {
            model: &inference.model,
            version: &inference.version,
            cls,
            label: label(cls),
            value: row[cls],
            probabilities: row.iter().enumerate().map(score).collect(),
            provenance: &inference.provenance,
        })
    }
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

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use open_inference::Datatype;

    use super::*;

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

    #[test]
    fn what_is_no_choice_between_classes_says_why() {
        let read = |output: Tensor| {
            let inference = Inference {
                model: "m".to_owned(),
                version: "1".to_owned(),
                outputs: vec![output],
                provenance: Provenance::default(),
                headers: HeaderMap::new(),
            };
            Prediction::read_out(&inference, &["cat".to_owned()]).map(|prediction| prediction.label.into_owned())
        };
        let floats = |values: &[f32]| Tensor::from_f32("y", Datatype::Fp32, vec![1, values.len()], values).unwrap();
        assert_eq!(read(floats(&[0.9, 0.1])).unwrap(), "cat");
        assert_eq!(read(floats(&[0.1, 0.9])).unwrap(), "1", "a class without a label is its number");
        assert_eq!(read(floats(&[0.1, f32::NAN])), Err(NoPrediction::NotFinite));
        let none = Err(NoPrediction::NoClasses { model: "m".to_owned() });
        assert_eq!(read(floats(&[])), none);
        assert_eq!(read(Tensor::from_strings("y", vec![1], [&b"cat"[..]])), none);
    }
}
