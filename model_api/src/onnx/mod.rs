//! ONNX files: protobuf messages, external data files and static analysis of graphs.

pub mod analysis;
pub mod external_data;
pub mod proto;
