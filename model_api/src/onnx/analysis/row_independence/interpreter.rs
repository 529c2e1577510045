//! Abstract interpreter: evaluates the nodes of a graph in topological order on [`Value`]s instead of tensors.
//!
//! It also evaluates the bodies of control flow operators and of functions that the model defines.

use std::collections::HashMap;

use super::node_context::NodeContext;
use super::operators;
use super::scope::{Frame, Interpreter, Scope};
use super::value::{BatchDependence, Reason, Value};
use crate::onnx::analysis::graph::{node_label, topological_order};
use crate::onnx::proto::{Function, Graph, Node, OperatorSet};

/// How deep calls of functions and subgraphs may be nested.
const MAX_DEPTH: usize = 24;

impl<'g> Interpreter<'g> {
    /// Evaluates a graph and returns the values of these tensors.
    pub fn run_graph(
        &mut self,
        graph: &'g Graph,
        inputs: HashMap<&'g str, Value<'g>>,
        outputs: &[&'g str],
        versions: &'g [OperatorSet],
    ) -> Vec<Value<'g>> {
        let scope = Scope { outer: None, values: inputs, versions, frame: None };
        self.run_in_scope(graph, scope, outputs)
    }

    /// Evaluates the body of a control flow operator on its inputs, in order.
    pub fn run_body(&mut self, graph: &'g Graph, inputs: Vec<Value<'g>>, outer: &Scope<'g, '_>) -> Vec<Value<'g>> {
        let names = graph.input.iter().map(|input| input.name.as_str());
        let values = names.zip(inputs).collect();
        let scope = Scope { outer: Some(outer), values, versions: outer.versions, frame: outer.frame };
        let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        self.run_in_scope(graph, scope, &outputs)
    }

    fn run_in_scope(&mut self, graph: &'g Graph, mut scope: Scope<'g, '_>, outputs: &[&'g str]) -> Vec<Value<'g>> {
        for tensor in &graph.initializer {
            scope.values.entry(&tensor.name).or_insert_with(|| Value::constant(tensor));
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
            scope.values.entry(name).or_insert_with(|| Value::new(BatchDependence::Invariant, None));
        }
        self.run_nodes(&graph.node, scope, outputs)
    }

    fn run_nodes(&mut self, nodes: &'g [Node], mut scope: Scope<'g, '_>, outputs: &[&'g str]) -> Vec<Value<'g>> {
        let all_unknown = |reason: &str| vec![Value::unknown(reason.into()); outputs.len()];
        if self.depth >= MAX_DEPTH {
            return all_unknown("graphs are nested too deeply to be traced");
        }
        let Some(order) = topological_order(nodes, outputs.iter().copied()) else {
            return all_unknown("the nodes of the graph form a cycle");
        };
        let reads: usize = order.iter().map(|node| 1 + node.input.len()).sum();
        let Some(left) = self.reads_left.checked_sub(reads) else {
            return all_unknown("the graph has too many nodes to be traced");
        };
        self.reads_left = left;
        self.depth += 1;
        for node in order {
            let values = self.evaluate_node(node, &scope);
            let named = node.output.iter().zip(values).filter(|(name, _)| !name.is_empty());
            scope.values.extend(named.map(|(name, value)| (name.as_str(), value)));
        }
        self.depth -= 1;
        outputs.iter().map(|&name| scope.find(name).cloned().unwrap_or_else(|| Value::unknown(missing(name)))).collect()
    }

    /// One value for each output of the node.
    fn evaluate_node(&mut self, node: &'g Node, scope: &Scope<'g, '_>) -> Vec<Value<'g>> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            let value = scope.find(name).cloned();
            if value.is_none() && !name.is_empty() {
                return vec![Value::unknown(missing(name)); node.output.len()];
            }
            inputs.push(value);
        }
        let mut values = match self.functions.get(&(node.domain.as_str(), node.op_type.as_str())) {
            Some(&function) => self.call_function(node, function, inputs, scope),
            None => operators::evaluate(&mut NodeContext { node, inputs, scope, interpreter: self }),
        };
        for value in &mut values {
            self.check_shape(value, node);
        }
        let absent = || Value::unknown(format!("{} has no such output", node.op_type).into());
        values.resize_with(node.output.len(), absent);
        values
    }

    fn call_function(
        &mut self,
        node: &'g Node,
        function: &'g Function,
        inputs: Vec<Option<Value<'g>>>,
        scope: &Scope<'g, '_>,
    ) -> Vec<Value<'g>> {
        let frame = Frame { caller: node, function, outer: scope.frame };
        let given = function.input.iter().zip(inputs);
        let values = given.filter_map(|(name, value)| Some((name.as_str(), value?))).collect();
        let inner = Scope { outer: None, values, versions: &function.opset_import, frame: Some(&frame) };
        let outputs: Vec<&str> = function.output.iter().map(String::as_str).collect();
        self.run_nodes(&function.node, inner, &outputs)
    }

    /// Checks an invariant: the batch axis has the length that [`BatchAxis`](super::value::BatchAxis) states, and no other axis
    /// depends on the batch size. A value that violates it was traced incorrectly and becomes unknown.
    fn check_shape(&self, value: &mut Value<'g>, node: &Node) {
        let Some(batch_axis) = value.batch_axis() else { return };
        let is_right = value.shape.as_ref().is_some_and(|shape| {
            let others = shape.iter().enumerate().filter(|&(axis, _)| axis != batch_axis.axis);
            shape.get(batch_axis.axis).cloned() == batch_axis.length()
                && !others.into_iter().any(|(_, dim)| self.symbols.depends_on_batch_size(dim))
        });
        if !is_right {
            let reason = format!("{} {:?} returns a shape that was not traced", node.op_type, node_label(node));
            *value = Value::unknown(reason.into());
        }
    }
}

fn missing(name: &str) -> Reason {
    format!("no node computes the tensor {name:?}").into()
}
