//! Task analysis: derives the task of each output from the last operators of the graph.
//!
//! It derives only what the graph proves: a final `Softmax` over classes, a final `Sigmoid`, classifiers and regressors of
//! `ai.onnx.ml`, scikit-learn's pair of label and probabilities, and results of `NonMaxSuppression`. Any other output has no
//! task, so that its values are never mistaken for classes.

mod tree_ensemble;
mod value_source;

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use open_inference::{Activation, Task};

use super::facts::DerivedTask;
use super::graph::subgraphs;
use crate::onnx::proto::{Graph, Model, Node};
use value_source::{ValueSource, ValueSources};

/// Longest list of class names that is kept.
const MAX_LABELS: usize = 100_000;

/// Output names of probabilities and labels in exports from scikit-learn and from gradient boosting libraries.
const PROBABILITIES: [&str; 3] = ["probabilities", "output_probability", "probability_tensor"];
const LABELS: [&str; 2] = ["label", "output_label"];

/// `TensorProto.DataType`.
const INT64: i32 = 7;
const STRING: i32 = 8;
const FLOATS: [i32; 4] = [1, 10, 11, 16];

/// Tasks of outputs, by name. Outputs without a known task are absent.
pub fn derive_tasks(model: &Model) -> BTreeMap<String, DerivedTask> {
    let Some(graph) = &model.graph else { return BTreeMap::new() };
    let sources = ValueSources::new(model, graph);
    let suppressed = suppressed_values(model, graph);
    let derived = |name: &String| match suppressed.contains(name.as_str()) {
        true => Some(DerivedTask::new(Task::Detection, None)),
        false if !FLOATS.contains(&sources.datatype(name)) => None,
        false => derive_from_source(&sources, name).or_else(|| named_pair(&sources, graph, name)),
    };
    graph.output.iter().filter_map(|output| Some((output.name.clone(), derived(&output.name)?))).collect()
}

fn derive_from_source(sources: &ValueSources<'_>, name: &str) -> Option<DerivedTask> {
    let source = sources.source(name)?;
    let probability = Some(Activation::None);
    match (source.node.domain.as_str(), source.node.op_type.as_str()) {
        ("" | "ai.onnx", "Softmax") => Some(DerivedTask::new(softmax(sources, name, &source), probability)),
        ("" | "ai.onnx", "LogSoftmax") => {
            let task = softmax(sources, name, &source);
            (task != Task::None).then(|| DerivedTask::new(task, None))
        }
        ("" | "ai.onnx", "Sigmoid") => Some(DerivedTask::new(sigmoid(sources, name, &source), probability)),
        ("ai.onnx.ml", _) => ml_task(sources, name, &source),
        _ => None,
    }
}

/// Classification if the operator normalises the class axis. Maps and sequences have no task.
fn softmax(sources: &ValueSources<'_>, name: &str, source: &ValueSource<'_>) -> Task {
    let classes = || {
        let output = class_axis(sources.shape(name)?)?;
        let shape = if source.reshaped { sources.shape(source.value)? } else { sources.shape(name)? };
        let classes = class_axis(shape)?;
        let is_kept = output.length == classes.length;
        let normalized = sources.normalized_axes(source.node, shape.len())?;
        let rows_apart = shape.len() == 1 || shape[0] == Some(1) || !normalized.contains(&0);
        (is_kept && normalized.contains(&classes.axis) && rows_apart && classes.length != Some(1)).then_some(())
    };
    if classes().is_some() { Task::Classification } else { Task::None }
}

/// Binary classification for one value per row, multi-label for several. An open number of values has no task: they may be
/// pixels.
fn sigmoid(sources: &ValueSources<'_>, name: &str, source: &ValueSource<'_>) -> Task {
    let classes = || {
        let output = class_axis(sources.shape(name)?)?;
        let shape = if source.reshaped { sources.shape(source.value)? } else { sources.shape(name)? };
        class_axis(shape).filter(|classes| classes.length == output.length)
    };
    match classes().and_then(|classes| classes.length) {
        Some(1) => Task::Classification,
        Some(classes) if classes > 1 => Task::MultiLabel,
        _ => Task::None,
    }
}

/// The axis of the classes.
struct ClassAxis {
    axis: usize,
    /// `None` if it is open.
    length: Option<i64>,
}

/// The class axis of a shape whose rows are vectors: all axes but the first and that one have length 1. In a tensor with one open
/// axis, each value is a row.
fn class_axis(shape: &[Option<i64>]) -> Option<ClassAxis> {
    match shape {
        [] | [None] => Some(ClassAxis { axis: 0, length: Some(1) }),
        // Either the rows of a fixed batch, or the classes of the only row.
        [Some(length)] => (*length == 1).then_some(ClassAxis { axis: 0, length: Some(1) }),
        [_, row @ ..] => {
            let mut long = row.iter().enumerate().filter(|(_, length)| **length != Some(1));
            match (long.next(), long.next()) {
                (None, _) => Some(ClassAxis { axis: 1, length: Some(1) }),
                (Some((axis, length)), None) => Some(ClassAxis { axis: axis + 1, length: *length }),
                _ => None,
            }
        }
    }
}

