//! Tiny ONNX models, written with just enough of `onnx.proto3` (field numbers as there).

use open_inference::Datatype;
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
    #[prost(string, tag = "1")]
    domain: String,
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
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, optional, tag = "3")]
    pub int: Option<i64>,
    #[prost(message, optional, tag = "6")]
    pub graph: Option<Graph>,
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
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
    #[prost(message, optional, boxed, tag = "4")]
    sequence: Option<Box<Sequence>>,
    #[prost(message, optional, boxed, tag = "5")]
    map: Option<Box<Map>>,
}

#[derive(Clone, PartialEq, Message)]
struct Sequence {
    #[prost(message, optional, boxed, tag = "1")]
    element: Option<Box<Type>>,
}

#[derive(Clone, PartialEq, Message)]
struct Map {
    #[prost(int32, tag = "1")]
    key: i32,
    #[prost(message, optional, boxed, tag = "2")]
    value: Option<Box<Type>>,
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
const INT4: i32 = 22;

/// ONNX's number for a datatype.
fn element(datatype: Datatype) -> i32 {
    match datatype {
        Datatype::Fp32 => FLOAT,
        Datatype::Uint8 => 2,
        Datatype::Int8 => 3,
        Datatype::Uint16 => 4,
        Datatype::Int16 => 5,
        Datatype::Int32 => 6,
        Datatype::Int64 => INT64,
        Datatype::Bytes => STRING,
        Datatype::Bool => BOOL,
        Datatype::Fp16 => 10,
        Datatype::Fp64 => 11,
        Datatype::Uint32 => 12,
        Datatype::Uint64 => 13,
        Datatype::Bf16 => 16,
    }
}

/// Each input comes back as the output `NAME_out`.
pub fn identities(inputs: &[(&str, Datatype, &[i64])]) -> Vec<u8> {
    let out = |name: &str| format!("{name}_out");
    model(Graph {
        node: inputs.iter().map(|(name, ..)| node("Identity", &[name], &[&out(name)])).collect(),
        input: inputs.iter().map(|(name, datatype, shape)| value(name, element(*datatype), shape)).collect(),
        output: inputs.iter().map(|(name, datatype, shape)| value(&out(name), element(*datatype), shape)).collect(),
        ..Graph::default()
    })
}

/// A file whose graph has one input and one output of these names, and no more than that.
pub fn of_one(input: &str, output: &str) -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &[input], &[output])],
        input: vec![value(input, FLOAT, &[-1])],
        output: vec![value(output, FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y = OPERATOR(a, b)`, both of any length.
pub fn of_two(operator: &str, datatype: Datatype) -> Vec<u8> {
    model(Graph {
        node: vec![node(operator, &["a", "b"], &["y"])],
        input: vec![value("a", element(datatype), &[-1]), value("b", element(datatype), &[-1])],
        output: vec![value("y", element(datatype), &[-1])],
        ..Graph::default()
    })
}

/// As scikit-learn's classifiers are exported: `label` is a tensor, `probabilities` a sequence of maps made of `scores`.
pub fn zip_map(with_label: bool) -> Vec<u8> {
    let mut zip = Node { domain: "ai.onnx.ml".to_owned(), ..node("ZipMap", &["x"], &["probabilities"]) };
    let classes =
        Attribute { name: "classlabels_int64s".to_owned(), ints: vec![0, 1], kind: 7, ..Attribute::default() };
    zip.attribute.push(classes);
    let scores = tensor_type(FLOAT, Some(&[]));
    let map = Type { map: Some(Box::new(Map { key: INT64, value: Some(Box::new(scores)) })), ..Type::default() };
    let maps = value_of("probabilities", sequence(map));
    let label = with_label.then(|| (node("ArgMax", &["x"], &["label"]), value("label", INT64, &[-1, 1])));
    let (argmax, label): (Vec<_>, Vec<_>) = label.into_iter().unzip();
    let argmax = argmax.into_iter().map(|mut node: Node| {
        node.attribute.push(Attribute { name: "axis".to_owned(), int: Some(1), kind: 2, ..Attribute::default() });
        node
    });
    model(Graph {
        node: argmax.chain([zip]).collect(),
        input: vec![value("x", FLOAT, &[-1, 2])],
        output: label.into_iter().chain([maps]).collect(),
        ..Graph::default()
    })
}

/// The first of a sequence of tensors.
pub fn first_of_sequence() -> Vec<u8> {
    model(Graph {
        node: vec![node("SequenceAt", &["tensors", "first"], &["y"])],
        initializer: vec![constant("first", INT64, &[], &[0; 8])],
        input: vec![value_of("tensors", sequence(tensor_type(FLOAT, Some(&[-1]))))],
        output: vec![value("y", FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y` is `x` cut to integers of four bits, or the reverse.
pub fn four_bits(as_input: bool) -> Vec<u8> {
    let cast = |from: &str, to: &str, kind: i32| {
        let mut cast = node("Cast", &[from], &[to]);
        let kind = Attribute { name: "to".to_owned(), int: Some(kind.into()), kind: 2, ..Attribute::default() };
        cast.attribute.push(kind);
        cast
    };
    if as_input {
        return model(Graph {
            node: vec![cast("x", "y", FLOAT)],
            input: vec![value("x", INT4, &[-1])],
            output: vec![value("y", FLOAT, &[-1])],
            ..Graph::default()
        });
    }
    model(Graph {
        node: vec![cast("x", "y", INT4), node("Identity", &["x"], &["z"])],
        input: vec![value("x", FLOAT, &[-1])],
        output: vec![value("y", INT4, &[-1]), value("z", FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y` is `x`, two rows of three, which is refused where there are not six numbers.
pub fn two_by_three(length: i64) -> Vec<u8> {
    let shape: Vec<u8> = [2_i64, 3].iter().flat_map(|length| length.to_le_bytes()).collect();
    model(Graph {
        node: vec![node("Identity", &["shape"], &["hidden"]), node("Reshape", &["x", "hidden"], &["y"])],
        initializer: vec![constant("shape", INT64, &[2], &shape)],
        input: vec![value("x", FLOAT, &[length])],
        output: vec![value("y", FLOAT, &[-1, -1])],
        ..Graph::default()
    })
}

/// `y = x`, of which the graph does not even say how many axes it has.
pub fn any_rank() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value_of("x", tensor_type(FLOAT, None))],
        output: vec![value_of("y", tensor_type(FLOAT, None))],
        ..Graph::default()
    })
}

/// `y = x`, rows of three numbers.
pub fn identity() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// `y = x × gain`; `gain` is two where a request does not give it.
pub fn with_default() -> Vec<u8> {
    model(Graph {
        node: vec![node("Mul", &["x", "gain"], &["y"])],
        initializer: vec![constant("gain", FLOAT, &[], &2.0_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[-1, 3]), value("gain", FLOAT, &[])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// The same in a version of the format in which an initializer is a constant, though listed among the inputs.
pub fn with_listed_constant() -> Vec<u8> {
    let mut model = Model::decode(with_default().as_slice()).unwrap();
    model.ir_version = 3;
    model.encode_to_vec()
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

/// `y = x`, of any length, but never when one of `x` is more than two.
pub fn hangs_in_batches() -> Vec<u8> {
    let body = Graph {
        name: "body".to_owned(),
        node: vec![node("Identity", &["more"], &["still"]), node("Identity", &["value"], &["same"])],
        input: vec![value("turn", INT64, &[]), value("more", BOOL, &[]), value("value", FLOAT, &[-1])],
        output: vec![value("still", BOOL, &[]), value("same", FLOAT, &[-1])],
        ..Graph::default()
    };
    let mut forever = node("Loop", &["", "large", "x"], &["y"]);
    forever.attribute.push(Attribute { name: "body".to_owned(), graph: Some(body), kind: 5, ..Attribute::default() });
    model(Graph {
        node: vec![largest("x", "largest"), node("Greater", &["largest", "two"], &["large"]), forever],
        initializer: vec![constant("two", FLOAT, &[], &2_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[-1])],
        output: vec![value("y", FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y = x`, of any length, after taking memory for as many numbers as the largest of `x` says.
pub fn allocates() -> Vec<u8> {
    let mut count = node("Cast", &["largest"], &["count"]);
    count.attribute.push(Attribute { name: "to".to_owned(), int: Some(INT64.into()), kind: 2, ..Attribute::default() });
    let mut sum = node("ReduceSum", &["zeros"], &["zero"]);
    sum.attribute.push(Attribute { name: "keepdims".to_owned(), int: Some(0), kind: 2, ..Attribute::default() });
    model(Graph {
        node: vec![
            largest("x", "largest"),
            count,
            node("Unsqueeze", &["count", "first"], &["shape"]),
            node("ConstantOfShape", &["shape"], &["zeros"]),
            sum,
            node("Add", &["x", "zero"], &["y"]),
        ],
        initializer: vec![constant("first", INT64, &[1], &[0; 8])],
        input: vec![value("x", FLOAT, &[-1])],
        output: vec![value("y", FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y` is each of `x` less the mean of all, which has a batch answered otherwise than its rows.
pub fn centres_its_batch() -> Vec<u8> {
    model(Graph {
        node: vec![node("ReduceMean", &["x"], &["mean"]), node("Sub", &["x", "mean"], &["y"])],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

fn largest(of: &str, to: &str) -> Node {
    let mut largest = node("ReduceMax", &[of], &[to]);
    largest.attribute.push(Attribute { name: "keepdims".to_owned(), int: Some(0), kind: 2, ..Attribute::default() });
    largest
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

fn model(graph: Graph) -> Vec<u8> {
    let graph = Graph { name: "graph".to_owned(), ..graph };
    let opset = |domain: &str, version| Opset { domain: domain.to_owned(), version };
    let opsets = vec![opset("", 21), opset("ai.onnx.ml", 3)];
    Model { ir_version: 10, graph: Some(graph), opset_import: opsets }.encode_to_vec()
}

fn node(op_type: &str, input: &[&str], output: &[&str]) -> Node {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Node { op_type: op_type.to_owned(), input: owned(input), output: owned(output), ..Node::default() }
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
    value_of(name, tensor_type(element, Some(shape)))
}

fn value_of(name: &str, kind: Type) -> ValueInfo {
    ValueInfo { name: name.to_owned(), kind: Some(kind) }
}

fn tensor_type(element: i32, shape: Option<&[i64]>) -> Type {
    let dimension = |(axis, &length): (usize, &i64)| match length {
        -1 => Dimension { name: Some(format!("n{axis}")), value: None },
        length => Dimension { value: Some(length), name: None },
    };
    let shape = shape.map(|shape| Shape { dim: shape.iter().enumerate().map(dimension).collect() });
    Type { tensor: Some(TensorType { element, shape }), ..Type::default() }
}

fn sequence(of: Type) -> Type {
    Type { sequence: Some(Box::new(Sequence { element: Some(Box::new(of)) })), ..Type::default() }
}
