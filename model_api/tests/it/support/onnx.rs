//! Tiny ONNX models, written with just enough of `onnx.proto3` (field numbers as there).

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, optional, tag = "3")]
    pub int: Option<i64>,
    #[prost(message, optional, tag = "6")]
    pub graph: Option<Graph>,
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const STRING: i32 = 8;
const BOOL: i32 = 9;

/// `y = x`, rows of three numbers.
pub fn identity() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// `y = x + w` for three numbers `w` in the file `location`.
pub fn with_external_data(location: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let weights = Tensor {
        dims: vec![3],
        data_type: FLOAT,
        name: "w".to_owned(),
        external_data: vec![entry("location", location)],
        data_location: Some(1),
        ..Tensor::default()
    };
    model(Graph {
        node: vec![node("Add", &["x", "w"], &["y"])],
        initializer: vec![weights],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// `y = x`, but never, when `x` is more than one half.
pub fn hangs() -> Vec<u8> {
    let body = Graph {
        name: "body".to_owned(),
        node: vec![node("Identity", &["more"], &["still"]), node("Identity", &["value"], &["same"])],
        input: vec![value("turn", INT64, &[]), value("more", BOOL, &[]), value("value", FLOAT, &[1])],
        output: vec![value("still", BOOL, &[]), value("same", FLOAT, &[1])],
        ..Graph::default()
    };
    let mut forever = node("Loop", &["", "large", "x"], &["y"]);
    forever.attribute.push(Attribute { name: "body".to_owned(), graph: Some(body), kind: 5, ..Attribute::default() });
    model(Graph {
        node: vec![node("Squeeze", &["x"], &["scalar"]), node("Greater", &["scalar", "half"], &["large"]), forever],
        initializer: vec![constant("half", FLOAT, &[], &0.5_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Graph::default()
    })
}

/// The number at place `x` of three; ONNX Runtime refuses any other place.
pub fn picks() -> Vec<u8> {
    let mut cast = node("Cast", &["x"], &["place"]);
    cast.attribute.push(Attribute { name: "to".to_owned(), int: Some(INT64.into()), kind: 2, ..Attribute::default() });
    let numbers: Vec<u8> = [0.25_f32, 0.5, 0.75].iter().flat_map(|number| number.to_le_bytes()).collect();
    model(Graph {
        node: vec![cast, node("Gather", &["numbers", "place"], &["y"])],
        initializer: vec![constant("numbers", FLOAT, &[3], &numbers)],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Graph::default()
    })
}

/// `y = x`, for text.
pub fn text() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value("x", STRING, &[1])],
        output: vec![value("y", STRING, &[1])],
        ..Graph::default()
    })
}

fn model(graph: Graph) -> Vec<u8> {
    let graph = Graph { name: "graph".to_owned(), ..graph };
    Model { ir_version: 8, graph: Some(graph), opset_import: vec![Opset { version: 17 }] }.encode_to_vec()
}

fn node(op_type: &str, input: &[&str], output: &[&str]) -> Node {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Node { op_type: op_type.to_owned(), input: owned(input), output: owned(output), attribute: vec![] }
}

fn constant(name: &str, data_type: i32, dims: &[i64], bytes: &[u8]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        data_type,
        dims: dims.to_vec(),
        raw_data: Some(bytes.to_vec()),
        ..Tensor::default()
    }
}

fn value(name: &str, element: i32, shape: &[i64]) -> ValueInfo {
    let dimension = |&length: &i64| match length {
        -1 => Dimension { name: Some("n".to_owned()), value: None },
        length => Dimension { value: Some(length), name: None },
    };
    let tensor = TensorType { element, shape: Some(Shape { dim: shape.iter().map(dimension).collect() }) };
    ValueInfo { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) }
}
