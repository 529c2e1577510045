//! Extractors. Each one carries the checks of what it extracts, so that no handler can omit them.

/// One image of a request.
pub mod image_upload;

/// The job that a path names.
pub mod job_path;

/// Many inputs of one request.
pub mod job_submission;

/// The model that a path names.
pub mod model_name;

/// The query parameter `top_k`.
pub mod top_k;
