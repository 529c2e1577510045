//! What thinks: a folder of ONNX models, served.

/// An encoded picture becomes the tensor a model expects, within limits.
pub mod image_input;
