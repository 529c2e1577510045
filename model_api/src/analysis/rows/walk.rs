//! Abstract interpretation of a graph: evaluates its nodes in topological order on [`Value`]s instead of tensors, with the
//! bodies of control flow operators and of functions that the model defines itself.

use std::collections::HashMap;

use super::call::Call;
use super::operators;
use super::order;
use super::symbols::Symbols;
use super::value::{Reason, Rows, Value};
use crate::onnx_file::{Attribute, Function, Graph, Model, Node, OperatorSet};

/// How many nodes are evaluated, and inputs of them read: those of a loop's body each time that it is gone through.
const MAX_READS: usize = 400_000;

/// How deep calls of functions and subgraphs are nested.
const MAX_DEPTH: usize = 24;

/// What is the same everywhere in a model.
pub struct Walk<'g> {
    pub symbols: Symbols,
    functions: HashMap<(&'g str, &'g str), &'g Function>,
    reads_left: usize,
    depth: usize,
}

/// The tensors that can be read in a graph.
pub struct Scope<'g, 's> {
    outer: Option<&'s Scope<'g, 's>>,
    values: HashMap<&'g str, Value<'g>>,
    versions: &'g [OperatorSet],
    frame: Option<&'s Frame<'g, 's>>,
}

/// A call of a function that the model defines, whose attributes its body's nodes may take.
pub struct Frame<'g, 's> {
    caller: &'g Node,
    function: &'g Function,
    outer: Option<&'s Frame<'g, 's>>,
}

impl<'g> Frame<'g, '_> {
    fn attribute(&self, name: &str) -> Option<&'g Attribute> {
        let default = || self.function.attribute.iter().find(|attribute| attribute.name == name);
        resolve(self.caller.attribute(name), self.outer).or_else(default)
    }
}

/// An attribute, or that of the enclosing function's call to which it refers.
pub fn resolve<'g>(attribute: Option<&'g Attribute>, frame: Option<&Frame<'g, '_>>) -> Option<&'g Attribute> {
    match attribute {
        Some(attribute) if !attribute.ref_attr_name.is_empty() => frame?.attribute(&attribute.ref_attr_name),
        attribute => attribute,
    }
}

impl<'g, 's> Scope<'g, 's> {
    pub fn find(&self, tensor: &str) -> Option<&Value<'g>> {
        self.values.get(tensor).or_else(|| self.outer.and_then(|outer| outer.find(tensor)))
    }

    /// The version of an operator set; the newest if the model does not name it.
    pub fn version(&self, domain: &str) -> i64 {
        let is_onnx = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let same = |set: &&OperatorSet| set.domain == domain || is_onnx(&set.domain) && is_onnx(domain);
        self.versions.iter().find(same).map_or(i64::MAX, |set| set.version)
    }

    pub const fn frame(&self) -> Option<&'s Frame<'g, 's>> {
        self.frame
    }
}

impl<'g> Walk<'g> {
    pub fn new(model: &'g Model) -> Self {
        let key = |function: &'g Function| ((function.domain.as_str(), function.name.as_str()), function);
        let functions = model.functions.iter().map(key).collect();
        Self { symbols: Symbols::new(), functions, reads_left: MAX_READS, depth: 0 }
    }

    /// Evaluates a graph; gives the values of these tensors.
    pub fn graph(
        &mut self,
        graph: &'g Graph,
        inputs: HashMap<&'g str, Value<'g>>,
        outputs: &[&'g str],
        versions: &'g [OperatorSet],
    ) -> Vec<Value<'g>> {
        let scope = Scope { outer: None, values: inputs, versions, frame: None };
        self.in_scope(graph, scope, outputs)
    }

