//! Code generated from `proto/*.proto` and committed. `codegen/tests/generated.rs` documents how to regenerate it.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated; its documentation is in proto/")]

/// Package `inference`.
pub mod inference {
    pub use crate::grpc::typed::{InferTensorContents, PackedStrings};

    include!("generated/inference.rs");

    /// Package `inference.model_repository`.
    pub mod model_repository {
        include!("generated/inference.model_repository.rs");
    }
}

/// All files of `proto/` as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/inference.bin");

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn fields_of_typed_contents_match_the_proto_file() {
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
        let mut messages = set.file.into_iter().flat_map(|file| file.message_type);
        let message = messages.find(|message| message.name() == "InferTensorContents").unwrap();
        let fields: Vec<_> = message.field.iter().map(|field| (field.number(), field.name().to_owned())).collect();
        let ours = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"];
        let ours = (1..).zip(ours).map(|(number, name)| (number, format!("{name}_contents")));
        assert_eq!(fields, ours.collect::<Vec<_>>());
    }
}
