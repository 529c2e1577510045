//! Training-mode analysis: finds `BatchNormalization` in training mode, which changes the model at every run.
//!
//! ONNX Runtime updates the running mean and variance in place, in the initializers. The node itself does not read them, since
//! training mode uses the statistics of the batch. Any other use of the same initializer does.
//!
//! Such uses also arise inside ONNX Runtime: its optimiser `ConstantSharing` merges initializers of equal values, for example a
//! bias of zeros and a mean of zeros.

use std::collections::HashSet;

use super::graph::subgraphs;
use crate::onnx::proto::{Model, Node};

/// Input indices of the running mean and variance.
const RUNNING_STATISTICS_INPUTS: [usize; 2] = [3, 4];

/// Whether any node is in training mode, including nodes of subgraphs and functions.
pub fn is_used(model: &Model) -> bool {
    all_nodes(model).into_iter().any(is_training)
}

/// The initializer that a node in training mode overwrites and that another input reads. Runs of such a model change its
/// results.
pub fn overwritten_initializer(model: &Model) -> Option<String> {
    let nodes = all_nodes(model);
    let (mut written, mut read) = (HashSet::new(), HashSet::new());
    for &node in &nodes {
        for (index, name) in node.input.iter().enumerate() {
            let names =
                if is_training(node) && RUNNING_STATISTICS_INPUTS.contains(&index) { &mut written } else { &mut read };
            names.insert(name.as_str());
        }
    }
    let graph = model.graph.as_ref()?;
    read.extend(graph.output.iter().map(|output| output.name.as_str()));
    let constants = graph.initializer.iter().map(|tensor| tensor.name.as_str());
    constants.into_iter().find(|name| written.contains(name) && read.contains(name)).map(str::to_owned)
}

/// Before operator set 14, a node with several outputs is in training mode.
fn is_training(node: &Node) -> bool {
    let outputs = node.output.iter().filter(|output| !output.is_empty()).count();
    let is_set = node.attribute("training_mode").is_some_and(|mode| mode.i != 0);
    node.op_type == "BatchNormalization" && matches!(node.domain.as_str(), "" | "ai.onnx") && (is_set || outputs > 1)
}

fn all_nodes(model: &Model) -> Vec<&Node> {
    let mut all: Vec<&Node> = model.functions.iter().flat_map(|function| &function.node).collect();
    all.extend(model.graph.iter().flat_map(|graph| &graph.node));
    let mut next = 0;
    while let Some(&node) = all.get(next) {
        all.extend(subgraphs(node).flat_map(|graph| &graph.node));
        next += 1;
    }
    all
}
