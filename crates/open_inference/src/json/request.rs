use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::at_most::AtMost;
use super::encoding::utf8_json;
use super::object::Object;
use crate::binary::{self, Tail};
use crate::check::{cut, shown};
use crate::parameters;
use crate::{Error, Parameters, RequestedOutput, WireData, WireInput, WireRequest};

/// More than any model or table has.
const MOST_TENSORS: usize = 4096;

/// More than are served, so that the error can say how many there are.
const MOST_AXES: usize = 64;

#[derive(Deserialize)]
struct JsonRequest<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: AtMost<Object<JsonInput<'a>>, MOST_TENSORS>,
    #[serde(default)]
    outputs: Option<AtMost<Object<JsonOutput>, MOST_TENSORS>>,
}

// `data` may stand before `datatype` and `shape`; so its text is kept, and read when both are known.
#[derive(Deserialize)]
struct JsonInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    datatype: String,
    shape: AtMost<i64, MOST_AXES>,
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

/// Reads a request: JSON, and behind it the raw elements of those inputs that name a `binary_data_size`. Elements are
/// slices of `body`, not copies.
///
/// `json_length` is what `Inference-Header-Content-Length` said; without one, all of the body is JSON.
pub fn parse_request(body: &Bytes, json_length: Option<usize>) -> Result<WireRequest, Error> {
    let (json, tail) = binary::split(body.clone(), json_length)?;
    let text = utf8_json(&json).map_err(|error| Error::malformed(error.to_string()))?;
    let Object(request): Object<JsonRequest> = serde_json::from_slice(text)
        .map_err(|error| Error::malformed(format!("the body is no JSON of an inference request: {}", cut(&error))))?;
    let mut tail = Tail::new(tail);
    let inputs = request.inputs.0.into_iter().map(|Object(input)| read_input(input, &json, &mut tail));
    let inputs = inputs.collect::<Result<_, _>>()?;
    tail.must_be_used_up()?;
    let output =
        |Object(output): Object<JsonOutput>| RequestedOutput { name: output.name, parameters: output.parameters };
    Ok(WireRequest {
        id: request.id,
        parameters: request.parameters,
        inputs,
        outputs: request.outputs.into_iter().flat_map(|outputs| outputs.0).map(output).collect(),
    })
}

fn read_input(input: JsonInput, json: &Bytes, tail: &mut Tail) -> Result<WireInput, Error> {
    let name = shown(&input.name);
    let both = || Error::malformed(format!("input {name} has data both in the JSON and behind it"));
    let none = || Error::malformed(format!("input {name} has neither data nor a binary_data_size"));
    let shared = || Error::malformed(format!("input {name} is in shared memory, which is not served"));
    let data = match (input.data, input.parameters.get(binary::SIZE)) {
        (Some(data), None) => WireData::Json(json.slice_ref(data.get().as_bytes())),
        (None, Some(size)) => WireData::Raw(tail.take(&input.name, size)?),
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
