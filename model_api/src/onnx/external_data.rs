//! External data of ONNX models: the files in which large models keep their tensors.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

use bytes::Bytes;

use crate::onnx::proto::{Attribute, Graph, Model, SparseTensor, Tensor};

/// The external data files of an ONNX file; see [`locations`].
pub fn locations_in_file(onnx: Bytes) -> Result<BTreeSet<String>, String> {
    locations(&Model::parse(onnx)?)
}

/// The external data files of a model, relative to the graph's folder. Refuses files outside that folder.
pub fn locations(model: &Model) -> Result<BTreeSet<String>, String> {
    let mut locations = BTreeSet::new();
    model.graph.iter().for_each(|graph| graph.collect_locations(&mut locations));
    for function in &model.functions {
        function
            .node
            .iter()
            .flat_map(|node| &node.attribute)
            .for_each(|attribute| attribute.collect_locations(&mut locations));
        function.attribute.iter().for_each(|attribute| attribute.collect_locations(&mut locations));
    }
    match locations.iter().find(|location| !is_contained_path(location)) {
        Some(_) => Err("the graph names a data file outside its own folder".to_owned()),
        None => Ok(locations),
    }
}

/// Opens an external data file of this graph. Refuses symbolic links: a graph of unknown origin must not read files outside
/// its folder.
pub fn open(graph: &Path, location: &str) -> io::Result<File> {
    let mut path = graph.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(location).components() {
        path.push(part);
        if fs::symlink_metadata(&path)?.is_symlink() {
            return Err(io::Error::other("it is a symbolic link"));
        }
    }
    if !fs::metadata(&path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// Whether this is a plain relative path: no `..`, no root.
pub fn is_contained_path(location: &str) -> bool {
    let mut parts = Path::new(location).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

impl Graph {
    fn collect_locations(&self, locations: &mut BTreeSet<String>) {
        self.initializer.iter().for_each(|tensor| tensor.collect_locations(locations));
        self.sparse_initializer.iter().for_each(|tensor| tensor.collect_locations(locations));
        self.node.iter().flat_map(|node| &node.attribute).for_each(|attribute| attribute.collect_locations(locations));
    }
}

impl Attribute {
    fn collect_locations(&self, locations: &mut BTreeSet<String>) {
        self.t.iter().chain(&self.tensors).for_each(|tensor| tensor.collect_locations(locations));
        self.g.iter().chain(&self.graphs).for_each(|graph| graph.collect_locations(locations));
        self.sparse_tensor.iter().chain(&self.sparse_tensors).for_each(|tensor| tensor.collect_locations(locations));
    }
}

impl SparseTensor {
    fn collect_locations(&self, locations: &mut BTreeSet<String>) {
        self.values.iter().chain(&self.indices).for_each(|tensor| tensor.collect_locations(locations));
    }
}

impl Tensor {
    fn collect_locations(&self, locations: &mut BTreeSet<String>) {
        let files = self.external_data.iter().filter(|entry| entry.key == "location");
        locations.extend(files.map(|entry| entry.value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::onnx::proto::{Entry, Function, Node};

    fn tensor(location: &str) -> Tensor {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
        Tensor { external_data: vec![entry("offset", "0"), entry("location", location)], ..Tensor::default() }
    }

    fn with(attribute: Attribute) -> Graph {
        let node = Node { attribute: vec![attribute], ..Node::default() };
        Graph { node: vec![node], ..Graph::default() }
    }

    #[test]
    fn data_files_of_all_tensors_are_found() {
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
        let found = locations_in_file(model.encode_to_vec().into()).unwrap();
        assert_eq!(
            found.iter().map(String::as_str).collect::<Vec<_>>(),
            ["data/more.bin", "f.bin", "indices.bin", "loop.bin", "values.bin", "weights.bin"]
        );
    }

    #[test]
    fn files_outside_the_folder_are_rejected() {
        for bad in ["/etc/passwd", "../w.bin", "a/../../w.bin", ""] {
            let graph = Graph { initializer: vec![tensor(bad)], ..Graph::default() };
            let model = Model { graph: Some(graph), ..Model::default() };
            let error = locations_in_file(model.encode_to_vec().into()).unwrap_err();
            assert!(error.contains("outside its own folder"), "{bad}: {error}");
        }
    }

    #[test]
    fn bytes_that_are_no_model_are_an_error() {
        assert!(locations_in_file(Bytes::from_static(b"\xff\xff\xff")).unwrap_err().contains("not an ONNX model"));
    }
}
