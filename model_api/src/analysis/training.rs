//! `BatchNormalization` in training mode, which ONNX Runtime runs in a way that changes the model.
//!
//! It updates the running mean and variance in place, in the initializers. Results do not depend on these, as training mode uses
//! the statistics of the batch. They do depend on any other use of the same initializer. Such uses also arise inside ONNX
//! Runtime, whose optimiser `ConstantSharing` merges initializers of equal values: a bias of zeros and a mean of zeros.

use std::collections::HashSet;

use super::rows::subgraphs;
use crate::onnx_file::{Model, Node};

/// The places of the running mean and variance among the inputs.
const RUNNING: [usize; 2] = [3, 4];

/// Whether any node, also of subgraphs and functions, updates running statistics.
pub fn is_in(model: &Model) -> bool {
    nodes(model).into_iter().any(trains)
}

/// The initializer that such a node overwrites and that is used for something else; runs of this model change its results.
pub fn overwritten(model: &Model) -> Option<String> {
    let nodes = nodes(model);
    let (mut written, mut read) = (HashSet::new(), HashSet::new());
    for &node in &nodes {
        for (place, name) in node.input.iter().enumerate() {
            let names = if trains(node) && RUNNING.contains(&place) { &mut written } else { &mut read };
            names.insert(name.as_str());
        }
    }
    let graph = model.graph.as_ref()?;
    read.extend(graph.output.iter().map(|output| output.name.as_str()));
    let constants = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    constants.into_iter().find(|name| written.contains(name) && read.contains(name)).map(str::to_owned)
}

/// Before operator set 14 a node of several outputs is in training mode.
fn trains(node: &Node) -> bool {
    let outputs = node.output.iter().filter(|output| !output.is_empty()).count();
    let is_set = node.attribute("training_mode").is_some_and(|mode| mode.i != 0);
    node.op_type == "BatchNormalization" && matches!(node.domain.as_str(), "" | "ai.onnx") && (is_set || outputs > 1)
}

fn nodes(model: &Model) -> Vec<&Node> {
    let mut all: Vec<&Node> = model.functions.iter().flat_map(|function| &function.node).collect();
    all.extend(model.graph.iter().flat_map(|graph| &graph.node));
    let mut next = 0;
    while let Some(&node) = all.get(next) {
        all.extend(subgraphs(node).flat_map(|graph| &graph.node));
        next += 1;
    }
    all
}
