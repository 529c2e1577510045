//! Tasks of outputs, derived from the last operators of a graph.
//!
//! Only what the graph plainly shows is derived: a final `Softmax` over classes, a final `Sigmoid`, the classifiers and
//! regressors of `ai.onnx.ml`, scikit-learn's pair of label and probabilities, and what comes after `NonMaxSuppression`. An
//! output of which nothing is shown has no task, so that its values are never taken for classes.

mod forest;
mod trace;

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use open_inference::{Activation, Task};

use super::DerivedTask;
use crate::onnx_file::{Graph, Model, Node};
use trace::{Source, Trace};

/// Longer lists of class names are left out.
const MAX_LABELS: usize = 100_000;

/// Names that exporters of scikit-learn and of gradient boosting give to probabilities and labels.
const PROBABILITIES: [&str; 3] = ["probabilities", "output_probability", "probability_tensor"];
const LABELS: [&str; 2] = ["label", "output_label"];

/// `TensorProto.DataType`.
const INT64: i32 = 7;
const STRING: i32 = 8;
const FLOATS: [i32; 4] = [1, 10, 11, 16];

/// What outputs are, by name; those of which nothing is known are absent.
pub fn derive(model: &Model) -> BTreeMap<String, DerivedTask> {
    let Some(graph) = &model.graph else { return BTreeMap::new() };
    let trace = Trace::new(model, graph);
    let suppressed = after_suppression(model, graph);
    let derived = |name: &String| match suppressed.contains(name.as_str()) {
        true => Some(DerivedTask::new(Task::Detection, None)),
        false if !FLOATS.contains(&trace.datatype(name)) => None,
        false => of_output(&trace, name).or_else(|| named_pair(&trace, graph, name)),
    };
    graph.output.iter().filter_map(|output| Some((output.name.clone(), derived(&output.name)?))).collect()
}

fn of_output(trace: &Trace<'_>, name: &str) -> Option<DerivedTask> {
    let source = trace.source(name)?;
    let probability = Some(Activation::None);
    match (source.node.domain.as_str(), source.node.op_type.as_str()) {
        ("" | "ai.onnx", "Softmax") => Some(DerivedTask::new(softmax(trace, name, &source), probability)),
        ("" | "ai.onnx", "LogSoftmax") => {
            let task = softmax(trace, name, &source);
            (task != Task::None).then(|| DerivedTask::new(task, None))
        }
        ("" | "ai.onnx", "Sigmoid") => Some(DerivedTask::new(sigmoid(trace, name, &source), probability)),
        ("ai.onnx.ml", _) => ml(trace, name, &source),
        _ => None,
    }
}

/// Classification, where the classes are the axis that the operator normalises; of maps and sequences, nothing is claimed.
fn softmax(trace: &Trace<'_>, name: &str, source: &Source<'_>) -> Task {
    let classes = || {
        let output = list(trace.shape(name)?)?;
        let shape = if source.reshaped { trace.shape(source.value)? } else { trace.shape(name)? };
        let place = list(shape)?;
        let is_kept = output.length == place.length;
        let normalised = trace.normalised_axes(source.node, shape.len())?;
        let rows_apart = shape.len() == 1 || shape[0] == Some(1) || !normalised.contains(&0);
        (is_kept && normalised.contains(&place.axis) && rows_apart && place.length != Some(1)).then_some(())
    };
    if classes().is_some() { Task::Classification } else { Task::None }
}

/// Two classes for one value a row, any number for several. Values of an open number may be pixels.
fn sigmoid(trace: &Trace<'_>, name: &str, source: &Source<'_>) -> Task {
    let place = || {
        let output = list(trace.shape(name)?)?;
        let shape = if source.reshaped { trace.shape(source.value)? } else { trace.shape(name)? };
        list(shape).filter(|place| place.length == output.length)
    };
    match place().and_then(|place| place.length) {
        Some(1) => Task::Classification,
        Some(classes) if classes > 1 => Task::MultiLabel,
        _ => Task::None,
    }
}

/// The classes of a row.
struct List {
    axis: usize,
    /// `None` where it is open.
    length: Option<i64>,
}

