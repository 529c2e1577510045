//! Dependence analysis: follows the batch axis of a graph from its inputs to its served outputs.
//!
//! Each tensor is a [`value::Value`]: how it depends on the rows of the batch, and its shape in terms of the batch length
//! and other open lengths. `Shape` therefore couples nothing: only where a length, or what was computed from it, is
//! combined with other elements does the number of rows matter.
//!
//! A row is independent only if that is proved for every operator on the way. Operators that are not known leave a
//! tensor unknown. A tensor is coupled only if an operator that is known combines rows, and then it stays so.

mod call;
mod elements;
mod operators;
mod order;
mod symbols;
mod value;
mod walk;

use std::collections::HashMap;

use super::RowAnalysis;
use crate::onnx_file::{Graph, Length, Model, ValueInfo};
pub use order::{reads, subgraphs};
use symbols::{Dim, Symbols};
use value::{MAX_AXES, Place, Rows, Value};
use walk::Walk;
pub use walk::title;

/// Whether each row of the served outputs depends on the same row of the inputs alone.
pub fn analyse(model: &Model) -> RowAnalysis {
    let Some(graph) = &model.graph else { return RowAnalysis::Unknown("the file has no graph".to_owned()) };
    let mut walk = Walk::new(model);
    let inputs = match inputs(graph, &mut walk.symbols) {
        Ok(inputs) => inputs,
        Err(reason) => return RowAnalysis::Unknown(reason),
    };
    let outputs = served(graph);
    let values = walk.graph(graph, inputs, &outputs, &model.opset_import);
    let mut unknown = None;
    for (name, value) in outputs.iter().zip(values) {
        match verdict(name, value.rows) {
            RowAnalysis::Independent => {}
            RowAnalysis::Dependent(reason) => return RowAnalysis::Dependent(reason),
            RowAnalysis::Unknown(reason) => unknown = unknown.or(Some(reason)),
        }
    }
    unknown.map_or(RowAnalysis::Independent, RowAnalysis::Unknown)
}

/// The outputs that are tensors of a datatype that is served; others do not reach a caller.
pub fn served(graph: &Graph) -> Vec<&str> {
    // `TensorProto.DataType` from FLOAT to BFLOAT16, without complex numbers; 0 where it is not written.
    let is_served = |datatype: i32| matches!(datatype, 0..=13 | 16);
    let is_tensor = |output: &&ValueInfo| match &output.r#type {
        Some(kind) => kind.tensor_type.as_ref().is_some_and(|tensor| is_served(tensor.elem_type)),
        None => true,
    };
    graph.output.iter().filter(is_tensor).map(|output| output.name.as_str()).collect()
}

/// What callers give, with the batch on the first axis. An input that has a default is that constant: a request that gives
/// another value is not run together with others.
fn inputs<'g>(graph: &'g Graph, symbols: &mut Symbols) -> Result<HashMap<&'g str, Value<'g>>, String> {
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
        values.insert(input.name.as_str(), Value::new(Rows::Each(Place::axis(0)), Some(dims)));
    }
    Ok(values)
}

fn verdict(output: &str, rows: Rows) -> RowAnalysis {
    let dependent = |reason: &str| RowAnalysis::Dependent(reason.to_owned());
    match rows {
        Rows::Each(place) if place == Place::axis(0) => RowAnalysis::Independent,
        Rows::Each(place) if place.axis == 0 => {
            RowAnalysis::Dependent(format!("output {output:?} has several elements for each row on its first axis"))
        }
        Rows::Each(place) => {
            RowAnalysis::Dependent(format!("output {output:?} holds the batch on axis {}", place.axis))
        }
        Rows::Free => RowAnalysis::Dependent(format!("output {output:?} has no batch axis")),
        Rows::Count(reason)
        | Rows::Numbered(_, reason)
        | Rows::Moved(reason)
        | Rows::Picked(reason)
        | Rows::Coupled(reason) => dependent(&reason),
        Rows::Unknown(reason) => RowAnalysis::Unknown(reason.to_string()),
    }
}
