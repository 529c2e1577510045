//! State of the interpreter: tensors in scope, functions that the model defines, and the limit on its work.

use std::collections::HashMap;

use super::symbolic_dims::SymbolTable;
use super::value::Value;
use crate::onnx::proto::{Attribute, Function, Model, Node, OperatorSet};

/// How many nodes are evaluated, plus inputs that they read. Nodes of a loop body count once for each round.
const MAX_NODE_READS: usize = 400_000;

/// State that is shared by all graphs of a model.
pub struct Interpreter<'g> {
    pub symbols: SymbolTable,
    pub(super) functions: HashMap<(&'g str, &'g str), &'g Function>,
    pub(super) reads_left: usize,
    pub(super) depth: usize,
}

/// The tensors that are visible in a graph.
pub struct Scope<'g, 's> {
    pub(super) outer: Option<&'s Scope<'g, 's>>,
    pub(super) values: HashMap<&'g str, Value<'g>>,
    pub(super) versions: &'g [OperatorSet],
    pub(super) frame: Option<&'s Frame<'g, 's>>,
}

/// Call frame of a function that the model defines. Nodes of the body can refer to attributes of the call.
pub struct Frame<'g, 's> {
    pub(super) caller: &'g Node,
    pub(super) function: &'g Function,
    pub(super) outer: Option<&'s Frame<'g, 's>>,
}

impl<'g> Frame<'g, '_> {
    fn attribute(&self, name: &str) -> Option<&'g Attribute> {
        let default = || self.function.attribute.iter().find(|attribute| attribute.name == name);
        resolve(self.caller.attribute(name), self.outer).or_else(default)
    }
}

/// The attribute, or the attribute of the enclosing call to which it refers.
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

    /// The version of an operator set; the newest if the model does not specify it.
    pub fn version(&self, domain: &str) -> i64 {
        let is_onnx = |domain: &str| domain.is_empty() || domain == "ai.onnx";
        let same = |set: &&OperatorSet| set.domain == domain || is_onnx(&set.domain) && is_onnx(domain);
        self.versions.iter().find(same).map_or(i64::MAX, |set| set.version)
    }

    pub const fn frame(&self) -> Option<&'s Frame<'g, 's>> {
        self.frame
    }
}

impl<'g> Interpreter<'g> {
    /// An interpreter for one model.
    pub fn new(model: &'g Model) -> Self {
        let key = |function: &'g Function| ((function.domain.as_str(), function.name.as_str()), function);
        let functions = model.functions.iter().map(key).collect();
        Self { symbols: SymbolTable::new(), functions, reads_left: MAX_NODE_READS, depth: 0 }
    }
}
