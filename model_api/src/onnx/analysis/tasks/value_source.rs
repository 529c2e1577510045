use std::collections::{HashMap, HashSet};

use crate::onnx::proto::{Graph, Length, Model, Node, TensorType, ValueInfo};

/// First operator set whose `Softmax` normalises one axis. Earlier ones normalise all axes from `axis` on.
const SINGLE_AXIS_OPSET: i64 = 13;

/// Maximum number of nodes between an output and its source.
const MAX_STEPS: usize = 64;

/// The producer, type and shape of each tensor of a graph.
pub(super) struct ValueSources<'a> {
    producers: HashMap<&'a str, (&'a Node, usize)>,
    types: HashMap<&'a str, &'a TensorType>,
    shapes: HashMap<&'a str, Vec<Option<i64>>>,
    opset: i64,
}

/// The operator that computes an output, ignoring operators that only rename, cast or reshape.
pub(super) struct ValueSource<'a> {
    pub node: &'a Node,
    /// Index of the node's output.
    pub output: usize,
    /// Name of that output.
    pub value: &'a str,
    /// Whether the shape may have changed between the source and the output.
    pub reshaped: bool,
    /// Whether the values were scaled in a way that does not preserve probabilities.
    pub rescaled: bool,
}

impl<'a> ValueSources<'a> {
    pub fn new(model: &Model, graph: &'a Graph) -> Self {
        let mut producers = HashMap::new();
        for node in &graph.node {
            for (index, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                producers.insert(name.as_str(), (node, index));
            }
        }
        let values = || graph.value_info.iter().chain(&graph.output);
        let kind = |value: &'a ValueInfo| Some((value.name.as_str(), value.r#type.as_ref()?.tensor_type.as_ref()?));
        let types: HashMap<_, _> = values().filter_map(kind).collect();
        let shapes = types.iter().filter_map(|(&name, kind)| Some((name, lengths(kind)?))).collect();
        let opset = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
        Self { producers, types, shapes, opset: opset.map_or(1, |set| set.version) }
    }

    /// `TensorProto.DataType`; 0 if it is unknown.
    pub fn datatype(&self, name: &str) -> i32 {
        self.types.get(name).map_or(0, |kind| kind.elem_type)
    }

    /// The axis lengths, `None` for an open one. `None` as a whole if the rank is unknown.
    pub fn shape(&self, name: &str) -> Option<&[Option<i64>]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// Traces `name` back to its source.
    pub fn source(&self, name: &str) -> Option<ValueSource<'a>> {
        let (mut name, mut reshaped, mut rescaled) = (name, false, false);
        let mut visited = HashSet::new();
        for _ in 0..MAX_STEPS {
            let (&value, &(node, output)) = self.producers.get_key_value(name)?;
            match (node.domain.as_str(), node.op_type.as_str()) {
                ("" | "ai.onnx", "Identity" | "Cast") => {}
                ("" | "ai.onnx", "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten") => reshaped = true,
                // The L1 norm does not change values that add up to 1.
                ("ai.onnx.ml", "Normalizer") => {
                    rescaled |= node.attribute("norm").is_none_or(|attribute| &attribute.s[..] != b"L1");
                }
                _ => return Some(ValueSource { node, output, value, reshaped, rescaled }),
            }
            name = node.input.first()?;
            if !visited.insert(name) {
                return None;
            }
        }
        None
    }

    /// The axes that a `Softmax` or `LogSoftmax` over a tensor of this rank normalises together.
    pub fn normalized_axes(&self, node: &Node, rank: usize) -> Option<Vec<usize>> {
        let default = if self.opset >= SINGLE_AXIS_OPSET { -1 } else { 1 };
        let axis = node.attribute("axis").map_or(default, |attribute| attribute.i);
        let axis = if axis < 0 { axis + rank.cast_signed() as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < rank)?;
        Some(if self.opset >= SINGLE_AXIS_OPSET { vec![axis] } else { (axis..rank).collect() })
    }
}

fn lengths(kind: &TensorType) -> Option<Vec<Option<i64>>> {
    let length = |value: &Option<Length>| match value {
        Some(Length::Fixed(length)) if *length > 0 => Some(*length),
        _ => None,
    };
    Some(kind.shape.as_ref()?.dim.iter().map(|dimension| length(&dimension.value)).collect())
}
