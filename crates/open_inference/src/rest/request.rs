//! Reading and parsing of request bodies.

use axum::extract::Request;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use service::body_limits::ReadBody;
use service::memory_budget::Reservation;

use super::state::RestState;
use crate::codec::binary;
use crate::codec::json::{parse_request, utf8_json};
use crate::error::Error;
use crate::request::image_settings_hint;
use crate::request::validate::tensor_names;
use crate::server::InferenceServer;
use crate::truncate::quoted;
use crate::types::{
    ContentType, Datatype, ModelMetadata, Parameter, Parameters, TensorMetadata, WireData, WireInput, WireRequest,
};

/// A request with its body in memory.
pub(super) struct BufferedRequest {
    pub headers: HeaderMap,
    pub body: ReadBody,
}

pub(super) async fn read_body<S: InferenceServer>(
    state: &RestState<S>,
    request: Request,
) -> Result<BufferedRequest, Error> {
    let (parts, body) = request.into_parts();
    // The compression layer has already removed `gzip` and `deflate`.
    if let Some(encoding) = parts.headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") {
        let encoding = quoted(&String::from_utf8_lossy(encoding.as_bytes()));
        let message = format!("content encoding {encoding} is not supported; supported encodings are: gzip, deflate");
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let body = state.bodies.read(&parts, body).await?;
    Ok(BufferedRequest { headers: parts.headers, body })
}

/// Parses a body: JSON with or without binary data, a raw tensor, or an image.
pub(super) fn parse_body(
    headers: &HeaderMap,
    body: &Bytes,
    model: &ModelMetadata,
    memory: &mut Reservation,
) -> Result<WireRequest, Error> {
    match binary::json_length(headers)? {
        None if is_image_body(headers, body, model) => image_request(body, model, memory),
        Some(0) => raw_tensor_request(body, model, memory),
        length => parse_request(body, length),
    }
}

fn is_image_body(headers: &HeaderMap, body: &[u8], model: &ModelMetadata) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let accepts_only_images = || model.only_input().is_some_and(TensorMetadata::accepts_images);
    // Some clients also send JSON with this media type. No image format starts with a brace.
    let is_json = || utf8_json(body).is_ok_and(|text| text.trim_ascii_start().starts_with(b"{"));
    let is_untyped = media_type == "application/octet-stream";
    media_type.starts_with("image/") || is_untyped && accepts_only_images() && !is_json()
}

fn image_request(body: &Bytes, model: &ModelMetadata, memory: &mut Reservation) -> Result<WireRequest, Error> {
    let unsupported = || {
        let hint = image_settings_hint(&model.name, &model.inputs).map(|hint| format!(". {hint}"));
        let hint = hint.unwrap_or_default();
        let message = format!("model {:?} does not accept an image as its only input{hint}", model.name);
        Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    };
    let is_image_input = |input: &&TensorMetadata| input.parameters.content_type == Some(ContentType::Image);
    let input = model.only_input().filter(is_image_input).ok_or_else(unsupported)?;
    let rank = if input.accepts_images() { 1 } else { input.shape.len() };
    Ok(single_input_request(input, Datatype::Bytes, vec![1; rank], bytes_element(body, memory)?))
}

/// Triton's raw binary request: without JSON, the shape follows from the size, and the response is binary as well.
fn raw_tensor_request(body: &Bytes, model: &ModelMetadata, memory: &mut Reservation) -> Result<WireRequest, Error> {
    let not_single = || {
        let inputs = tensor_names(&model.inputs);
        Error::malformed(format!(
            "a body without JSON requires a model with one input; model {:?} has the inputs {inputs}",
            model.name
        ))
    };
    let input = model.only_input().ok_or_else(not_single)?;
    let request = match input.datatype.size() {
        // The whole body is one element.
        None => single_input_request(
            input,
            Datatype::Bytes,
            input.shape.iter().map(|&axis| axis.max(1)).collect(),
            bytes_element(body, memory)?,
        ),
        Some(size) => single_input_request(input, input.datatype, infer_shape(body.len(), size, input)?, body.clone()),
    };
    let binary = Parameters::from([(binary::BINARY_DATA_OUTPUT.to_owned(), Parameter::Bool(true))]);
    Ok(WireRequest { parameters: binary, ..request })
}

fn infer_shape(bytes: usize, size: usize, input: &TensorMetadata) -> Result<Vec<i64>, Error> {
    let mut shape = input.shape.clone();
    let open_axes: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] < 0).collect();
    let axis = match open_axes[..] {
        [] => return Ok(shape),
        [axis] => axis,
        // The first axis is the batch axis, and a raw tensor is a batch of one.
        [0, axis] => {
            shape[0] = 1;
            axis
        }
        _ => {
            let shape = &input.shape;
            return Err(Error::malformed(format!(
                "the shape {shape:?} does not follow from the size of the body: send it in JSON"
            )));
        }
    };
    let fixed = shape
        .iter()
        .filter(|&&length| length >= 0)
        .try_fold(size, |product, &length| product.checked_mul(usize::try_from(length).ok()?));
    let length = fixed.filter(|&fixed| fixed > 0 && bytes.is_multiple_of(fixed)).map(|fixed| bytes / fixed);
    let (name, datatype) = (&input.name, input.datatype);
    let mismatch = || {
        Error::malformed(format!(
            "{bytes} bytes do not match datatype {datatype} and shape {:?} of input {name:?}",
            input.shape
        ))
    };
    shape[axis] = length.ok_or_else(mismatch)?.cast_signed() as i64;
    Ok(shape)
}

fn single_input_request(input: &TensorMetadata, datatype: Datatype, shape: Vec<i64>, data: Bytes) -> WireRequest {
    let input = WireInput {
        name: input.name.clone(),
        datatype: datatype.name().to_owned(),
        shape,
        parameters: Parameters::new(),
        data: WireData::Raw(data),
    };
    WireRequest { inputs: vec![input], ..WireRequest::default() }
}

/// Encodes a body as one `BYTES` element.
fn bytes_element(body: &[u8], memory: &mut Reservation) -> Result<Bytes, Error> {
    memory.reserve(4 + body.len())?;
    let mut data = BytesMut::with_capacity(4 + body.len());
    data.put_u32_le(body.len() as u32);
    data.put_slice(body);
    Ok(data.freeze())
}
