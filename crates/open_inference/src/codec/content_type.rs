//! MLServer's content types: selection and decoding.

use super::byte_budget::ByteBudget;
use super::strings::{invalid_element, map_strings};
use super::{base64, datetime};
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::{ContentType, Datatype, Parameter, Parameters, Tensor, TensorMetadata};

/// Content type of an input: its own parameter, or else that of the request.
pub(crate) fn requested_content_type(input: &Parameters, request: &Parameters) -> Result<Option<ContentType>, Error> {
    Ok(parse_content_type(input)?.or(parse_content_type(request)?))
}

pub(crate) fn parse_content_type(parameters: &Parameters) -> Result<Option<ContentType>, Error> {
    let Some(value) = parameters.get("content_type") else { return Ok(None) };
    let name = value.as_str().unwrap_or_default();
    let known = ContentType::ALL.into_iter().find(|content_type| content_type.name() == name);
    known.map(Some).ok_or_else(|| {
        let names = ContentType::ALL.map(ContentType::name).join(", ");
        Error::malformed(format!(
            "content type {} is not supported; supported content types are: {names}",
            quoted(name)
        ))
    })
}

/// Parameters of an output with this content type.
pub(crate) fn content_type_parameters(content_type: ContentType) -> Parameters {
    Parameters::from([("content_type".to_owned(), Parameter::from(content_type.name()))])
}

/// Decoder for the elements of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentDecoder {
    Identity,
    Utf8,
    Base64,
    Datetime,
}

impl ContentDecoder {
    pub fn select(content_type: Option<ContentType>, is_json: bool, metadata: &TensorMetadata) -> Self {
        match content_type {
            Some(ContentType::Base64) => Self::Base64,
            // JSON cannot hold bytes, so images in JSON are base64. Other transports carry the bytes of the file.
            Some(ContentType::Image) if is_json => Self::Base64,
            _ if metadata.accepts_images() && is_json => Self::Base64,
            Some(ContentType::Str) => Self::Utf8,
            Some(ContentType::Datetime) => Self::Datetime,
            None | Some(ContentType::Np | ContentType::Pd | ContentType::Image) => Self::Identity,
        }
    }
}

/// Memory per date, both parsed and as an element.
const DATETIME_BYTES: usize = 16;

/// Decodes `BYTES` according to the content type. Numeric tensors pass unchanged.
pub(crate) fn decode(
    tensor: Tensor,
    decoder: ContentDecoder,
    metadata: &TensorMetadata,
    budget: &mut ByteBudget<'_>,
) -> Result<Tensor, Error> {
    if tensor.datatype != Datatype::Bytes {
        return Ok(tensor);
    }
    let mut tensor = match decoder {
        ContentDecoder::Identity => tensor,
        ContentDecoder::Utf8 => {
            map_strings(&tensor, "text in UTF-8", |string| std::str::from_utf8(string).ok().map(|_| ()))?;
            tensor
        }
        ContentDecoder::Base64 => {
            budget.reserve(tensor.data.len())?;
            decode_base64(tensor)?
        }
        ContentDecoder::Datetime => {
            budget.reserve(tensor.len().saturating_mul(2 * DATETIME_BYTES))?;
            datetime::decode(tensor, metadata.datatype)?
        }
    };
    // A client that sends tables sends images as rows of one cell.
    if metadata.accepts_images() && tensor.datatype == Datatype::Bytes && matches!(tensor.shape[..], [_, 1]) {
        tensor.shape.truncate(1);
    }
    Ok(tensor)
}

/// Decodes in place of the new elements, without a copy per image.
fn decode_base64(tensor: Tensor) -> Result<Tensor, Error> {
    let mut data = Vec::with_capacity(tensor.data.len());
    for (index, text) in tensor.strings().enumerate() {
        let start = data.len();
        data.extend_from_slice(&[0; 4]);
        base64::decode(&text, &mut data).map_err(|error| invalid_element(&tensor, index, error))?;
        let length = (data.len() - start - 4) as u32;
        data[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    Ok(Tensor { data: data.into(), ..tensor })
}
