use axum::extract::Request;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use service::body_limits::ReadBody;
use service::memory_budget::Reservation;

use super::Rest;
use crate::check::{names, shown};
use crate::{
    ContentType, Datatype, Error, InferenceServer, ModelMetadata, Parameter, Parameters, TensorMetadata, WireData,
    WireInput, WireRequest, binary, image_settings, read_request, utf8_json,
};

/// A request whose body has come, within the bounds for one.
pub(super) struct ReadRequest {
    pub headers: HeaderMap,
    pub body: ReadBody,
}

pub(super) async fn read_body<S: InferenceServer>(rest: &Rest<S>, request: Request) -> Result<ReadRequest, Error> {
    let (parts, body) = request.into_parts();
    // `gzip` and `deflate` are gone here: the layer around the routes unpacks them.
    if let Some(encoding) = parts.headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") {
        let encoding = shown(&String::from_utf8_lossy(encoding.as_bytes()));
        let words = format!("content encoding {encoding} is not known; there are: gzip, deflate");
        return Err(Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    }
    let body = rest.bodies.read(&parts, body).await?;
    Ok(ReadRequest { headers: parts.headers, body })
}

/// What the body says: JSON with or without a tail, all of it one tensor, or all of it one picture.
pub(super) fn read_wire(
    headers: &HeaderMap,
    body: &Bytes,
    model: &ModelMetadata,
    memory: &mut Reservation,
) -> Result<WireRequest, Error> {
    match binary::json_length(headers)? {
        None if is_picture(headers, body, model) => one_picture(body, model, memory),
        Some(0) => one_tensor(body, model, memory),
        length => read_request(body, length),
    }
}

fn is_picture(headers: &HeaderMap, body: &[u8], model: &ModelMetadata) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let only_pictures = || model.only_input().is_some_and(TensorMetadata::takes_images);
    // Some clients send JSON under this name as well, and no picture begins with a brace.
    let is_json = || utf8_json(body).is_ok_and(|text| text.trim_ascii_start().starts_with(b"{"));
    let unnamed = media_type == "application/octet-stream";
    media_type.starts_with("image/") || unnamed && only_pictures() && !is_json()
}

fn one_picture(body: &Bytes, model: &ModelMetadata, memory: &mut Reservation) -> Result<WireRequest, Error> {
    let none = || {
        let remedy = image_settings(&model.name, &model.inputs).map(|remedy| format!(". {remedy}"));
        let remedy = remedy.unwrap_or_default();
        let words = format!("model {:?} does not take a picture as its only input{remedy}", model.name);
        Error::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words)
    };
    let takes_pictures = |input: &&TensorMetadata| input.parameters.content_type == Some(ContentType::Image);
    let input = model.only_input().filter(takes_pictures).ok_or_else(none)?;
    let rank = if input.takes_images() { 1 } else { input.shape.len() };
    Ok(of_one_input(input, Datatype::Bytes, vec![1; rank], one_string(body, memory)?))
}

/// Triton's short form: no JSON, the shape follows from the bytes, and the answer is binary as well.
fn one_tensor(body: &Bytes, model: &ModelMetadata, memory: &mut Reservation) -> Result<WireRequest, Error> {
    let several = || {
        let inputs = names(&model.inputs);
        Error::malformed(format!(
            "a body without JSON fits a model of one input; model {:?} takes {inputs}",
            model.name
        ))
    };
    let input = model.only_input().ok_or_else(several)?;
    let request = match input.datatype.size() {
        // All of the body is one element.
        None => of_one_input(
            input,
            Datatype::Bytes,
            input.shape.iter().map(|&axis| axis.max(1)).collect(),
            one_string(body, memory)?,
        ),
        Some(size) => of_one_input(input, input.datatype, shape_of(body.len(), size, input)?, body.clone()),
    };
    let binary = Parameters::from([(binary::ALL_WANTED.to_owned(), Parameter::Bool(true))]);
    Ok(WireRequest { parameters: binary, ..request })
}

fn shape_of(bytes: usize, size: usize, input: &TensorMetadata) -> Result<Vec<i64>, Error> {
    let mut shape = input.shape.clone();
    let open: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] < 0).collect();
    let axis = match open[..] {
        [] => return Ok(shape),
        [axis] => axis,
        // The first is the batch's, and one tensor is a batch of one.
        [0, axis] => {
            shape[0] = 1;
            axis
        }
        _ => {
            let shape = &input.shape;
            return Err(Error::malformed(format!(
                "the shape {shape:?} does not follow from a number of bytes: send it in JSON"
            )));
        }
    };
    let fixed = shape
        .iter()
        .filter(|&&length| length >= 0)
        .try_fold(size, |product, &length| product.checked_mul(usize::try_from(length).ok()?));
    let length = fixed.filter(|&fixed| fixed > 0 && bytes.is_multiple_of(fixed)).map(|fixed| bytes / fixed);
    let (name, datatype) = (&input.name, input.datatype);
    let wrong = || {
        Error::malformed(format!(
            "{bytes} bytes are no tensor of {datatype} and the shape {:?} for input {name:?}",
            input.shape
        ))
    };
    shape[axis] = length.ok_or_else(wrong)?.cast_signed() as i64;
    Ok(shape)
}

fn of_one_input(input: &TensorMetadata, datatype: Datatype, shape: Vec<i64>, data: Bytes) -> WireRequest {
    let input = WireInput {
        name: input.name.clone(),
        datatype: datatype.name().to_owned(),
        shape,
        parameters: Parameters::new(),
        data: WireData::Raw(data),
    };
    WireRequest { inputs: vec![input], ..WireRequest::default() }
}

/// An element of `BYTES`.
fn one_string(body: &[u8], memory: &mut Reservation) -> Result<Bytes, Error> {
    memory.reserve(4 + body.len())?;
    let mut data = BytesMut::with_capacity(4 + body.len());
    data.put_u32_le(body.len() as u32);
    data.put_slice(body);
    Ok(data.freeze())
}
