//! Classification and multi-label results.

use std::borrow::Cow;

use open_inference::{Activation, Datatype, Task};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::error::PredictionError;
use super::output::Output;
use super::top_k::TopK;

/// Maximum values of a row. A longer row is not a list of classes, and would be megabytes of JSON.
const MAX_CLASSES: usize = 100_000;

/// Threshold of a class if neither the graph nor the settings contain one.
const DEFAULT_THRESHOLD: f64 = 0.5;

/// Scale of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Probabilities: the graph ends in an operator that computes them, or the settings contain an activation.
    Probability,
    /// Scores of an unknown scale; larger is more likely.
    Score,
}

/// Result of a classification: one of several classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification<'a> {
    /// Class of row 0. `None` if the result has no rows.
    pub top: Option<TopClass<'a>>,
    /// Values of row 0: up to ten classes in the order of the output, or the largest ones, largest first.
    pub probabilities: Vec<ClassScore<'a>>,
    /// Class of each row. Empty if there is exactly one row.
    pub rows: Vec<TopClass<'a>>,
    /// Scale of the values.
    pub scale: Scale,
    /// Number of classes.
    pub classes: usize,
    /// For one value and two classes: the threshold of the second class.
    pub threshold: Option<f64>,
}

/// A class with its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore<'a> {
    /// Class index. `None` if the list is in the order of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cls: Option<usize>,
    /// Label, or the class index if there is none.
    pub label: Cow<'a, str>,
    /// Value after the activation.
    pub value: f32,
}

/// The class with the largest value of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopClass<'a> {
    /// Class index.
    pub cls: usize,
    /// Label, or the class index if there is none.
    pub label: Cow<'a, str>,
    /// Value after the activation.
    pub value: f32,
}

/// Result of a multi-label classification: any number of several classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MultiLabel<'a> {
    /// Labels present in row 0, in the order of the output.
    pub labels: Vec<Cow<'a, str>>,
    /// Values of row 0: up to ten classes in the order of the output, or the largest ones, largest first.
    pub probabilities: Vec<LabelScore<'a>>,
    /// Labels of each row. `None` if there is exactly one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<PresentLabels<'a>>>,
    /// Minimum value of a present class.
    pub threshold: f64,
    /// Scale of the values.
    pub scale: Scale,
    /// Number of classes.
    pub classes: usize,
}

/// A class with its value and presence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelScore<'a> {
    /// Class index.
    pub cls: usize,
    /// Label, or the class index if there is none.
    pub label: Cow<'a, str>,
    /// Value after the activation.
    pub value: f32,
    /// Whether the value reaches the threshold.
    pub present: bool,
}

/// Labels present in a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PresentLabels<'a> {
    /// Labels in the order of the output.
    pub labels: Vec<Cow<'a, str>>,
}

impl Serialize for Classification<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_rows = self.top.is_none() || !self.rows.is_empty();
        let length = 6 + usize::from(has_rows) + usize::from(self.threshold.is_some());
        let mut object = serializer.serialize_struct("Classification", length)?;
        object.serialize_field("cls", &self.top.as_ref().map(|top| top.cls))?;
        object.serialize_field("label", &self.top.as_ref().map(|top| &top.label))?;
        object.serialize_field("value", &self.top.as_ref().map(|top| top.value))?;
        object.serialize_field("probabilities", &self.probabilities)?;
        if has_rows {
            object.serialize_field("rows", &self.rows)?;
        }
        object.serialize_field("scale", &self.scale)?;
        object.serialize_field("classes", &self.classes)?;
        if let Some(threshold) = self.threshold {
            object.serialize_field("threshold", &threshold)?;
        }
        object.end()
    }
}

/// Values of all rows after the activation.
struct Scores {
    values: Vec<f32>,
    row_length: usize,
}

