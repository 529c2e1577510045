//! Graph traversal: topological order, subgraphs, served outputs.

use std::collections::{HashMap, HashSet};

use crate::onnx::proto::{Graph, Node, ValueInfo};

/// The nodes that these tensors need, each after the nodes whose outputs it reads. `None` if there is a cycle.
///
/// It is iterative, because a long chain of nodes would overflow the stack.
pub fn topological_order<'g>(nodes: &'g [Node], tensors: impl IntoIterator<Item = &'g str>) -> Option<Vec<&'g Node>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut producers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            producers.entry(output.as_str()).or_insert(index);
        }
    }
    let mut states = vec![State::New; nodes.len()];
    let mut order = Vec::new();
    let mut stack: Vec<usize> = tensors.into_iter().filter_map(|tensor| producers.get(tensor).copied()).collect();
    while let Some(&index) = stack.last() {
        let node = &nodes[index];
        if states[index] != State::New {
            stack.pop();
            if states[index] == State::Open {
                states[index] = State::Done;
                order.push(node);
            }
            continue;
        }
        states[index] = State::Open;
        for tensor in reads(node) {
            match producers.get(tensor) {
                Some(&other) if states[other] == State::Open => return None,
                Some(&other) if states[other] == State::New => stack.push(other),
                _ => {}
            }
        }
    }
    Some(order)
}

/// The tensors that a node reads, including those that its subgraphs capture.
pub fn reads(node: &Node) -> Vec<&str> {
    let mut tensors: Vec<&str> = node.input.iter().map(String::as_str).collect();
    for graph in subgraphs(node) {
        tensors.extend(captured(graph));
    }
    tensors.retain(|tensor| !tensor.is_empty());
    tensors
}

/// The subgraphs of a node.
pub fn subgraphs(node: &Node) -> impl Iterator<Item = &Graph> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// The tensors that a subgraph captures from outside. The recursion is bounded, since decoding limits the nesting depth.
fn captured(graph: &Graph) -> Vec<&str> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let constants = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let computed = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let own: HashSet<&str> = inputs.chain(constants).chain(computed).collect();
    let read = graph.node.iter().flat_map(reads);
    let all = read.chain(graph.output.iter().map(|output| output.name.as_str()));
    all.filter(|tensor| !own.contains(tensor)).collect()
}

/// The outputs that are served: tensors of a supported datatype.
pub fn served_outputs(graph: &Graph) -> Vec<&str> {
    // `TensorProto.DataType` from FLOAT to BFLOAT16 without complex numbers; 0 if the file does not specify it.
    let is_served = |datatype: i32| matches!(datatype, 0..=13 | 16);
    let is_tensor = |output: &&ValueInfo| match &output.r#type {
        Some(kind) => kind.tensor_type.as_ref().is_some_and(|tensor| is_served(tensor.elem_type)),
        None => true,
    };
    graph.output.iter().filter(is_tensor).map(|output| output.name.as_str()).collect()
}

/// The node's name, or the name of its first output.
pub fn node_label(node: &Node) -> &str {
    match node.name.as_str() {
        "" => node.output.iter().find(|output| !output.is_empty()).map_or("", String::as_str),
        name => name,
    }
}
