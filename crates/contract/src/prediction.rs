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
    /// Where the first output has several rows, though one picture was sent, as a pipeline's may: the choice for each of
    /// them. Empty where it has one.
    pub rows: Vec<Choice<'a>>,
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

/// A row's largest value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice<'a> {
    /// Its index.
    pub cls: usize,
    /// The label at `cls`.
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
        let (values, in_row) = inference.outputs.first().map(rows).unwrap_or_default();
        if !(1..=MAX_CLASSES).contains(&in_row) || values.is_empty() {
            return Err(NoPrediction::NoClasses { model: inference.model.clone() });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(NoPrediction::NotFinite);
        }
        let row = &values[..in_row];
        let cls = index_of_largest(row);
        let label = |class: usize| {
            labels.get(class).map_or_else(|| Cow::Owned(class.to_string()), |label| Cow::Borrowed(label.as_str()))
        };
        let score = |(class, &value)| ClassScore { label: label(class), value };
        let choice = |row: &[f32]| {
            let cls = index_of_largest(row);
            Choice { cls, label: label(cls), value: row[cls] }
        };
        let is_alone = values.len() == in_row;
        Ok(Self {
            model: &inference.model,
            version: &inference.version,
            cls,
            label: label(cls),
            value: row[cls],
            probabilities: row.iter().enumerate().map(score).collect(),
            rows: if is_alone { Vec::new() } else { values.chunks_exact(in_row).map(choice).collect() },
            provenance: &inference.provenance,
        })
    }
}

/// The values of all rows, and how many one has: everything but the first axis. The first row alone where the output is no
/// table of rows and classes, or all of it would be too long.
fn rows(output: &Tensor) -> (Vec<f32>, usize) {
    let in_row = output.shape.iter().skip(1).product();
    let mut values = output.to_f32();
    if output.shape.len() != 2 || values.len() > MAX_CLASSES {
        values.truncate(in_row);
    }
    (values, in_row)
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
            let (mut values, in_row) = rows(&Tensor::from_f32("y", Datatype::Fp32, shape.to_vec(), &values).unwrap());
            values.truncate(in_row);
            values
        };
        assert_eq!(output(&[2, 3]), [1., 2., 3.]);
        assert_eq!(output(&[1, 6]), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(output(&[6]), [1.]);
        assert_eq!(output(&[]), [1.]);
    }

    #[test]
    fn of_several_rows_each_has_its_choice_and_one_alone_has_no_list() {
        let read = |shape: Vec<usize>, values: &[f32]| {
            let inference = Inference {
                model: "m".to_owned(),
                version: "1".to_owned(),
                outputs: vec![Tensor::from_f32("y", Datatype::Fp32, shape, values).unwrap()],
                provenance: Provenance::default(),
                headers: HeaderMap::new(),
            };
            let labels = ["cat".to_owned(), "dog".to_owned()];
            let read = Prediction::read_out(&inference, &labels);
            read.map(|read| read.rows.iter().map(|row| row.label.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(read(vec![3, 2], &[0.1, 0.9, 0.8, 0.2, 0.3, 0.7]).unwrap(), ["dog", "cat", "dog"]);
        assert_eq!(read(vec![1, 2], &[0.1, 0.9]).unwrap(), [""; 0]);
        assert_eq!(read(vec![3], &[0.1, 0.9, 0.8]).unwrap(), [""; 0], "no rows of classes");
        assert_eq!(read(vec![2, 1, 2], &[0.1, 0.9, 0.8, 0.2]).unwrap(), [""; 0]);
        assert_eq!(read(vec![2, 2], &[0.1, 0.9, f32::NAN, 0.2]), Err(NoPrediction::NotFinite));
        assert_eq!(read(vec![0, 2], &[]), Err(NoPrediction::NoClasses { model: "m".to_owned() }));
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
