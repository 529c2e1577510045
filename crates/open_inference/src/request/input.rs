//! Decoding of a single input.

use super::validate::find_input;
use crate::codec::byte_budget::ByteBudget;
use crate::codec::content_type::{self, ContentDecoder};
use crate::codec::json::array::{self, ArrayError};
use crate::codec::pandas;
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::tensor::checked_shape;
use crate::types::{
    ContentType, Datatype, ModelMetadata, Parameters, Tensor, TensorError, UnknownDatatype, WireData, WireInput,
    byte_length,
};

pub(super) fn decode_input(
    input: WireInput,
    request: &Parameters,
    model: &ModelMetadata,
    budget: &mut ByteBudget<'_>,
) -> Result<Tensor, Error> {
    let metadata = find_input(&input.name, model)?;
    let requested = content_type::requested_content_type(&input.parameters, request)?;
    let decoder = ContentDecoder::select(
        requested.or(metadata.parameters.content_type),
        matches!(input.data, WireData::Json(_)),
        metadata,
    );
    let tensor = content_type::decode(parse_tensor(input, budget)?, decoder, metadata, budget)?;
    // MLServer's codecs send every list as a column.
    let is_column = matches!(requested, Some(ContentType::Str | ContentType::Base64 | ContentType::Datetime));
    Ok(if is_column { pandas::match_rank(tensor, metadata) } else { tensor })
}

/// Parses the elements of an input. The content type is applied afterwards.
pub(super) fn parse_tensor(input: WireInput, budget: &mut ByteBudget<'_>) -> Result<Tensor, Error> {
    let WireInput { name, datatype, shape, data, .. } = input;
    let malformed = |reason: String| Error::malformed(format!("input {}: {reason}", quoted(&name)));
    let datatype: Datatype = datatype.parse().map_err(|error: UnknownDatatype| malformed(error.to_string()))?;
    let invalid = |error: TensorError| malformed(error.to_string());
    let data = match data {
        WireData::Raw(data) => data,
        WireData::Json(text) => {
            let lengths = checked_shape(&shape).map_err(invalid)?;
            let fits =
                byte_length(&lengths, datatype.size().unwrap_or(4)).is_some_and(|bytes| bytes <= budget.remaining());
            if !fits {
                return Err(budget.too_large());
            }
            budget.reserve(array::capacity(&text, datatype, &lengths, budget.remaining()))?;
            let data =
                array::parse_array(&text, datatype, &lengths, budget.remaining()).map_err(|error| match error {
                    ArrayError::Malformed(reason) => malformed(reason),
                    ArrayError::TooLarge => budget.too_large(),
                })?;
            data.into()
        }
    };
    budget.consume(data.len())?;
    Tensor::new(&name, datatype, &shape, data).map_err(invalid)
}
