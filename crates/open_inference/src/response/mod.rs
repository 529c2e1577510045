//! Responses: the requested outputs of an inference, each in the requested encoding.

mod encode;

pub use encode::{encode_response, outputs_to_json};
