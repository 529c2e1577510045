use std::collections::{HashMap, HashSet};

use crate::onnx::proto::Node;

/// Relative rounding error of a sum of `f32` weights.
const TOLERANCE: f32 = 1e-3;

/// Whether a `TreeEnsembleClassifier` without `post_transform` averages probabilities, as a random forest does.
///
/// The weights of each leaf then add up to the share of its tree. If only one class has weights, ONNX Runtime gives the remainder
/// to the other class.
pub(super) fn averages_probabilities(node: &Node) -> bool {
    let ints = |name: &str| node.attribute(name).map_or(&[][..], |attribute| &attribute.ints[..]);
    let (trees, leaves, classes) = (ints("class_treeids"), ints("class_nodeids"), ints("class_ids"));
    let weights = node.attribute("class_weights").map_or(&[][..], |attribute| &attribute.floats[..]);
    let is_complete = [trees.len(), leaves.len(), classes.len()].iter().all(|&length| length == weights.len());
    let has_base = node.attribute("base_values").is_some_and(|attribute| !attribute.floats.is_empty());
    if !is_complete || weights.is_empty() || has_base || weights.iter().any(|&weight| weight < 0.0) {
        return false;
    }
    let share = 1.0 / trees.iter().collect::<HashSet<_>>().len() as f32;
    let tolerance = share * TOLERANCE;
    if classes.iter().all(|class| *class == classes[0]) {
        return weights.iter().all(|&weight| weight <= share + tolerance);
    }
    let mut sums = HashMap::<(i64, i64), f32>::new();
    for ((&tree, &leaf), &weight) in trees.iter().zip(leaves).zip(weights) {
        *sums.entry((tree, leaf)).or_default() += weight;
    }
    sums.values().all(|sum| (sum - share).abs() <= tolerance)
}
