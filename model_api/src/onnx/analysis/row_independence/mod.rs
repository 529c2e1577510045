//! Row independence analysis: traces the batch axis of a graph from its inputs to its served outputs.
//!
//! It is an abstract interpretation. A tensor is a [`value::Value`]: its dependence on the rows of the batch, and its shape in
//! terms of the batch size and other open lengths. Reading a shape therefore couples no rows. The number of rows matters
//! only where a length, or a result computed from it, is combined with other elements.
//!
//! Rows are independent only if that is proved for every operator on the way. Unsupported operators make a tensor unknown.
//! A tensor is coupled only if a supported operator combines rows, and it then stays coupled.

mod elements;
mod interpreter;
mod node_context;
mod operators;
mod scope;
mod symbolic_dims;
mod value;

use std::collections::HashMap;

use super::facts::RowAnalysis;
use super::graph::served_outputs;
use crate::onnx::proto::{Graph, Length, Model};
use scope::Interpreter;
use symbolic_dims::{Dim, SymbolTable};
use value::{BatchAxis, BatchDependence, MAX_AXES, Value};

/// Whether each row of the served outputs depends on the same row of the inputs alone.
pub fn analyse(model: &Model) -> RowAnalysis {
    let Some(graph) = &model.graph else { return RowAnalysis::Unknown("the file has no graph".to_owned()) };
    let mut interpreter = Interpreter::new(model);
    let inputs = match inputs(graph, &mut interpreter.symbols) {
        Ok(inputs) => inputs,
        Err(reason) => return RowAnalysis::Unknown(reason),
    };
    let outputs = served_outputs(graph);
    let values = interpreter.run_graph(graph, inputs, &outputs, &model.opset_import);
    let mut unknown = None;
    for (name, value) in outputs.iter().zip(values) {
        match verdict(name, value.dependence) {
            RowAnalysis::Independent => {}
            RowAnalysis::Dependent(reason) => return RowAnalysis::Dependent(reason),
            RowAnalysis::Unknown(reason) => unknown = unknown.or(Some(reason)),
        }
    }
    unknown.map_or(RowAnalysis::Independent, RowAnalysis::Unknown)
}

/// The inputs of a request, with the batch on the first axis. An input with a default counts as that constant, because a
/// request that overrides it never shares a batch.
fn inputs<'g>(graph: &'g Graph, symbols: &mut SymbolTable) -> Result<HashMap<&'g str, Value<'g>>, String> {
    let defaults: HashMap<&str, usize> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor.dims.len())).collect();
    let mut values = HashMap::new();
    for input in graph.input.iter().filter(|input| !defaults.contains_key(input.name.as_str())) {
        let shape =
            input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).and_then(|kind| kind.shape.as_ref());
        let dims = shape.map(|shape| &shape.dim[..]).unwrap_or_default();
        let is_open = |length: Option<&Length>| !matches!(length, Some(Length::Fixed(0..)));
        if dims.len() > MAX_AXES || !dims.first().is_some_and(|first| is_open(first.value.as_ref())) {
            return Err(format!("input {:?} has no open first axis", input.name));
        }
        let others = dims.iter().enumerate().skip(1).map(|(axis, dim)| match &dim.value {
            Some(Length::Fixed(length @ 0..)) => Dim::number(*length),
            Some(Length::Symbol(name)) if !name.is_empty() => symbols.named(name.clone()),
            _ => symbols.named(format!("axis {axis} of {:?}", input.name)),
        });
        let dims = std::iter::once(Dim::batch()).chain(others).collect();
        values.insert(input.name.as_str(), Value::new(BatchDependence::PerRow(BatchAxis::on(0)), Some(dims)));
    }
    Ok(values)
}

fn verdict(output: &str, dependence: BatchDependence) -> RowAnalysis {
    let dependent = |reason: &str| RowAnalysis::Dependent(reason.to_owned());
    match dependence {
        BatchDependence::PerRow(batch_axis) if batch_axis == BatchAxis::on(0) => RowAnalysis::Independent,
        BatchDependence::PerRow(batch_axis) if batch_axis.axis == 0 => {
            RowAnalysis::Dependent(format!("output {output:?} has several elements for each row on its first axis"))
        }
        BatchDependence::PerRow(batch_axis) => {
            RowAnalysis::Dependent(format!("output {output:?} holds the batch on axis {}", batch_axis.axis))
        }
        BatchDependence::Invariant => RowAnalysis::Dependent(format!("output {output:?} has no batch axis")),
        BatchDependence::BatchSize(reason)
        | BatchDependence::PerRowAndPosition(_, reason)
        | BatchDependence::Permuted(reason)
        | BatchDependence::Selected(reason)
        | BatchDependence::Coupled(reason) => dependent(&reason),
        BatchDependence::Unknown(reason) => RowAnalysis::Unknown(reason.to_string()),
    }
}
