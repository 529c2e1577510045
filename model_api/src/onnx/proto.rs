//! ONNX protobuf messages: the part of `onnx.proto3` that the graph analysis and the search for external data read, and that a
//! valid model must have. Field numbers are those of `onnx.proto3`. Other fields are skipped while decoding.
//!
//! Decoding from [`Bytes`] copies no weights: `raw_data` is a slice of the file.

use bytes::Bytes;
use open_inference::TensorMetadata;
use prost::Message;

/// A model file.
#[derive(Clone, PartialEq, Message)]
pub struct Model {
    /// The version of the file format. Below 4, initializers that are inputs too are constants.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Versions of the operator sets that the graph uses.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSet>,
    /// Metadata from the exporter, for example `names` from Ultralytics.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<Entry>,
    /// Functions: operators that the model defines.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<Function>,
}

/// A version of an operator set.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSet {
    /// Empty for ONNX's own operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A graph, or the body of an `If`, `Loop` or `Scan`.
#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// In topological order.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    /// Its name, which ONNX requires. The analysis does not read it.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants. One that is also an input is the default of that input.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
    /// Types of intermediate values, if the exporter wrote them.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfo>,
    /// Constants that are mostly zero.
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensor>,
}

/// A function: an operator that the model defines.
#[derive(Clone, PartialEq, Message)]
pub struct Function {
    /// The operator's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Names of its inputs.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// Names of its outputs.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// Its body.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<Node>,
    /// Versions of the operator sets that its body uses.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSet>,
    /// The operator's domain.
    #[prost(string, tag = "10")]
    pub domain: String,
    /// Attributes with their defaults.
    #[prost(message, repeated, tag = "11")]
    pub attribute: Vec<Attribute>,
}

/// One operator of a graph.
#[derive(Clone, PartialEq, Message)]
pub struct Node {
    /// Names of its inputs. An empty name stands for an absent input.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of its outputs. An output with an empty name is not computed.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// The node's own name, may be empty.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    /// Empty for ONNX's own operators.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// An attribute of an operator.
#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// An integer.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// Text.
    #[prost(bytes = "bytes", tag = "4")]
    pub s: Bytes,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<Tensor>,
    /// A subgraph.
    #[prost(message, optional, tag = "6")]
    pub g: Option<Graph>,
    /// Numbers.
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Texts.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// Tensors.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<Tensor>,
    /// Subgraphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<Graph>,
    /// `AttributeProto.AttributeType`: 2 is an integer. The analysis does not read it.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// In a function: the attribute of the function whose value this attribute has.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
    /// A sparse tensor.
    #[prost(message, optional, tag = "22")]
    pub sparse_tensor: Option<SparseTensor>,
    /// Sparse tensors.
    #[prost(message, repeated, tag = "23")]
    pub sparse_tensors: Vec<SparseTensor>,
}

/// A constant that is mostly zero.
#[derive(Clone, PartialEq, Message)]
pub struct SparseTensor {
    /// The values that are not zero.
    #[prost(message, optional, tag = "1")]
    pub values: Option<Tensor>,
    /// Their indices.
    #[prost(message, optional, tag = "2")]
    pub indices: Option<Tensor>,
}

/// A constant. Its values are in `raw_data`, in the field of its datatype, or in another file.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    /// Its shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// `TensorProto.DataType`: 1 is float, 7 is int64.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// 32-bit floats.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// 32-bit and smaller integers, and half floats' bits.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// 64-bit integers.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Its name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Values in little-endian order.
    #[prost(bytes = "bytes", tag = "9")]
    pub raw_data: Bytes,
    /// Where its values are, if in another file: `location`, `offset`, `length`.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    /// `TensorProto.DataLocation`: 1 if its values are in another file. The search for external data does not rely on it.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Name and type of an input, an output or an intermediate value.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type, if it is specified.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<Type>,
}

/// A type: one of these fields is set. Sparse tensors, optional values and opaque types are not decoded.
#[derive(Clone, PartialEq, Message)]
pub struct Type {
    /// A tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
    /// A sequence.
    #[prost(message, optional, boxed, tag = "4")]
    pub sequence_type: Option<Box<SequenceType>>,
    /// A map.
    #[prost(message, optional, boxed, tag = "5")]
    pub map_type: Option<Box<MapType>>,
}

/// A sequence of values of one type.
#[derive(Clone, PartialEq, Message)]
pub struct SequenceType {
    /// The type of its elements.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<Type>>,
}

/// A map from integers or strings to values of one type.
#[derive(Clone, PartialEq, Message)]
pub struct MapType {
    /// `TensorProto.DataType` of its keys.
    #[prost(int32, tag = "1")]
    pub key_type: i32,
    /// The type of its values.
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<Type>>,
}

/// Datatype and shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    /// `TensorProto.DataType`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Absent if the rank is unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    /// One for each axis.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

/// An axis: a length, a symbol, or neither.
#[derive(Clone, PartialEq, Message)]
pub struct Dimension {
    /// Length or symbol.
    #[prost(oneof = "Length", tags = "1, 2")]
    pub value: Option<Length>,
}

/// The length of an axis.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Length {
    /// Fixed.
    #[prost(int64, tag = "1")]
    Fixed(i64),
    /// Open, with a symbolic name.
    #[prost(string, tag = "2")]
    Symbol(String),
}

impl Model {
    /// Parses a model file. prost's recursion limit bounds the nesting of subgraphs to about thirty levels.
    pub fn parse(file: Bytes) -> Result<Self, String> {
        Self::decode(file).map_err(|_| "the file is not an ONNX model, or it is damaged".to_owned())
    }
}

/// Names of a graph's inputs and outputs, from its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TensorNames {
    /// Inputs, including optional inputs with a default.
    pub inputs: Vec<String>,
    /// Outputs, including those that are no tensors.
    pub outputs: Vec<String>,
}

impl Model {
    /// Names of inputs and outputs. Before IR version 4, every initializer is also listed as an input; these are left out.
    pub fn tensor_names(&self) -> TensorNames {
        let Some(graph) = &self.graph else { return TensorNames::default() };
        let is_constant =
            |name: &str| self.ir_version < 4 && graph.initializer.iter().any(|tensor| tensor.name == name);
        let names = |side: &[ValueInfo]| side.iter().map(|value| value.name.clone()).collect::<Vec<_>>();
        let mut inputs = names(&graph.input);
        inputs.retain(|name| !is_constant(name));
        TensorNames { inputs, outputs: names(&graph.output) }
    }
}

impl TensorNames {
    /// Whether these tensors have exactly these names.
    pub fn matches(&self, inputs: &[TensorMetadata], outputs: &[TensorMetadata]) -> bool {
        let all = |names: &[String], tensors: &[TensorMetadata]| {
            names.len() == tensors.len() && tensors.iter().all(|tensor| names.contains(&tensor.name))
        };
        all(&self.inputs, inputs) && all(&self.outputs, outputs)
    }
}

impl Node {
    /// The attribute of this name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }
}

impl Tensor {
    /// The elements of an integer tensor that is stored in the file itself; `None` for other datatypes and external data.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let raw = &self.raw_data[..];
        match self.data_type {
            7 if !raw.is_empty() => Some(raw.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
            7 if self.external_data.is_empty() => Some(self.int64_data.clone()),
            6 if !raw.is_empty() => {
                Some(raw.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect())
            }
            6 if self.external_data.is_empty() => Some(self.int32_data.iter().map(|&value| value.into()).collect()),
            _ => None,
        }
    }
}
