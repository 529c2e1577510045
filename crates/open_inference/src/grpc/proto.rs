//! What `proto/*.proto` give, committed; `codegen/tests/generated.rs` says how it is renewed.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated; its documentation is in proto/")]

/// Package `inference`.
pub mod inference {
    pub use crate::grpc::typed::{InferTensorContents, Strings};

    include!("generated/inference.rs");

    /// Package `inference.model_repository`.
    pub mod model_repository {
        include!("generated/inference.model_repository.rs");
    }
}

/// All files of `proto/` as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/inference.bin");
