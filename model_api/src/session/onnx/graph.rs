//! Inputs and outputs of a graph that can be served.

use open_inference::{Datatype, MAX_RANK, TensorMetadata};
use ort::session::Session;
use ort::value::{TensorElementType, ValueType};

/// Inputs and outputs, in the order of the graph.
#[derive(Debug)]
pub struct Graph {
    /// Inputs with a default in the graph come last. They are optional.
    pub inputs: Vec<TensorMetadata>,
    pub outputs: Vec<TensorMetadata>,
    /// Outputs that are not served, each with the reason.
    pub left_out: Vec<String>,
}

impl Graph {
    /// Reads the graph of a session. An input that is not a tensor is an error. An output that is not a tensor is skipped, unless
    /// no output remains.
    ///
    /// ONNX Runtime lists an initializer that is also an input separately (`SessionGetOverridableInitializer…`). It lists none for
    /// files of an IR version below 4, in which initializers cannot be overridden. An initializer of an unsupported type stays a
    /// constant.
    pub fn read(session: &Session) -> Result<Self, String> {
        let named = |side: &str, name: &str, reason: &str| format!("{side} {name:?} {reason}");
        let required = session.inputs().iter().map(|outlet| {
            tensor(outlet.name(), outlet.dtype()).map_err(|reason| named("input", outlet.name(), &reason))
        });
        let mut inputs = required.collect::<Result<Vec<_>, _>>()?;
        let optional = session.overridable_initializers();
        inputs.extend(optional.iter().filter_map(|initializer| {
            let mut input = tensor(initializer.name(), initializer.dtype()).ok()?;
            input.parameters.optional = true;
            Some(input)
        }));
        let (mut served, mut left_out) = (Vec::new(), Vec::new());
        for outlet in session.outputs() {
            match tensor(outlet.name(), outlet.dtype()) {
                Ok(tensor) => served.push(tensor),
                Err(reason) => left_out.push(named("output", outlet.name(), &reason)),
            }
        }
        if served.is_empty() {
            return Err(format!("no output can be served: {}", left_out.join("; ")));
        }
        Ok(Self { inputs, outputs: served, left_out })
    }

    /// The inputs that every run needs.
    pub fn required(&self) -> &[TensorMetadata] {
        &self.inputs[..self.inputs.partition_point(|input| !input.parameters.optional)]
    }
}

/// The metadata of a tensor. ONNX Runtime gives a tensor of unknown rank an empty shape, as it does a scalar.
fn tensor(name: &str, kind: &ValueType) -> Result<TensorMetadata, String> {
    let ValueType::Tensor { ty, shape, .. } = kind else {
        return Err(format!("is {}, and only tensors are served", describe(kind)));
    };
    let datatype = datatype(*ty).ok_or_else(|| format!("has the element type {ty}, which is not served"))?;
    if shape.len() > MAX_RANK {
        return Err(format!("has {} axes, and at most {MAX_RANK} are served", shape.len()));
    }
    Ok(TensorMetadata::new(name, datatype, shape))
}

fn describe(kind: &ValueType) -> String {
    match kind {
        ValueType::Tensor { ty, .. } => format!("a tensor of {ty}"),
        ValueType::Sequence(of) => format!("a sequence ({})", describe(of)),
        ValueType::Map { key, value } => format!("a map from {key} to {value}"),
        ValueType::Optional(of) => format!("optional ({})", describe(of)),
    }
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float16 => Datatype::Fp16,
        TensorElementType::Bfloat16 => Datatype::Bf16,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}
