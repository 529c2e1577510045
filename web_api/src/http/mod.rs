//! HTTP layers and extractors.

/// Layer that applies only to some requests.
pub(crate) mod conditional_layer;

/// CORS for pages of other origins.
pub mod cors;

/// Extractors: everything that can be wrong with a request is checked before its handler runs.
pub mod extract;

/// Security headers of every response.
pub mod security_headers;
