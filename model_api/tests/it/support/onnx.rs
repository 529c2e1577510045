//! Tiny ONNX models, built from the messages of the library.

use model_api::onnx::proto::{
    Attribute, Dimension, Entry, Graph, Length, MapType, Model, Node, OperatorSet, SequenceType, Shape, Tensor,
    TensorType, Type, ValueInfo,
};
use open_inference::Datatype;
use prost::Message;

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const STRING: i32 = 8;
const BOOL: i32 = 9;
const INT4: i32 = 22;

/// `AttributeProto.AttributeType` of an integer, of a graph and of a list of integers.
const INT_ATTRIBUTE: i32 = 2;
const GRAPH_ATTRIBUTE: i32 = 5;
const INTS_ATTRIBUTE: i32 = 7;

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

/// Copies each input to the output `NAME_out`.
pub fn identities(inputs: &[(&str, Datatype, &[i64])]) -> Vec<u8> {
    let out = |name: &str| format!("{name}_out");
    model(Graph {
        node: inputs.iter().map(|(name, ..)| node("Identity", &[name], &[&out(name)])).collect(),
        input: inputs.iter().map(|(name, datatype, shape)| value(name, element(*datatype), shape)).collect(),
        output: inputs.iter().map(|(name, datatype, shape)| value(&out(name), element(*datatype), shape)).collect(),
        ..Graph::default()
    })
}

/// A graph with one input and one output of these names.
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

