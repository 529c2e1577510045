use std::collections::{HashMap, HashSet};

use crate::onnx_file::{Graph, Length, Model, Node, TensorType, ValueInfo};

/// From this version on `Softmax` normalises one axis; before, all from its axis on.
const ONE_AXIS: i64 = 13;

/// Nodes between an output and its source.
const MAX_STEPS: usize = 64;

/// Which node makes which value, and what is known of the values.
pub(super) struct Trace<'a> {
    makers: HashMap<&'a str, (&'a Node, usize)>,
    types: HashMap<&'a str, &'a TensorType>,
    shapes: HashMap<&'a str, Vec<Option<i64>>>,
    opset: i64,
}

/// The operator that an output's values come from, behind operators that only rename, cast or reshape them.
pub(super) struct Source<'a> {
    pub node: &'a Node,
    /// Which of the node's outputs.
    pub output: usize,
    /// That output's name.
    pub value: &'a str,
    /// Whether the shape may have changed on the way.
    pub reshaped: bool,
    /// Whether the values were scaled by something that does not keep probabilities.
    pub rescaled: bool,
}

impl<'a> Trace<'a> {
    pub fn new(model: &Model, graph: &'a Graph) -> Self {
        let mut makers = HashMap::new();
        for node in &graph.node {
            for (place, name) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                makers.insert(name.as_str(), (node, place));
            }
        }
        let values = || graph.value_info.iter().chain(&graph.output);
        let kind = |value: &'a ValueInfo| Some((value.name.as_str(), value.r#type.as_ref()?.tensor_type.as_ref()?));
        let types: HashMap<_, _> = values().filter_map(kind).collect();
        let shapes = types.iter().filter_map(|(&name, kind)| Some((name, lengths(kind)?))).collect();
        let opset = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
        Self { makers, types, shapes, opset: opset.map_or(1, |set| set.version) }
    }

    /// `TensorProto.DataType`; 0 where it is not known.
    pub fn datatype(&self, name: &str) -> i32 {
        self.types.get(name).map_or(0, |kind| kind.elem_type)
    }

    /// The lengths, `None` for an open one; nothing where not even the rank is known.
    pub fn shape(&self, name: &str) -> Option<&[Option<i64>]> {
        self.shapes.get(name).map(Vec::as_slice)
    }

    /// Follows the values of `name` back.
    pub fn source(&self, name: &str) -> Option<Source<'a>> {
        let (mut name, mut reshaped, mut rescaled) = (name, false, false);
        let mut seen = HashSet::new();
        for _ in 0..MAX_STEPS {
            let (&value, &(node, output)) = self.makers.get_key_value(name)?;
            match (node.domain.as_str(), node.op_type.as_str()) {
                ("" | "ai.onnx", "Identity" | "Cast") => {}
                ("" | "ai.onnx", "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten") => reshaped = true,
                // Of values that add up to 1, it changes none.
                ("ai.onnx.ml", "Normalizer") => {
                    rescaled |= node.attribute("norm").is_none_or(|attribute| &attribute.s[..] != b"L1");
                }
                _ => return Some(Source { node, output, value, reshaped, rescaled }),
            }
            name = node.input.first()?;
            if !seen.insert(name) {
                return None;
            }
        }
        None
    }

    /// The axes that a `Softmax` or `LogSoftmax` over a tensor of this rank normalises together.
    pub fn normalised_axes(&self, node: &Node, rank: usize) -> Option<Vec<usize>> {
        let default = if self.opset >= ONE_AXIS { -1 } else { 1 };
        let axis = node.attribute("axis").map_or(default, |attribute| attribute.i);
        let axis = if axis < 0 { axis + rank.cast_signed() as i64 } else { axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < rank)?;
        Some(if self.opset >= ONE_AXIS { vec![axis] } else { (axis..rank).collect() })
    }
}

fn lengths(kind: &TensorType) -> Option<Vec<Option<i64>>> {
    let length = |value: &Option<Length>| match value {
        Some(Length::Fixed(length)) if *length > 0 => Some(*length),
        _ => None,
    };
    Some(kind.shape.as_ref()?.dim.iter().map(|dimension| length(&dimension.value)).collect())
}
