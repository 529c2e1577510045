//! Tests of the analysis on graphs in a short notation.
//!
//! Inputs and constants are `x:n,4` (a tensor of floats; the lengths are numbers or symbols) or `axes=[0]` and `k=3` (a vector
//! or a scalar of 64-bit integers). Nodes are `ReduceMax x -> peak axes=[0]; Sub x peak -> y`, where `_` is an absent input
//! and `domain::Operator` names another domain than ONNX's own. Attributes are integers, `[lists of integers]`,
//! or texts.

mod hostile;
mod randomness;
mod row_independence;
mod training_mode;

use super::{GraphFacts, RowAnalysis, analyse};
use crate::onnx::proto::{
    Attribute, Dimension, Graph, Length, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};

/// A model of operator set 17.
fn model(inputs: &str, nodes: &str, outputs: &str, constants: &str) -> Model {
    let opset_import =
        [("", 17), ("ai.onnx.ml", 3), ("com.microsoft", 1)].map(|(domain, version)| set(domain, version));
    let graph = Some(graph(inputs, nodes, outputs, constants));
    Model { ir_version: 8, graph, opset_import: opset_import.to_vec(), ..Model::default() }
}

fn set(domain: &str, version: i64) -> OperatorSet {
    OperatorSet { domain: domain.to_owned(), version }
}

fn graph(inputs: &str, nodes: &str, outputs: &str, constants: &str) -> Graph {
    Graph {
        node: nodes.split(';').map(str::trim).filter(|node| !node.is_empty()).map(node).collect(),
        initializer: constants.split_whitespace().map(constant).collect(),
        input: inputs.split_whitespace().map(value).collect(),
        output: outputs.split_whitespace().map(value).collect(),
        ..Graph::default()
    }
}

fn node(text: &str) -> Node {
    let (before, after) = text.split_once(" -> ").expect("an arrow");
    let mut words = before.split_whitespace();
    let kind = words.next().expect("an operator");
    let (domain, op_type) = kind.split_once("::").unwrap_or(("", kind));
    let name = |word: &str| word.trim_start_matches('_').to_owned();
    let (attributes, outputs): (Vec<&str>, Vec<&str>) = after.split_whitespace().partition(|word| word.contains('='));
    Node {
        input: words.map(name).collect(),
        output: outputs.into_iter().map(name).collect(),
        op_type: op_type.to_owned(),
        domain: domain.to_owned(),
        attribute: attributes.into_iter().map(attribute).collect(),
        ..Node::default()
    }
}

fn attribute(text: &str) -> Attribute {
    let (name, value) = text.split_once('=').expect("a value");
    let mut attribute = Attribute { name: name.to_owned(), ..Attribute::default() };
    if let Some(list) = value.strip_prefix('[') {
        attribute.ints = integers(list);
    } else if let Ok(number) = value.parse() {
        attribute.i = number;
    } else {
        attribute.s = value.to_owned().into();
    }
    attribute
}

fn integers(list: &str) -> Vec<i64> {
    let numbers = list.trim_matches(['[', ']']).split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().expect("an integer")).collect()
}

fn value(text: &str) -> ValueInfo {
    let (name, lengths) = text.split_once(':').unwrap_or((text, ""));
    let length = |text: &str| match text.parse() {
        Ok(number) => Length::Fixed(number),
        Err(_) => Length::Symbol(text.to_owned()),
    };
    let lengths = lengths.split(',').filter(|length| !length.is_empty());
    let dim = lengths.map(|text| Dimension { value: Some(length(text)) }).collect();
    let tensor_type = Some(TensorType { elem_type: 1, shape: Some(Shape { dim }) });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type, ..Type::default() }) }
}

fn constant(text: &str) -> Tensor {
    const FLOAT: i32 = 1;
    const INT64: i32 = 7;
    if let Some((name, value)) = text.split_once('=') {
        let int64_data = integers(value);
        let length = i64::try_from(int64_data.len()).expect("a short list");
        let dims = if value.starts_with('[') { vec![length] } else { Vec::new() };
        return Tensor { name: name.to_owned(), data_type: INT64, dims, int64_data, ..Tensor::default() };
    }
    let (name, lengths) = text.split_once(':').unwrap_or((text, ""));
    Tensor { name: name.to_owned(), data_type: FLOAT, dims: integers(lengths), ..Tensor::default() }
}

/// An attribute that holds a subgraph.
fn body(name: &str, graph: Graph) -> Attribute {
    Attribute { name: name.to_owned(), g: Some(graph), ..Attribute::default() }
}

/// Adds subgraphs to the node that computes this tensor.
fn with_bodies(mut model: Model, tensor: &str, bodies: Vec<Attribute>) -> Model {
    let nodes = &mut model.graph.as_mut().expect("a graph").node;
    let node = nodes.iter_mut().find(|node| node.output.iter().any(|output| output == tensor)).expect("a node");
    node.attribute.extend(bodies);
    model
}

fn rows(model: &Model) -> RowAnalysis {
    analyse(model).rows
}

fn facts(inputs: &str, nodes: &str, outputs: &str, constants: &str) -> GraphFacts {
    analyse(&model(inputs, nodes, outputs, constants))
}

/// Asserts that rows are independent from the inputs to `y`.
#[track_caller]
fn assert_independent(inputs: &str, nodes: &str, constants: &str) {
    assert_eq!(rows(&model(inputs, nodes, "y", constants)), RowAnalysis::Independent, "{nodes}");
}

#[track_caller]
fn assert_dependent(inputs: &str, nodes: &str, constants: &str, reason: &str) {
    assert_eq!(rows(&model(inputs, nodes, "y", constants)), RowAnalysis::Dependent(reason.to_owned()), "{nodes}");
}

#[track_caller]
fn assert_unknown(inputs: &str, nodes: &str, constants: &str) {
    let found = rows(&model(inputs, nodes, "y", constants));
    assert!(matches!(found, RowAnalysis::Unknown(_)), "{nodes}: {found:?}");
}
