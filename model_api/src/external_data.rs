//! Large ONNX models keep tensors in files beside the graph; this finds out which files those are.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use bytes::Bytes;

use crate::onnx_file::{Attribute, Graph, Model, SparseTensor, Tensor};

/// The files, relative to the graph's folder, that hold tensors of this ONNX file. Refuses those outside that folder.
pub fn locations(onnx: Bytes) -> Result<BTreeSet<String>, String> {
    locations_of(&Model::read(onnx)?)
}

/// The same, of a model that has been read.
pub fn locations_of(model: &Model) -> Result<BTreeSet<String>, String> {
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
pub fn stays_inside(location: &str) -> bool {
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
        self.t.iter().chain(&self.tensors).for_each(|tensor| tensor.visit(locations));
        self.g.iter().chain(&self.graphs).for_each(|graph| graph.visit(locations));
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
    use prost::Message as _;

    use super::*;
    use crate::onnx_file::{Entry, Function, Node};

    fn tensor(location: &str) -> Tensor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        Tensor { external_data: vec![entry("offset", "0"), entry("location", location)], ..Tensor::default() }
    }

    fn with(attribute: Attribute) -> Graph {
        let node = Node { attribute: vec![attribute], ..Node::default() };
        Graph { node: vec![node], ..Graph::default() }
    }

    #[test]
    fn data_files_are_found_wherever_a_tensor_can_stand() {
        let innermost = with(Attribute { tensors: vec![tensor("loop.bin")], ..Attribute::default() });
        let sparse = SparseTensor { values: Some(tensor("values.bin")), indices: Some(tensor("indices.bin")) };
        let model = Model {
            graph: Some(Graph {
                initializer: vec![tensor("weights.bin"), tensor("data/more.bin"), tensor("weights.bin")],
                sparse_initializer: vec![sparse],
                ..with(Attribute { g: Some(innermost), ..Attribute::default() })
            }),
            functions: vec![Function {
                node: vec![Node {
                    attribute: vec![Attribute { t: Some(tensor("f.bin")), ..Attribute::default() }],
                    ..Node::default()
                }],
                ..Function::default()
            }],
            ..Model::default()
        };
        let found = locations(model.encode_to_vec().into()).unwrap();
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["data/more.bin", "f.bin", "indices.bin", "loop.bin", "values.bin", "weights.bin"]
        );
    }

    #[test]
    fn files_outside_the_folder_are_refused() {
        for bad in ["/etc/passwd", "../w.bin", "a/../../w.bin", ""] {
            let graph = Graph { initializer: vec![tensor(bad)], ..Graph::default() };
            let model = Model { graph: Some(graph), ..Model::default() };
            let error = locations(model.encode_to_vec().into()).unwrap_err();
            assert!(error.contains("outside its own folder"), "{bad}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_model_are_an_error() {
        assert!(locations(Bytes::from_static(b"\xff\xff\xff")).unwrap_err().contains("no ONNX model"));
    }
}
