//! Shapes of inputs: number of rows, and the shapes that settings and graph give together.

use std::collections::BTreeMap;

use open_inference::{MAX_RANK, Tensor, TensorMetadata};

/// The number of rows that all inputs have. `None` if the numbers differ, if a tensor has no rows, or without inputs.
pub fn common_rows(inputs: &[Tensor]) -> Option<usize> {
    let (first, rest) = inputs.split_first()?;
    let rows = first.rows().filter(|&rows| rows > 0)?;
    rest.iter().all(|input| input.rows() == Some(rows)).then_some(rows)
}

/// The shape of an input: that of the graph, narrowed by the settings.
///
/// Settings that contradict the graph are ignored here. The signature check reports them with the name of the field, while a
/// run would only fail.
pub fn known_shape<'a>(spec: &'a TensorMetadata, shapes: &'a BTreeMap<String, Vec<i64>>) -> &'a [i64] {
    shapes.get(&spec.name).filter(|shape| narrows(shape, &spec.shape)).unwrap_or(&spec.shape)
}

/// Whether settings may give this shape. They may fix a dimension that the graph leaves open. They may give the whole shape if
/// the graph does not even specify the rank.
pub fn narrows(settings: &[i64], graph: &[i64]) -> bool {
    let is_narrower = |(&set, &declared): (&i64, &i64)| set == declared || (declared == -1 && set > 0);
    let gives_rank = graph.is_empty() && settings.len() <= MAX_RANK && settings.iter().all(|&set| set == -1 || set > 0);
    gives_rank || (settings.len() == graph.len() && settings.iter().zip(graph).all(is_narrower))
}