/// The task of an `ai.onnx.ml` operator. The second output of a classifier holds the scores, the first the label.
fn ml_task(sources: &ValueSources<'_>, name: &str, source: &ValueSource<'_>) -> Option<DerivedTask> {
    let ValueSource { node, output, .. } = *source;
    let is_one_class = node.attribute("one_class").is_some_and(|attribute| attribute.i != 0);
    match (node.op_type.as_str(), output) {
        ("TreeEnsembleRegressor" | "LinearRegressor", 0) => Some(DerivedTask::new(Task::Regression, None)),
        ("SVMRegressor", 0) if !is_one_class => Some(DerivedTask::new(Task::Regression, None)),
        ("TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier", 1) => {
            let is_probability = has_probabilities(node) && !source.rescaled;
            let mut task = DerivedTask::new(Task::Classification, is_probability.then_some(Activation::None));
            task.labels = class_names(node);
            let classes = sources.shape(name).and_then(|shape| shape.last().copied().flatten());
            if classes.is_some_and(|classes| usize::try_from(classes) != Ok(task.labels.len())) {
                task.labels.clear();
            }
            Some(task)
        }
        _ => None,
    }
}

fn has_probabilities(node: &Node) -> bool {
    let transform = node.attribute("post_transform").map_or(&b"NONE"[..], |attribute| &attribute.s[..]);
    match (node.op_type.as_str(), transform) {
        (_, b"LOGISTIC" | b"SOFTMAX") => true,
        ("SVMClassifier", b"NONE") => node.attribute("prob_a").is_some_and(|attribute| !attribute.floats.is_empty()),
        ("TreeEnsembleClassifier", b"NONE") => tree_ensemble::averages_probabilities(node),
        _ => false,
    }
}

fn class_names(node: &Node) -> Vec<String> {
    let texts = node.attribute("classlabels_strings").map(|attribute| &attribute.strings).filter(|all| !all.is_empty());
    let numbers = || {
        let numbers = ["classlabels_int64s", "classlabels_ints"].into_iter().find_map(|name| node.attribute(name));
        numbers.map_or_else(Vec::new, |attribute| attribute.ints.iter().map(i64::to_string).collect())
    };
    let all = |texts: &Vec<Bytes>| texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let names: Vec<String> = texts.map_or_else(numbers, all);
    if names.len() <= MAX_LABELS { names } else { Vec::new() }
}

/// scikit-learn's pair of outputs if ordinary operators compute the probabilities; recognised by both names. The values may be raw
/// scores, since exporters use the same name for them.
fn named_pair(sources: &ValueSources<'_>, graph: &Graph, name: &str) -> Option<DerivedTask> {
    let is_label = |other: &str| LABELS.contains(&other) && matches!(sources.datatype(other), INT64 | STRING);
    let has_label = graph.output.iter().any(|output| is_label(&output.name));
    let is_list = sources.shape(name).is_none_or(|shape| shape.len() == 2);
    let is_pair = PROBABILITIES.contains(&name) && has_label && is_list;
    is_pair.then(|| DerivedTask::new(Task::Classification, None))
}

/// The tensors that depend on the result of a non-maximum suppression.
fn suppressed_values<'a>(model: &'a Model, graph: &'a Graph) -> HashSet<&'a str> {
    let functions: HashSet<(&str, &str)> = model
        .functions
        .iter()
        .filter(|function| function.node.iter().any(is_suppression))
        .map(|function| (function.domain.as_str(), function.name.as_str()))
        .collect();
    let mut after = HashSet::new();
    for node in &graph.node {
        let is_after = is_suppression(node)
            || functions.contains(&(node.domain.as_str(), node.op_type.as_str()))
            || reads(node, &after);
        if is_after {
            after.extend(node.output.iter().map(String::as_str).filter(|name| !name.is_empty()));
        }
    }
    after
}

/// Whether a node is a non-maximum suppression, or contains one in a subgraph. The names cover those of other runtimes.
fn is_suppression(node: &Node) -> bool {
    let is_one = node.op_type.contains("NonMaxSuppression") || node.op_type.contains("NMS");
    is_one || subgraphs(node).any(|graph| graph.node.iter().any(is_suppression))
}

fn reads(node: &Node, names: &HashSet<&str>) -> bool {
    let by_itself = node.input.iter().any(|input| names.contains(input.as_str()));
    by_itself || subgraphs(node).any(|graph| graph.node.iter().any(|node| reads(node, names)))
}

#[cfg(test)]
mod tests;
