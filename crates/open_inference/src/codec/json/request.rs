//! Parser for requests in JSON with binary tensor data.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::bounded::BoundedVec;
use super::encoding::utf8_json;
use super::object::Object;
use crate::codec::binary;
use crate::codec::binary::BinaryTail;
use crate::error::Error;
use crate::truncate::{quoted, truncated};
use crate::types::{Parameters, RequestedOutput, WireData, WireInput, WireRequest, parameters};

/// More inputs or outputs than any model or table has.
const MAX_TENSORS: usize = 4096;

/// More than [`MAX_RANK`](crate::MAX_RANK), so that the error can name the number of axes.
const MAX_PARSED_AXES: usize = 64;

#[derive(Deserialize)]
struct JsonRequest<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: BoundedVec<Object<JsonInput<'a>>, MAX_TENSORS>,
    #[serde(default)]
    outputs: Option<BoundedVec<Object<JsonOutput>, MAX_TENSORS>>,
}

// `data` may precede `datatype` and `shape`, so its text is kept and parsed when both are known.
#[derive(Deserialize)]
struct JsonInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    datatype: String,
    shape: BoundedVec<i64, MAX_PARSED_AXES>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct JsonOutput {
    name: String,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
}

/// Parses a request: JSON, followed by the binary data of the inputs that have a `binary_data_size`. Elements are
/// slices of `body`, not copies.
///
/// `json_length` is the value of `Inference-Header-Content-Length`. Without it, the whole body is JSON.
pub fn parse_request(body: &Bytes, json_length: Option<usize>) -> Result<WireRequest, Error> {
    let (json, tail) = binary::split_body(body.clone(), json_length)?;
    let text = utf8_json(&json).map_err(|error| Error::malformed(error.to_string()))?;
    let Object(request): Object<JsonRequest> = serde_json::from_slice(text).map_err(|error| {
        Error::malformed(format!("the body is not a valid inference request: {}", truncated(&error)))
    })?;
    let mut tail = BinaryTail::new(tail);
    let inputs = request.inputs.0.into_iter().map(|Object(input)| convert_input(input, &json, &mut tail));
    let inputs = inputs.collect::<Result<_, _>>()?;
    tail.expect_empty()?;
    let output =
        |Object(output): Object<JsonOutput>| RequestedOutput { name: output.name, parameters: output.parameters };
    Ok(WireRequest {
        id: request.id,
        parameters: request.parameters,
        inputs,
        outputs: request.outputs.into_iter().flat_map(|outputs| outputs.0).map(output).collect(),
    })
}

fn convert_input(input: JsonInput, json: &Bytes, tail: &mut BinaryTail) -> Result<WireInput, Error> {
    let name = quoted(&input.name);
    let both = || Error::malformed(format!("input {name} has both data in the JSON and binary data"));
    let none = || Error::malformed(format!("input {name} has neither data nor a binary_data_size"));
    let shared = || Error::malformed(format!("input {name} is in shared memory, which is not supported"));
    let data = match (input.data, input.parameters.get(binary::BINARY_DATA_SIZE)) {
        (Some(data), None) => WireData::Json(json.slice_ref(data.get().as_bytes())),
        (None, Some(size)) => WireData::Raw(tail.split_next(&input.name, size)?),
        (Some(_), Some(_)) => return Err(both()),
        (None, None) if input.parameters.contains_key("shared_memory_region") => return Err(shared()),
        (None, None) => return Err(none()),
    };
    Ok(WireInput {
        name: input.name.into_owned(),
        datatype: input.datatype,
        shape: input.shape.0,
        parameters: input.parameters,
        data,
    })
}
