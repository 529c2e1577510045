//! The limits: the least work with which a request can be served.

/// Cached responses.
pub mod hits;

/// ONNX Runtime alone.
pub mod raw;

/// All in one process.
pub mod one_process;

/// A session in a child process against the same one in this process.
pub mod isolation;