/// The axis of the classes, where a row is a list of them: every axis but the first and that one has length 1. Of a tensor with
/// one open axis each value is a row.
fn list(shape: &[Option<i64>]) -> Option<List> {
    match shape {
        [] | [None] => Some(List { axis: 0, length: Some(1) }),
        // Rows of a fixed batch, or classes of the only row.
        [Some(length)] => (*length == 1).then_some(List { axis: 0, length: Some(1) }),
        [_, row @ ..] => {
            let mut long = row.iter().enumerate().filter(|(_, length)| **length != Some(1));
            match (long.next(), long.next()) {
                (None, _) => Some(List { axis: 1, length: Some(1) }),
                (Some((axis, length)), None) => Some(List { axis: axis + 1, length: *length }),
                _ => None,
            }
        }
    }
}

/// A classifier's second output holds its scores; its first, the label, is no score.
fn ml(trace: &Trace<'_>, name: &str, source: &Source<'_>) -> Option<DerivedTask> {
    let Source { node, output, .. } = *source;
    let is_one_class = node.attribute("one_class").is_some_and(|attribute| attribute.i != 0);
    match (node.op_type.as_str(), output) {
        ("TreeEnsembleRegressor" | "LinearRegressor", 0) => Some(DerivedTask::new(Task::Regression, None)),
        ("SVMRegressor", 0) if !is_one_class => Some(DerivedTask::new(Task::Regression, None)),
        ("TreeEnsembleClassifier" | "LinearClassifier" | "SVMClassifier", 1) => {
            let is_probability = gives_probabilities(node) && !source.rescaled;
            let mut task = DerivedTask::new(Task::Classification, is_probability.then_some(Activation::None));
            task.labels = class_names(node);
            let classes = trace.shape(name).and_then(|shape| shape.last().copied().flatten());
            if classes.is_some_and(|classes| usize::try_from(classes) != Ok(task.labels.len())) {
                task.labels.clear();
            }
            Some(task)
        }
        _ => None,
    }
}

fn gives_probabilities(node: &Node) -> bool {
    let transform = node.attribute("post_transform").map_or(&b"NONE"[..], |attribute| &attribute.s[..]);
    match (node.op_type.as_str(), transform) {
        (_, b"LOGISTIC" | b"SOFTMAX") => true,
        ("SVMClassifier", b"NONE") => node.attribute("prob_a").is_some_and(|attribute| !attribute.floats.is_empty()),
        ("TreeEnsembleClassifier", b"NONE") => forest::averages_probabilities(node),
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

/// scikit-learn's pair, where the probabilities come from ordinary operators: known by both names. Whether the values are
/// probabilities is not shown, as exporters give raw scores the same name.
fn named_pair(trace: &Trace<'_>, graph: &Graph, name: &str) -> Option<DerivedTask> {
    let is_label = |other: &str| LABELS.contains(&other) && matches!(trace.datatype(other), INT64 | STRING);
    let has_label = graph.output.iter().any(|output| is_label(&output.name));
    let is_list = trace.shape(name).is_none_or(|shape| shape.len() == 2);
    let is_pair = PROBABILITIES.contains(&name) && has_label && is_list;
    is_pair.then(|| DerivedTask::new(Task::Classification, None))
}

/// Values that depend on what a suppression of overlapping boxes has kept.
fn after_suppression<'a>(model: &'a Model, graph: &'a Graph) -> HashSet<&'a str> {
    let functions: HashSet<(&str, &str)> = model
        .functions
        .iter()
        .filter(|function| function.node.iter().any(suppresses))
        .map(|function| (function.domain.as_str(), function.name.as_str()))
        .collect();
    let mut after = HashSet::new();
    for node in &graph.node {
        let is_after = suppresses(node)
            || functions.contains(&(node.domain.as_str(), node.op_type.as_str()))
            || reads(node, &after);
        if is_after {
            after.extend(node.output.iter().map(String::as_str).filter(|name| !name.is_empty()));
        }
    }
    after
}

/// Whether a node is a suppression of boxes, or holds one in a subgraph. Names cover those of other runtimes.
fn suppresses(node: &Node) -> bool {
    let is_one = node.op_type.contains("NonMaxSuppression") || node.op_type.contains("NMS");
    is_one || subgraphs(node).any(|graph| graph.node.iter().any(suppresses))
}

fn reads(node: &Node, names: &HashSet<&str>) -> bool {
    let by_itself = node.input.iter().any(|input| names.contains(input.as_str()));
    by_itself || subgraphs(node).any(|graph| graph.node.iter().any(|node| reads(node, names)))
}

fn subgraphs(node: &Node) -> impl Iterator<Item = &Graph> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

#[cfg(test)]
mod tests;
