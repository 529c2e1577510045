//! Randomness analysis: finds operators that draw random numbers which reach a served output.
//!
//! A fixed `seed` makes no difference: ONNX Runtime seeds a generator once per session, so every run draws other numbers.

use std::collections::{HashMap, HashSet};

use super::graph::{node_label, reads, served_outputs, subgraphs};
use crate::onnx::proto::{Function, Model, Node, OperatorSet, Tensor};

/// The first operator that draws random numbers, as a clause.
pub fn find_random_operator(model: &Model) -> Option<String> {
    let graph = model.graph.as_ref()?;
    let functions: HashMap<(&str, &str), &Function> =
        model.functions.iter().map(|function| ((function.domain.as_str(), function.name.as_str()), function)).collect();
    let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut search = Search { functions, visited: HashSet::new(), constants };
    search.search_nodes(&graph.node, served_outputs(graph), &model.opset_import)
}

struct Search<'g> {
    functions: HashMap<(&'g str, &'g str), &'g Function>,
    /// Functions whose bodies have been searched.
    visited: HashSet<(&'g str, &'g str)>,
    constants: HashMap<&'g str, &'g Tensor>,
}

impl<'g> Search<'g> {
    /// Searches the nodes that compute these tensors.
    fn search_nodes(
        &mut self,
        nodes: &'g [Node],
        tensors: Vec<&'g str>,
        versions: &'g [OperatorSet],
    ) -> Option<String> {
        let mut producers: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            producers
                .extend(node.output.iter().filter(|output| !output.is_empty()).map(|output| (output.as_str(), index)));
            if node.op_type == "Constant"
                && let Some(tensor) = node.attribute("value").and_then(|value| value.t.as_ref())
            {
                self.constants.extend(node.output.first().map(|output| (output.as_str(), tensor)));
            }
        }
        let mut is_needed = vec![false; nodes.len()];
        let mut pending = tensors;
        while let Some(tensor) = pending.pop() {
            let Some(&index) = producers.get(tensor) else { continue };
            if std::mem::replace(&mut is_needed[index], true) {
                continue;
            }
            // The shape of random numbers is not random.
            if !matches!(nodes[index].op_type.as_str(), "Shape" | "Size" | "EyeLike") {
                pending.extend(reads(&nodes[index]));
            }
        }
        let needed = nodes.iter().zip(is_needed).filter(|(_, is_needed)| *is_needed);
        needed.into_iter().find_map(|(node, _)| self.search_node(node, versions))
    }

    fn search_node(&mut self, node: &'g Node, versions: &'g [OperatorSet]) -> Option<String> {
        let key = (node.domain.as_str(), node.op_type.as_str());
        if let Some(&function) = self.functions.get(&key) {
            let outputs = function.output.iter().map(String::as_str).collect();
            return self
                .visited
                .insert(key)
                .then(|| self.search_nodes(&function.node, outputs, &function.opset_import))?;
        }
        if self.is_random(node, versions) {
            return Some(format!("{} {:?} draws random numbers", node.op_type, node_label(node)));
        }
        subgraphs(node).find_map(|graph| {
            self.constants.extend(graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)));
            let outputs = graph.output.iter().map(|output| output.name.as_str()).collect();
            self.search_nodes(&graph.node, outputs, versions)
        })
    }

    fn is_random(&self, node: &Node, versions: &[OperatorSet]) -> bool {
        match (node.domain.as_str(), node.op_type.as_str()) {
            (
                "" | "ai.onnx",
                "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Bernoulli"
                | "Multinomial",
            )
            | ("com.microsoft", "Sampling") => true,
            ("" | "ai.onnx", "Dropout") => self.dropout_is_active(node, versions),
            ("com.microsoft", "BiasDropout" | "BitmaskDropout" | "BitmaskBiasDropout") => self.may_be_true(node, 4),
            _ => false,
        }
    }

    /// Whether `Dropout` is in training mode: an input since operator set 12, an attribute before operator set 7.
    fn dropout_is_active(&self, node: &Node, versions: &[OperatorSet]) -> bool {
        let is_onnx = |set: &&OperatorSet| matches!(set.domain.as_str(), "" | "ai.onnx");
        match versions.iter().find(is_onnx).map_or(i64::MAX, |set| set.version) {
            12.. => self.may_be_true(node, 2) && !self.is_zero(node, 1),
            7.. => false,
            _ => node.attribute("is_test").is_none_or(|is_test| is_test.i == 0),
        }
    }

    /// Whether a Boolean input may be true: it is not constant, or it is a constant that is true.
    fn may_be_true(&self, node: &Node, input: usize) -> bool {
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return false };
        let Some(tensor) = self.constants.get(name.as_str()) else { return true };
        tensor.raw_data.iter().any(|&byte| byte != 0) || tensor.int32_data.iter().any(|&value| value != 0)
    }

    /// Whether an input is a constant zero, such as a dropout ratio that drops nothing.
    fn is_zero(&self, node: &Node, input: usize) -> bool {
        let tensor = node.input.get(input).and_then(|name| self.constants.get(name.as_str()));
        tensor.is_some_and(|tensor| {
            let has_values = tensor.raw_data.len() + tensor.float_data.len() > 0;
            has_values
                && tensor.raw_data.iter().all(|&byte| byte == 0)
                && tensor.float_data.iter().all(|&value| value == 0.0)
        })
    }
}
