//! Client side of the REST transport: encoder for requests, decoder for responses and errors.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

use crate::codec::binary;
use crate::codec::binary::BinaryTail;
use crate::codec::json::array;
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::tensor::checked_shape;
use crate::types::{Datatype, Inference, Parameter, Parameters, Provenance, Tensor, Timing, byte_length, parameters};

/// `np` disables the content types of the settings, for inputs and outputs.
const REQUEST_PREFIX: &str = r#"{"parameters":{"binary_data_output":true,"content_type":"np"},"inputs":["#;

/// Encodes a request with binary tensor data, which also requests binary outputs. Returns its headers and body.
pub fn encode_request(inputs: &[Tensor]) -> (HeaderMap, Bytes) {
    let mut json = String::from(REQUEST_PREFIX);
    for (index, input) in inputs.iter().enumerate() {
        let Tensor { name, datatype, shape, data } = input;
        let comma = if index > 0 { "," } else { "" };
        let name = serde_json::Value::from(name.as_str());
        let size = data.len();
        let _ = write!(
            json,
            r#"{comma}{{"name":{name},"datatype":"{datatype}","shape":{shape:?},"parameters":{{"binary_data_size":{size}}}}}"#
        );
    }
    json.push_str("]}");
    let mut body = BytesMut::with_capacity(json.len() + inputs.iter().map(|input| input.data.len()).sum::<usize>());
    body.put_slice(json.as_bytes());
    for input in inputs {
        body.put_slice(&input.data);
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(binary::HEADER_LENGTH), HeaderValue::from(json.len())),
    ];
    (headers.into_iter().collect(), body.freeze())
}

#[derive(Deserialize)]
struct ResponseBody<'a> {
    model_name: String,
    #[serde(default)]
    model_version: String,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow)]
    outputs: Vec<OutputBody<'a>>,
}

#[derive(Deserialize)]
struct OutputBody<'a> {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a serde_json::value::RawValue>,
}

/// Decodes a binary or JSON response. The response headers are left to the caller. An invalid response is an error of
/// the upstream server, hence 502.
pub fn decode_response(headers: &HeaderMap, body: Bytes) -> Result<Inference, Error> {
    let bad_gateway = |error: Error| Error::new(StatusCode::BAD_GATEWAY, error.message);
    parse_response(headers, body).map_err(bad_gateway)
}

fn parse_response(headers: &HeaderMap, body: Bytes) -> Result<Inference, Error> {
    let (json, tail) = binary::split_body(body, binary::json_length(headers)?)?;
    let response: ResponseBody = serde_json::from_slice(&json)
        .map_err(|error| Error::malformed(format!("the response is not a valid inference response: {error}")))?;
    let mut tail = BinaryTail::new(tail);
    let outputs =
        response.outputs.into_iter().map(|output| parse_output(&output, &mut tail)).collect::<Result<_, _>>()?;
    tail.expect_empty()?;
    let text = |name: &str| response.parameters.get(name).and_then(Parameter::as_str).unwrap_or_default().to_owned();
    let millis = |name: &str| response.parameters.get(name).and_then(Parameter::as_f64).unwrap_or_default();
    let timing_ms = Timing { decode: millis("decode_ms"), queue: millis("queue_ms"), infer: millis("infer_ms") };
    let provenance = Provenance { model_digest: text("model_digest"), device: text("device"), timing_ms };
    let (model, version) = (response.model_name, response.model_version);
    Ok(Inference { model, version, outputs, provenance, headers: HeaderMap::new() })
}

fn parse_output(output: &OutputBody, tail: &mut BinaryTail) -> Result<Tensor, Error> {
    let invalid = |reason: String| Error::malformed(format!("output {}: {reason}", quoted(&output.name)));
    let data = match (output.data, output.parameters.get(binary::BINARY_DATA_SIZE)) {
        (None, Some(size)) => tail.split_next(&output.name, size)?,
        (Some(data), None) => {
            let shape = checked_shape(&output.shape).map_err(|error| invalid(error.to_string()))?;
            // An element takes at least two bytes of text, which bounds its decoded size.
            let text = data.get().as_bytes();
            let max_bytes = text.len().saturating_mul(8);
            let fits = byte_length(&shape, output.datatype.size().unwrap_or(1)).is_some_and(|bytes| bytes <= max_bytes);
            let too_short = || invalid("its data is too short for its shape".to_owned());
            let parse = || array::parse_array(text, output.datatype, &shape, max_bytes);
            fits.then(parse).ok_or_else(too_short)?.map_err(|error| invalid(error.to_string()))?.into()
        }
        _ => return Err(invalid("it must have either data or a binary_data_size".to_owned())),
    };
    Tensor::new(&output.name, output.datatype, &output.shape, data).map_err(|error| invalid(error.to_string()))
}

/// Decodes an error response, `{"error": "…"}`. Any other body gives the reason phrase of the status.
pub fn decode_error(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    let reason = || status.canonical_reason().unwrap_or("unknown error").to_owned();
    Error::new(status, serde_json::from_slice(body).map_or_else(|_| reason(), |body: Body| body.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_data_of_a_response_is_reported_with_the_name_of_its_output() {
        let body =
            r#"{"model_name": "m", "outputs": [{"name": "y", "datatype": "INT8", "shape": [2], "data": [1, 0.5]}]}"#;
        let error = decode_response(&HeaderMap::new(), body.into()).unwrap_err();
        assert_eq!(error.status, StatusCode::BAD_GATEWAY);
        assert_eq!(error.message, r#"output "y": element 1: 0.5 is not a valid INT8"#);
    }
}
