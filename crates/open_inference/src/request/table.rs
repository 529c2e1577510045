//! Decoding of tables (content type `pd`).

use std::collections::HashSet;

use super::input::parse_tensor;
use super::validate::{duplicate_input, find_input, validate_inputs};
use crate::codec::byte_budget::ByteBudget;
use crate::codec::content_type::{self, ContentDecoder};
use crate::codec::pandas;
use crate::error::Error;
use crate::types::{ContentType, ModelMetadata, Parameters, Tensor, TensorMetadata, WireData, WireInput};

/// Whether the inputs are columns of a table: the content type of the request, or of every input, is `pd`.
pub(crate) fn is_table(request: &Parameters, inputs: &[WireInput]) -> Result<bool, Error> {
    if content_type::parse_content_type(request)? == Some(ContentType::Pd) {
        return Ok(true);
    }
    for input in inputs {
        if content_type::parse_content_type(&input.parameters)? != Some(ContentType::Pd) {
            return Ok(false);
        }
    }
    Ok(!inputs.is_empty())
}

/// Decodes the columns of a table, each `[N]` or `[N, 1]`.
///
/// Where the model has an input per column, each column is reshaped and cast to its input, because tables have 64-bit
/// numbers and models mostly 32-bit ones. Where the model has a single input of rank 2, the columns are concatenated in
/// the order of the request, as the exports of scikit-learn expect.
pub(crate) fn decode_table(
    inputs: Vec<WireInput>,
    request: &Parameters,
    model: &ModelMetadata,
    budget: &mut ByteBudget<'_>,
) -> Result<Vec<Tensor>, Error> {
    let is_input = |name: &str| model.inputs.iter().any(|input| input.name == name);
    let matrix_input = single_matrix_input(model).filter(|_| inputs.iter().all(|input| !is_input(&input.name)));
    let mut seen = HashSet::new();
    let mut columns: Vec<Tensor> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let metadata = match matrix_input {
            Some(_) if !seen.insert(input.name.clone()) => return Err(duplicate_input(&input.name)),
            Some(matrix) => matrix,
            None => find_input(&input.name, model)?,
        };
        let is_json = matches!(input.data, WireData::Json(_));
        let decoder = ContentDecoder::select(
            content_type::requested_content_type(&input.parameters, request)?,
            is_json,
            metadata,
        );
        let column = content_type::decode(parse_tensor(input, budget)?, decoder, metadata, budget)?;
        let column = pandas::cast(column, metadata.datatype, budget)?;
        columns.push(if matrix_input.is_none() { pandas::match_rank(column, metadata) } else { column });
    }
    match matrix_input {
        Some(matrix) => {
            let joined = pandas::concat_columns(&columns, matrix, budget)?;
            validate_inputs(std::slice::from_ref(&joined), model)?;
            Ok(vec![joined])
        }
        None => Ok(columns),
    }
}

fn single_matrix_input(model: &ModelMetadata) -> Option<&TensorMetadata> {
    model.only_input().filter(|input| input.shape.len() == 2)
}