impl<'a> Output<'a> {
    pub(super) fn classification(self, top_k: TopK) -> Result<Classification<'a>, PredictionError> {
        let Scores { values, row_length } = self.scores(Task::Classification)?;
        let is_binary = row_length == 1;
        let top_class = |row: &[f32]| {
            let (cls, value) = if is_binary { self.binary_class(row[0]) } else { argmax(row) };
            TopClass { cls, label: self.label(cls, is_binary), value }
        };
        let first = values.get(..row_length);
        let probabilities = match first {
            None => Vec::new(),
            Some(&[positive]) if is_binary => self.binary_scores(positive, top_k),
            Some(row) => self.class_scores(row, top_k),
        };
        Ok(Classification {
            top: first.map(top_class),
            probabilities,
            rows: if values.len() == row_length {
                Vec::new()
            } else {
                values.chunks_exact(row_length).map(top_class).collect()
            },
            scale: self.scale(),
            classes: if is_binary { 2 } else { row_length },
            threshold: is_binary.then(|| self.declared_threshold()),
        })
    }

    pub(super) fn multi_label(self, top_k: TopK) -> Result<MultiLabel<'a>, PredictionError> {
        let Scores { values, row_length } = self.scores(Task::MultiLabel)?;
        let threshold = self.threshold();
        let present = |row: &[f32]| {
            let present = row.iter().enumerate().filter(|(_, value)| **value >= threshold);
            present.map(|(cls, _)| self.label(cls, false)).collect::<Vec<_>>()
        };
        let row = values.get(..row_length).unwrap_or_default();
        let score =
            |(cls, value)| LabelScore { cls, label: self.label(cls, false), value, present: value >= threshold };
        let probabilities = match top_k.listed_count(row.len()) {
            None => row.iter().copied().enumerate().map(score).collect(),
            Some(count) => top_k_of(row, count).into_iter().map(score).collect(),
        };
        let of_row = |row: &[f32]| PresentLabels { labels: present(row) };
        Ok(MultiLabel {
            labels: present(row),
            probabilities,
            rows: (values.len() != row_length).then(|| values.chunks_exact(row_length).map(of_row).collect()),
            threshold: self.declared_threshold(),
            scale: self.scale(),
            classes: row_length,
        })
    }

    /// Index and value of the largest value of row 0. `None` if the row has only one value.
    pub(super) fn first_row_argmax(self) -> Result<Option<(usize, f32)>, PredictionError> {
        let Scores { values, row_length } = self.scores(Task::Classification)?;
        Ok(values.get(..row_length).filter(|_| row_length > 1).map(argmax))
    }

    /// Values after the activation. Fails if one is not finite: it has no rank among the classes and no number in JSON.
    fn scores(&self, task: Task) -> Result<Scores, PredictionError> {
        let rows = self.rows(task, MAX_CLASSES)?;
        if self.tensor.datatype == Datatype::Bytes {
            return Err(self.unsupported_shape(task));
        }
        let mut values = self.tensor.to_f32();
        match self.metadata.parameters.activation {
            None | Some(Activation::None) => {}
            Some(Activation::Sigmoid) => values.iter_mut().for_each(|value| *value = sigmoid(*value)),
            Some(Activation::Softmax) => values.chunks_exact_mut(rows.length).for_each(softmax),
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(PredictionError::NotFinite);
        }
        Ok(Scores { values, row_length: rows.length })
    }

    fn scale(&self) -> Scale {
        if self.metadata.parameters.activation.is_some() { Scale::Probability } else { Scale::Score }
    }

    fn declared_threshold(&self) -> f64 {
        self.metadata.parameters.threshold.unwrap_or(DEFAULT_THRESHOLD)
    }

    /// Threshold in the precision of the values: 0.7 as an `f32` reaches a threshold of 0.7.
    pub(super) fn threshold(&self) -> f32 {
        self.declared_threshold() as f32
    }

    /// Class of a single value of two classes, and the value of that class. A score is known for the second class only.
    fn binary_class(&self, positive: f32) -> (usize, f32) {
        let cls = usize::from(positive >= self.threshold());
        let is_complement = cls == 0 && self.scale() == Scale::Probability;
        (cls, if is_complement { 1.0 - positive } else { positive })
    }

    fn binary_scores(&self, positive: f32, top_k: TopK) -> Vec<ClassScore<'a>> {
        if self.scale() == Scale::Score {
            return vec![ClassScore { cls: Some(1), label: self.label(1, true), value: positive }];
        }
        let mut both = self.class_scores(&[1.0 - positive, positive], top_k);
        both.iter_mut().zip([0, 1]).for_each(|(score, index)| {
            score.label = self.label(score.cls.unwrap_or(index), true);
        });
        both
    }

    /// Classes of a row that `top_k` selects.
    fn class_scores(&self, row: &[f32], top_k: TopK) -> Vec<ClassScore<'a>> {
        let label = |cls| self.label(cls, false);
        match top_k.listed_count(row.len()) {
            None => {
                let score = |(cls, &value)| ClassScore { cls: None, label: label(cls), value };
                row.iter().enumerate().map(score).collect()
            }
            Some(count) => {
                let score = |(cls, value)| ClassScore { cls: Some(cls), label: label(cls), value };
                top_k_of(row, count).into_iter().map(score).collect()
            }
        }
    }

    /// Label of class `cls`, or its index. A single label of two classes names the second.
    pub(super) fn label(&self, cls: usize, is_binary: bool) -> Cow<'a, str> {
        match self.labels {
            [positive] if is_binary && cls == 0 => Cow::Owned(format!("not {positive}")),
            [positive] if is_binary => Cow::Borrowed(positive),
            labels => {
                labels.get(cls).map_or_else(|| Cow::Owned(cls.to_string()), |label| Cow::Borrowed(label.as_str()))
            }
        }
    }
}

pub(super) fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// Subtracts the largest value first, so that no exponential overflows.
fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for value in row.iter_mut() {
        *value = (*value - largest).exp();
    }
    let sum: f64 = row.iter().map(|&value| f64::from(value)).sum();
    for value in row {
        *value = (f64::from(*value) / sum) as f32;
    }
}

/// Index and value of the largest value; the first of equal ones.
fn argmax(row: &[f32]) -> (usize, f32) {
    let larger =
        |best: (usize, f32), (index, &value): (usize, &f32)| if value > best.1 { (index, value) } else { best };
    row.iter().enumerate().skip(1).fold((0, row[0]), larger)
}

/// The `count` largest values with their indices, largest first; of equal ones, the first.
fn top_k_of(row: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut indices: Vec<usize> = (0..row.len()).collect();
    let better = |&a: &usize, &b: &usize| row[b].total_cmp(&row[a]).then(a.cmp(&b));
    if (1..indices.len()).contains(&count) {
        indices.select_nth_unstable_by(count - 1, better);
        indices.truncate(count);
    }
    indices.sort_unstable_by(better);
    indices.into_iter().map(|index| (index, row[index])).collect()
}
