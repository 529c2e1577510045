//! Operators that draw random numbers, where what they draw reaches a served output.
//!
//! A fixed `seed` makes no difference: ONNX Runtime seeds a generator once for each session, so that every run draws
//! other numbers.

use std::collections::{HashMap, HashSet};

use super::rows::{reads, served, subgraphs, title};
use crate::onnx_file::{Function, Model, Node, OperatorSet, Tensor};

/// The first operator that draws random numbers, and why that matters.
pub fn find(model: &Model) -> Option<String> {
    let graph = model.graph.as_ref()?;
    let functions: HashMap<(&str, &str), &Function> =
        model.functions.iter().map(|function| ((function.domain.as_str(), function.name.as_str()), function)).collect();
    let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut search = Search { functions, seen: HashSet::new(), constants };
    search.in_nodes(&graph.node, served(graph), &model.opset_import)
}

struct Search<'g> {
    functions: HashMap<(&'g str, &'g str), &'g Function>,
    /// Functions whose bodies were searched.
    seen: HashSet<(&'g str, &'g str)>,
    constants: HashMap<&'g str, &'g Tensor>,
}

impl<'g> Search<'g> {
    /// Searches the nodes that these tensors need.
    fn in_nodes(&mut self, nodes: &'g [Node], tensors: Vec<&'g str>, versions: &'g [OperatorSet]) -> Option<String> {
        let mut producers: HashMap<&str, usize> = HashMap::new();
        for (place, node) in nodes.iter().enumerate() {
            producers
                .extend(node.output.iter().filter(|output| !output.is_empty()).map(|output| (output.as_str(), place)));
            if node.op_type == "Constant"
                && let Some(tensor) = node.attribute("value").and_then(|value| value.t.as_ref())
            {
                self.constants.extend(node.output.first().map(|output| (output.as_str(), tensor)));
            }
        }
        let mut found = vec![false; nodes.len()];
        let mut waiting = tensors;
        while let Some(tensor) = waiting.pop() {
            let Some(&place) = producers.get(tensor) else { continue };
            if std::mem::replace(&mut found[place], true) {
                continue;
            }
            // The shape of random numbers is not random.
            if !matches!(nodes[place].op_type.as_str(), "Shape" | "Size" | "EyeLike") {
                waiting.extend(reads(&nodes[place]));
            }
        }
        let needed = nodes.iter().zip(found).filter(|(_, found)| *found);
        needed.into_iter().find_map(|(node, _)| self.in_node(node, versions))
    }

    fn in_node(&mut self, node: &'g Node, versions: &'g [OperatorSet]) -> Option<String> {
        let key = (node.domain.as_str(), node.op_type.as_str());
        if let Some(&function) = self.functions.get(&key) {
            let outputs = function.output.iter().map(String::as_str).collect();
            return self.seen.insert(key).then(|| self.in_nodes(&function.node, outputs, &function.opset_import))?;
        }
        if self.draws(node, versions) {
            return Some(format!("{} {:?} draws random numbers", node.op_type, title(node)));
        }
        subgraphs(node).find_map(|graph| {
            self.constants.extend(graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)));
            let outputs = graph.output.iter().map(|output| output.name.as_str()).collect();
            self.in_nodes(&graph.node, outputs, versions)
        })
    }

    fn draws(&self, node: &Node, versions: &[OperatorSet]) -> bool {
        match (node.domain.as_str(), node.op_type.as_str()) {
            (
                "" | "ai.onnx",
                "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike" | "Bernoulli"
                | "Multinomial",
            )
            | ("com.microsoft", "Sampling") => true,
            ("" | "ai.onnx", "Dropout") => self.drops(node, versions),
            ("com.microsoft", "BiasDropout" | "BitmaskDropout" | "BitmaskBiasDropout") => self.trains(node, 4),
            _ => false,
        }
    }

    /// `Dropout` in training: an input since version 12, an attribute before version 7.
    fn drops(&self, node: &Node, versions: &[OperatorSet]) -> bool {
        let is_onnx = |set: &&OperatorSet| matches!(set.domain.as_str(), "" | "ai.onnx");
        match versions.iter().find(is_onnx).map_or(i64::MAX, |set| set.version) {
            12.. => self.trains(node, 2) && !self.is_zero(node, 1),
            7.. => false,
            _ => node.attribute("is_test").is_none_or(|is_test| is_test.i == 0),
        }
    }

    /// An input that is not known to be false.
    fn trains(&self, node: &Node, input: usize) -> bool {
        let Some(name) = node.input.get(input).filter(|name| !name.is_empty()) else { return false };
        let Some(tensor) = self.constants.get(name.as_str()) else { return true };
        tensor.raw_data.iter().any(|&byte| byte != 0) || tensor.int32_data.iter().any(|&value| value != 0)
    }

    /// A ratio of which nothing is dropped.
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
