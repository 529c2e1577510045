//! Batching policy: whether requests of different callers may share a batch without changing each other's results.
//!
//! The static analysis of the graph ([`crate::onnx::analysis`]), a probe on the first session and the model settings decide. Checks
//! of real batches can revoke the decision later.

pub mod batch_probe;
pub mod check_sampler;
pub mod policy;
