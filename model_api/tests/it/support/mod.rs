//! Support code of the tests.

pub mod fake;
pub mod folder;
pub mod onnx;
pub mod process;
pub mod router;
pub mod squares;
