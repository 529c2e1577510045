//! Decoding of inference requests.

use service::memory_budget::Reservation;

use super::input::decode_input;
use super::output_options::OutputOptions;
use super::table;
use super::validate::validate_inputs;
use crate::codec::byte_budget::ByteBudget;
use crate::error::Error;
use crate::types::{ModelMetadata, Tensor, WireRequest};

/// Part of a body that names, shapes and parameters may take.
const METADATA_BYTES: usize = 64 << 10;

/// Decodes the inputs of a request and parses the options of its outputs, both validated against the model's signature.
///
/// The tensors together have at most the size that a binary body of `max_body_bytes` could carry, because the request
/// may be forwarded as one. The limit is checked before allocation: a few bytes of JSON can describe a large tensor.
/// Memory is reserved in `memory` before it is allocated, and stays reserved.
pub fn decode_request(
    wire: WireRequest,
    model: &ModelMetadata,
    max_body_bytes: usize,
    memory: &mut Reservation,
) -> Result<(Vec<Tensor>, OutputOptions), Error> {
    let options = OutputOptions::parse(wire.id, &wire.parameters, &wire.outputs, model)?;
    let max_bytes = max_body_bytes - METADATA_BYTES.min(max_body_bytes / 2);
    let mut budget = ByteBudget::new(max_bytes, memory);
    let tensors = if table::is_table(&wire.parameters, &wire.inputs)? {
        table::decode_table(wire.inputs, &wire.parameters, model, &mut budget)?
    } else {
        let decode = |input| decode_input(input, &wire.parameters, model, &mut budget);
        wire.inputs.into_iter().map(decode).collect::<Result<_, _>>()?
    };
    validate_inputs(&tensors, model)?;
    Ok((tensors, options))
}
