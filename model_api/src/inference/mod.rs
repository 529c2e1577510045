//! Inference: checks a request, decodes its images, runs the model.

mod infer;

pub use infer::infer;
