use std::borrow::Cow;

use open_inference::{Activation, Datatype, Task};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::error::PredictionError;
use super::output::Output;
use super::top_k::TopK;

/// A row with more values is not a list of classes, and would be megabytes of JSON.
const MAX_CLASSES: usize = 100_000;

/// From this value on a class is present, where neither graph nor settings say otherwise.
const DEFAULT_THRESHOLD: f64 = 0.5;

/// What the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Probabilities: the graph ends in what makes them, or the settings name an activation.
    Probability,
    /// Values of an unknown scale; larger is likelier.
    Score,
}

/// One of several classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Classification<'a> {
    /// The class of row 0; `None` where the result has no row.
    pub top: Option<TopClass<'a>>,
    /// Row 0: all of up to ten classes in the output's order, or the largest, largest first.
    pub probabilities: Vec<ClassScore<'a>>,
    /// The class of each row, where there is not exactly one.
    pub rows: Vec<TopClass<'a>>,
    /// What the values are.
    pub scale: Scale,
    /// How many classes there are.
    pub classes: usize,
    /// Of one value for two classes: from where on it is the second.
    pub threshold: Option<f64>,
}

/// One class and its value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore<'a> {
    /// Its number, where the list is not in the output's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cls: Option<usize>,
    /// Its label; its number where there is none.
    pub label: Cow<'a, str>,
    /// Its value after the activation.
    pub value: f32,
}

/// The class of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopClass<'a> {
    /// Its number.
    pub cls: usize,
    /// Its label; its number where there is none.
    pub label: Cow<'a, str>,
    /// Its value after the activation.
    pub value: f32,
}

/// Any number of several classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MultiLabel<'a> {
    /// The labels present in row 0, in the output's order.
    pub labels: Vec<Cow<'a, str>>,
    /// Row 0: all of up to ten classes in the output's order, or the largest, largest first.
    pub probabilities: Vec<LabelScore<'a>>,
    /// The labels of each row, where there is not exactly one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<PresentLabels<'a>>>,
    /// From this value on a class is present.
    pub threshold: f64,
    /// What the values are.
    pub scale: Scale,
    /// How many classes there are.
    pub classes: usize,
}

/// One class, its value, and whether it is present.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelScore<'a> {
    /// Its number.
    pub cls: usize,
    /// Its label; its number where there is none.
    pub label: Cow<'a, str>,
    /// Its value after the activation.
    pub value: f32,
    /// Whether its value reaches the threshold.
    pub present: bool,
}

/// The labels present in a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PresentLabels<'a> {
    /// In the output's order.
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

/// The values of all rows after the activation.
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

    /// The largest value of row 0 and its index, where the row has several values.
    pub(super) fn first_row_argmax(self) -> Result<Option<(usize, f32)>, PredictionError> {
        let Scores { values, row_length } = self.scores(Task::Classification)?;
        Ok(values.get(..row_length).filter(|_| row_length > 1).map(argmax))
    }

    /// Finite values only: no class can be chosen by others, and JSON has no numbers for them.
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

    /// As exact as the values that are held against it: 0.7 as an `f32` reaches a threshold of 0.7.
    pub(super) fn threshold(&self) -> f32 {
        self.declared_threshold() as f32
    }

    /// Which of two classes a value stands for, and that class's value. Of a score only the second class's is known.
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

    /// The classes of a row that `top_k` lists.
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

    /// The name of class `cls`, or its number. One label of two classes names the second.
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

/// Relative to the largest, so that no exponential overflows.
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

/// The largest value and its index: of equal ones the first, as `argmax` has it.
fn argmax(row: &[f32]) -> (usize, f32) {
    let larger =
        |best: (usize, f32), (index, &value): (usize, &f32)| if value > best.1 { (index, value) } else { best };
    row.iter().enumerate().skip(1).fold((0, row[0]), larger)
}

/// The `count` largest, largest first, of equal ones the first.
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