/// Like an exported classifier of scikit-learn: `label` is a tensor, `probabilities` a sequence of maps.
pub fn zip_map(with_label: bool) -> Vec<u8> {
    let mut zip = Node { domain: "ai.onnx.ml".to_owned(), ..node("ZipMap", &["x"], &["probabilities"]) };
    let classes = Attribute {
        name: "classlabels_int64s".to_owned(),
        ints: vec![0, 1],
        r#type: INTS_ATTRIBUTE,
        ..Attribute::default()
    };
    zip.attribute.push(classes);
    let scores = tensor_type(FLOAT, Some(&[]));
    let map = Type {
        map_type: Some(Box::new(MapType { key_type: INT64, value_type: Some(Box::new(scores)) })),
        ..Type::default()
    };
    let maps = value_of("probabilities", sequence(map));
    let label = with_label.then(|| (node("ArgMax", &["x"], &["label"]), value("label", INT64, &[-1, 1])));
    let (argmax, label): (Vec<_>, Vec<_>) = label.into_iter().unzip();
    let argmax = argmax.into_iter().map(|mut node: Node| {
        node.attribute.push(integer("axis", 1));
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

/// `y` is `x`, converted to 4-bit integers, or from 4-bit integers if `as_input`.
pub fn four_bits(as_input: bool) -> Vec<u8> {
    let cast = |from: &str, to: &str, kind: i32| {
        let mut cast = node("Cast", &[from], &[to]);
        let kind = integer("to", kind.into());
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

/// `y` is `x` in the shape 2×3. ONNX Runtime rejects an `x` that has not six elements.
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

/// `y = x`, of unknown rank.
pub fn any_rank() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value_of("x", tensor_type(FLOAT, None))],
        output: vec![value_of("y", tensor_type(FLOAT, None))],
        ..Graph::default()
    })
}

/// `y = x`, with rows of three numbers.
pub fn identity() -> Vec<u8> {
    model(Graph {
        node: vec![node("Identity", &["x"], &["y"])],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// `y = x × gain`. The default of `gain` is 2.
pub fn with_default() -> Vec<u8> {
    model(Graph {
        node: vec![node("Mul", &["x", "gain"], &["y"])],
        initializer: vec![constant("gain", FLOAT, &[], &2.0_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[-1, 3]), value("gain", FLOAT, &[])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// The same in IR version 3, in which an initializer is a constant although it is listed as an input.
pub fn with_listed_constant() -> Vec<u8> {
    let mut model = Model::decode(with_default().as_slice()).unwrap();
    model.ir_version = 3;
    model.encode_to_vec()
}

/// `y = x + w`; the three numbers `w` are in the file `location`.
pub fn with_external_data(location: &str) -> Vec<u8> {
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let weights = Tensor {
        dims: vec![3],
        data_type: FLOAT,
        name: "w".to_owned(),
        external_data: vec![entry("location", location)],
        data_location: 1,
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

/// `y = x`. Loops forever if `x` exceeds 0.5.
pub fn hangs() -> Vec<u8> {
    model(Graph {
        node: vec![
            node("Squeeze", &["x"], &["scalar"]),
            node("Greater", &["scalar", "half"], &["large"]),
            endless_loop(1),
        ],
        initializer: vec![constant("half", FLOAT, &[], &0.5_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Graph::default()
    })
}

/// `y = x`, of any length. Loops forever if an element of `x` exceeds 2.
pub fn hangs_in_batches() -> Vec<u8> {
    model(Graph {
        node: vec![largest("x", "largest"), node("Greater", &["largest", "two"], &["large"]), endless_loop(-1)],
        initializer: vec![constant("two", FLOAT, &[], &2_f32.to_le_bytes())],
        input: vec![value("x", FLOAT, &[-1])],
        output: vec![value("y", FLOAT, &[-1])],
        ..Graph::default()
    })
}

/// `y = x`, of any length. Allocates a tensor with as many elements as the largest element of `x`.
pub fn allocates() -> Vec<u8> {
    let mut count = node("Cast", &["largest"], &["count"]);
    count.attribute.push(integer("to", INT64.into()));
    let mut sum = node("ReduceSum", &["zeros"], &["zero"]);
    sum.attribute.push(integer("keepdims", 0));
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

/// `y` is `x` minus its mean over the batch, so the result of a row depends on the other rows.
pub fn subtracts_batch_mean() -> Vec<u8> {
    model(Graph {
        node: vec![node("ReduceMean", &["x"], &["mean"]), node("Sub", &["x", "mean"], &["y"])],
        input: vec![value("x", FLOAT, &[-1, 3])],
        output: vec![value("y", FLOAT, &[-1, 3])],
        ..Graph::default()
    })
}

/// Copies `x`, of this length, to `y`. Does not end if `large` is true.
fn endless_loop(length: i64) -> Node {
    let body = Graph {
        name: "body".to_owned(),
        node: vec![node("Identity", &["more"], &["still"]), node("Identity", &["value"], &["same"])],
        input: vec![value("iteration", INT64, &[]), value("more", BOOL, &[]), value("value", FLOAT, &[length])],
        output: vec![value("still", BOOL, &[]), value("same", FLOAT, &[length])],
        ..Graph::default()
    };
    let body = Attribute { name: "body".to_owned(), g: Some(body), r#type: GRAPH_ATTRIBUTE, ..Attribute::default() };
    Node { attribute: vec![body], ..node("Loop", &["", "large", "x"], &["y"]) }
}

fn largest(of: &str, to: &str) -> Node {
    let mut largest = node("ReduceMax", &[of], &[to]);
    largest.attribute.push(integer("keepdims", 0));
    largest
}

/// The element of three numbers at index `x`. ONNX Runtime rejects an index out of range.
pub fn picks() -> Vec<u8> {
    let mut cast = node("Cast", &["x"], &["index"]);
    cast.attribute.push(integer("to", INT64.into()));
    let numbers: Vec<u8> = [0.25_f32, 0.5, 0.75].iter().flat_map(|number| number.to_le_bytes()).collect();
    model(Graph {
        node: vec![cast, node("Gather", &["numbers", "index"], &["y"])],
        initializer: vec![constant("numbers", FLOAT, &[3], &numbers)],
        input: vec![value("x", FLOAT, &[1])],
        output: vec![value("y", FLOAT, &[1])],
        ..Graph::default()
    })
}

fn model(graph: Graph) -> Vec<u8> {
    let graph = Graph { name: "graph".to_owned(), ..graph };
    let opset = |domain: &str, version| OperatorSet { domain: domain.to_owned(), version };
    let opsets = vec![opset("", 21), opset("ai.onnx.ml", 3)];
    Model { ir_version: 10, graph: Some(graph), opset_import: opsets, ..Model::default() }.encode_to_vec()
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
        raw_data: bytes.to_vec().into(),
        ..Tensor::default()
    }
}

fn value(name: &str, element: i32, shape: &[i64]) -> ValueInfo {
    value_of(name, tensor_type(element, Some(shape)))
}

fn value_of(name: &str, r#type: Type) -> ValueInfo {
    ValueInfo { name: name.to_owned(), r#type: Some(r#type) }
}

/// -1 stands for an open axis.
fn tensor_type(elem_type: i32, shape: Option<&[i64]>) -> Type {
    let dimension = |(axis, &length): (usize, &i64)| Dimension {
        value: Some(if length == -1 { Length::Symbol(format!("n{axis}")) } else { Length::Fixed(length) }),
    };
    let shape = shape.map(|shape| Shape { dim: shape.iter().enumerate().map(dimension).collect() });
    Type { tensor_type: Some(TensorType { elem_type, shape }), ..Type::default() }
}

fn sequence(of: Type) -> Type {
    Type { sequence_type: Some(Box::new(SequenceType { elem_type: Some(Box::new(of)) })), ..Type::default() }
}

fn integer(name: &str, value: i64) -> Attribute {
    Attribute { name: name.to_owned(), i: value, r#type: INT_ATTRIBUTE, ..Attribute::default() }
}
