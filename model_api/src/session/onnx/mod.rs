//! ONNX Runtime bindings through `ort`. Only the child process uses them.

mod graph;
mod sanitize_error;

mod strings;
mod value;

mod device;
mod padding;
mod run_options;
mod session_builder;
mod warm_up;

mod model;

pub use model::OnnxModel;
pub use run_options::CancelFlag;
