//! Large ONNX models keep tensors in files beside the graph. This reads just enough of the format (a subset of
//! `onnx.proto3`, field numbers as there; prost skips the rest) to know which files those are.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "25")]
    functions: Vec<Function>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "15")]
    sparse_initializer: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(message, repeated, tag = "7")]
    node: Vec<Node>,
    #[prost(message, repeated, tag = "11")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "5")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "10")]
    tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    graphs: Vec<Graph>,
    #[prost(message, optional, tag = "22")]
    sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    sparse_tensors: Vec<SparseTensor>,
}

#[derive(Clone, PartialEq, Message)]
struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    indices: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// The files, relative to the graph's folder, that hold tensors of this ONNX file. Refuses those outside that folder.
pub fn locations(onnx: &[u8]) -> Result<BTreeSet<String>, String> {
    let model = Model::decode(onnx).map_err(|_| "the file is no ONNX model, or is damaged".to_owned())?;
    let mut locations = BTreeSet::new();
    model.graph.iter().for_each(|graph| graph.visit(&mut locations));
    for function in &model.functions {
        function.node.iter().flat_map(|node| &node.attribute).for_each(|attribute| attribute.visit(&mut locations));
        function.attribute.iter().for_each(|attribute| attribute.visit(&mut locations));
    }
    match locations.iter().find(|location| !stays_inside(location)) {
        Some(_) => Err("the graph names a data file outside its own folder".to_owned()),
        None => Ok(locations),
    }
}

/// Whether it is a plain relative path: no `..`, no root.
fn stays_inside(location: &str) -> bool {
    let mut parts = Path::new(location).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

impl Graph {
    fn visit(&self, locations: &mut BTreeSet<String>) {
        self.initializer.iter().for_each(|tensor| tensor.visit(locations));
        self.sparse_initializer.iter().for_each(|tensor| tensor.visit(locations));
        self.node.iter().flat_map(|node| &node.attribute).for_each(|attribute| attribute.visit(locations));
    }
}

impl Attribute {
    fn visit(&self, locations: &mut BTreeSet<String>) {
        self.tensor.iter().chain(&self.tensors).for_each(|tensor| tensor.visit(locations));
        self.graph.iter().chain(&self.graphs).for_each(|graph| graph.visit(locations));
        self.sparse_tensor.iter().chain(&self.sparse_tensors).for_each(|tensor| tensor.visit(locations));
    }
}

impl SparseTensor {
    fn visit(&self, locations: &mut BTreeSet<String>) {
        self.values.iter().chain(&self.indices).for_each(|tensor| tensor.visit(locations));
    }
}

impl Tensor {
    fn visit(&self, locations: &mut BTreeSet<String>) {
        let files = self.external_data.iter().filter(|entry| entry.key == "location");
        locations.extend(files.map(|entry| entry.value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(location: &str) -> Tensor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        Tensor { external_data: vec![entry("offset", "0"), entry("location", location)] }
    }

    fn with(attribute: Attribute) -> Graph {
        Graph { node: vec![Node { attribute: vec![attribute] }], ..Graph::default() }
    }

    #[test]
    fn data_files_are_found_wherever_a_tensor_can_stand() {
        let innermost = with(Attribute { tensors: vec![tensor("loop.bin")], ..Attribute::default() });
        let sparse = SparseTensor { values: Some(tensor("values.bin")), indices: Some(tensor("indices.bin")) };
        let model = Model {
            graph: Some(Graph {
                initializer: vec![tensor("weights.bin"), tensor("data/more.bin"), tensor("weights.bin")],
                sparse_initializer: vec![sparse],
                ..with(Attribute { graph: Some(innermost), ..Attribute::default() })
            }),
            functions: vec![Function {
                node: vec![Node {
                    attribute: vec![Attribute { tensor: Some(tensor("f.bin")), ..Attribute::default() }],
                }],
                attribute: vec![],
            }],
        };
        let found = locations(&model.encode_to_vec()).unwrap();
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["data/more.bin", "f.bin", "indices.bin", "loop.bin", "values.bin", "weights.bin"]
        );
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        for bad in ["/etc/passwd", "../w.bin", "a/../../w.bin", ""] {
            let graph = Graph { initializer: vec![tensor(bad)], ..Graph::default() };
            let model = Model { graph: Some(graph), functions: vec![] };
            let error = locations(&model.encode_to_vec()).unwrap_err();
            assert!(error.contains("outside its own folder"), "{bad}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_model_are_an_error() {
        assert!(locations(b"\xff\xff\xff").unwrap_err().contains("no ONNX model"));
    }
}