    /// Evaluates the body of a control flow operator on its inputs, in order.
    pub fn body(&mut self, graph: &'g Graph, inputs: Vec<Value<'g>>, outer: &Scope<'g, '_>) -> Vec<Value<'g>> {
        let names = graph.input.iter().map(|input| input.name.as_str());
        let values = names.zip(inputs).collect();
        let scope = Scope { outer: Some(outer), values, versions: outer.versions, frame: outer.frame };
        let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
        self.in_scope(graph, scope, &outputs)
    }

    fn in_scope(&mut self, graph: &'g Graph, mut scope: Scope<'g, '_>, outputs: &[&'g str]) -> Vec<Value<'g>> {
        for tensor in &graph.initializer {
            scope.values.entry(&tensor.name).or_insert_with(|| Value::constant(tensor));
        }
        for sparse in &graph.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
            scope.values.entry(name).or_insert_with(|| Value::new(Rows::Free, None));
        }
        self.nodes(&graph.node, scope, outputs)
    }

    fn nodes(&mut self, nodes: &'g [Node], mut scope: Scope<'g, '_>, outputs: &[&'g str]) -> Vec<Value<'g>> {
        let all_unknown = |reason: &str| vec![Value::unknown(reason.into()); outputs.len()];
        if self.depth >= MAX_DEPTH {
            return all_unknown("graphs are nested too deep to be followed");
        }
        let Some(order) = order::needed(nodes, outputs.iter().copied()) else {
            return all_unknown("the nodes of the graph form a cycle");
        };
        let reads: usize = order.iter().map(|node| 1 + node.input.len()).sum();
        let Some(left) = self.reads_left.checked_sub(reads) else {
            return all_unknown("the graph has too many nodes to be followed");
        };
        self.reads_left = left;
        self.depth += 1;
        for node in order {
            let values = self.node(node, &scope);
            let named = node.output.iter().zip(values).filter(|(name, _)| !name.is_empty());
            scope.values.extend(named.map(|(name, value)| (name.as_str(), value)));
        }
        self.depth -= 1;
        let missing = |name: &str| Value::unknown(format!("nothing computes the tensor {name:?}").into());
        outputs.iter().map(|&name| scope.find(name).cloned().unwrap_or_else(|| missing(name))).collect()
    }

    /// One value for each output of the node.
    fn node(&mut self, node: &'g Node, scope: &Scope<'g, '_>) -> Vec<Value<'g>> {
        let mut inputs = Vec::with_capacity(node.input.len());
        for name in &node.input {
            let value = scope.find(name).cloned();
            if value.is_none() && !name.is_empty() {
                return vec![Value::unknown(missing(name)); node.output.len()];
            }
            inputs.push(value);
        }
        let mut values = match self.functions.get(&(node.domain.as_str(), node.op_type.as_str())) {
            Some(&function) => self.function(node, function, inputs, scope),
            None => operators::evaluate(&mut Call { node, inputs, scope, walk: self }),
        };
        for value in &mut values {
            self.check(value, node);
        }
        let absent = || Value::unknown(format!("{} has no such output", node.op_type).into());
        values.resize_with(node.output.len(), absent);
        values
    }

    fn function(
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
        self.nodes(&function.node, inner, &outputs)
    }

    /// A batch axis is as long as its place says, and no other axis changes with the number of rows: what does not follow
    /// this was not followed correctly.
    fn check(&self, value: &mut Value<'g>, node: &Node) {
        let Some(place) = value.place() else { return };
        let is_right = value.shape.as_ref().is_some_and(|shape| {
            let others = shape.iter().enumerate().filter(|&(axis, _)| axis != place.axis);
            shape.get(place.axis).cloned() == place.length()
                && !others.into_iter().any(|(_, dim)| self.symbols.counts_rows(dim))
        });
        if !is_right {
            let reason = format!("{} {:?} gives a shape that was not followed", node.op_type, title(node));
            *value = Value::unknown(reason.into());
        }
    }
}

fn missing(name: &str) -> Reason {
    format!("nothing computes the tensor {name:?}").into()
}

/// The node's name, or that of its first output.
pub fn title(node: &Node) -> &str {
    match node.name.as_str() {
        "" => node.output.iter().find(|output| !output.is_empty()).map_or("", String::as_str),
        name => name,
    }
}
