//! Topological order of the nodes that a graph's outputs need, without recursion.

use std::collections::{HashMap, HashSet};

use crate::onnx_file::{Graph, Node};

/// The nodes that these tensors need, each after those it reads from; `None` if there is a cycle.
pub fn needed<'g>(nodes: &'g [Node], tensors: impl IntoIterator<Item = &'g str>) -> Option<Vec<&'g Node>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut producers = HashMap::new();
    for (place, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            producers.entry(output.as_str()).or_insert(place);
        }
    }
    let mut states = vec![State::New; nodes.len()];
    let mut order = Vec::new();
    let mut stack: Vec<usize> = tensors.into_iter().filter_map(|tensor| producers.get(tensor).copied()).collect();
    while let Some(&place) = stack.last() {
        let node = &nodes[place];
        if states[place] != State::New {
            stack.pop();
            if states[place] == State::Open {
                states[place] = State::Done;
                order.push(node);
            }
            continue;
        }
        states[place] = State::Open;
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

/// The tensors that a node reads, those that its subgraphs capture included.
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

/// The tensors that a subgraph reads from outside. Decoding bounds how deep graphs are nested.
fn captured(graph: &Graph) -> Vec<&str> {
    let inputs = graph.input.iter().map(|input| input.name.as_str());
    let constants = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    let computed = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let own: HashSet<&str> = inputs.chain(constants).chain(computed).collect();
    let read = graph.node.iter().flat_map(reads);
    let all = read.chain(graph.output.iter().map(|output| output.name.as_str()));
    all.filter(|tensor| !own.contains(tensor)).collect()
}
