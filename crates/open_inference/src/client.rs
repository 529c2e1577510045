use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

use crate::binary::{self, Tail};
use crate::check::shown;
use crate::json::elements;
use crate::tensor::checked_shape;
use crate::{Datatype, Error, Inference, Parameter, Parameters, Provenance, Tensor, Timing, byte_length, parameters};

/// `np`: tensors are what they are, here and there, whatever content types the model's settings name.
const BEGINNING: &str = r#"{"parameters":{"binary_data_output":true,"content_type":"np"},"inputs":["#;

/// A request as a binary body, which asks for binary outputs; and the headers that go with it.
pub fn encode_request(inputs: &[Tensor]) -> (HeaderMap, Bytes) {
    let mut json = String::from(BEGINNING);
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
struct Response<'a> {
    model_name: String,
    #[serde(default)]
    model_version: String,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow)]
    outputs: Vec<Output<'a>>,
}

#[derive(Deserialize)]
struct Output<'a> {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    #[serde(default, deserialize_with = "parameters::deserialize")]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a serde_json::value::RawValue>,
}

/// An answer, binary or JSON, with its provenance; its headers are the caller's to keep. What is wrong with it is the
/// answering side's fault, hence 502.
pub fn decode_response(headers: &HeaderMap, body: Bytes) -> Result<Inference, Error> {
    let bad = |error: Error| Error::new(StatusCode::BAD_GATEWAY, error.message);
    read_response(headers, body).map_err(bad)
}

fn read_response(headers: &HeaderMap, body: Bytes) -> Result<Inference, Error> {
    let (json, tail) = binary::split(body, binary::json_length(headers)?)?;
    let response: Response = serde_json::from_slice(&json)
        .map_err(|error| Error::malformed(format!("the answer is no JSON of one: {error}")))?;
    let mut tail = Tail::new(tail);
    let outputs =
        response.outputs.into_iter().map(|output| read_output(&output, &mut tail)).collect::<Result<_, _>>()?;
    tail.must_be_used_up()?;
    let text = |name: &str| response.parameters.get(name).and_then(Parameter::as_str).unwrap_or_default().to_owned();
    let millis = |name: &str| response.parameters.get(name).and_then(Parameter::as_f64).unwrap_or_default();
    let timing_ms = Timing { decode: millis("decode_ms"), queue: millis("queue_ms"), infer: millis("infer_ms") };
    let provenance = Provenance { model_digest: text("model_digest"), device: text("device"), timing_ms };
    let (model, version) = (response.model_name, response.model_version);
    Ok(Inference { model, version, outputs, provenance, headers: HeaderMap::new() })
}

fn read_output(output: &Output, tail: &mut Tail) -> Result<Tensor, Error> {
    let wrong = |reason: String| Error::malformed(format!("output {}: {reason}", shown(&output.name)));
    let data = match (output.data, output.parameters.get(binary::SIZE)) {
        (None, Some(size)) => tail.take(&output.name, size)?,
        (Some(data), None) => {
            let shape = checked_shape(&output.shape).map_err(|error| wrong(error.to_string()))?;
            // An element takes two bytes of text, so a text says how much it can become at most.
            let text = data.get().as_bytes();
            let room = text.len().saturating_mul(8);
            let fits = byte_length(&shape, output.datatype.size().unwrap_or(1)).is_some_and(|bytes| bytes <= room);
            let too_few = || wrong("its data is too short for its shape".to_owned());
            let read = || elements::read(text, output.datatype, &shape, room);
            fits.then(read).ok_or_else(too_few)?.map_err(|error| wrong(format!("{error:?}")))?.into()
        }
        _ => return Err(wrong("it has no data, or has them twice".to_owned())),
    };
    Tensor::new(&output.name, output.datatype, &output.shape, data).map_err(|error| wrong(error.to_string()))
}

/// An error as `{"error": "…"}`; a body that is none of ours gives the status alone.
pub fn decode_error(status: StatusCode, body: &[u8]) -> Error {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    let words = || status.canonical_reason().unwrap_or("an error without words").to_owned();
    Error::new(status, serde_json::from_slice(body).map_or_else(|_| words(), |body: Body| body.error))
}
