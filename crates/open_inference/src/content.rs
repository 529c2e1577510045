use crate::base64_text;
use crate::check::shown;
use crate::understand::Room;
use crate::{ContentType, Datatype, Error, Parameter, Parameters, Tensor, TensorMetadata, moments};

/// The content type that an input's parameters name, or else the request's.
pub(crate) fn said(input: &Parameters, request: &Parameters) -> Result<Option<ContentType>, Error> {
    Ok(read_word(input)?.or(read_word(request)?))
}

pub(crate) fn read_word(parameters: &Parameters) -> Result<Option<ContentType>, Error> {
    let Some(value) = parameters.get("content_type") else { return Ok(None) };
    let word = value.as_str().unwrap_or_default();
    let known = ContentType::ALL.into_iter().find(|content_type| content_type.name() == word);
    known.map(Some).ok_or_else(|| {
        let names = ContentType::ALL.map(ContentType::name).join(", ");
        Error::malformed(format!("content type {} is not known; there are: {names}", shown(word)))
    })
}

/// The parameters of an output of this content type.
pub(crate) fn parameters(content_type: ContentType) -> Parameters {
    Parameters::from([("content_type".to_owned(), Parameter::from(content_type.name()))])
}

/// What is to be done with elements that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoding {
    Nothing,
    Text,
    Base64,
    Moments,
}

impl Decoding {
    pub fn of(content_type: Option<ContentType>, is_json: bool, wanted: &TensorMetadata) -> Self {
        match content_type {
            Some(ContentType::Base64) => Self::Base64,
            // JSON has no bytes, so that there a picture is base64; everywhere else it is what is in the file.
            Some(ContentType::Image) if is_json => Self::Base64,
            _ if wanted.accepts_images() && is_json => Self::Base64,
            Some(ContentType::Str) => Self::Text,
            Some(ContentType::Datetime) => Self::Moments,
            None | Some(ContentType::Np | ContentType::Pd | ContentType::Image) => Self::Nothing,
        }
    }
}

/// What a moment takes, as it is read and as an element.
const MOMENT_BYTES: usize = 16;

/// Decodes `BYTES` as their content type says; numbers are what they are.
pub(crate) fn decode(
    tensor: Tensor,
    decoding: Decoding,
    wanted: &TensorMetadata,
    room: &mut Room<'_>,
) -> Result<Tensor, Error> {
    if tensor.datatype != Datatype::Bytes {
        return Ok(tensor);
    }
    let mut tensor = match decoding {
        Decoding::Nothing => tensor,
        Decoding::Text => {
            each(&tensor, "text in UTF-8", |string| std::str::from_utf8(string).ok().map(|_| ()))?;
            tensor
        }
        Decoding::Base64 => {
            room.reserve(tensor.data.len())?;
            from_base64(tensor)?
        }
        Decoding::Moments => {
            room.reserve(tensor.len().saturating_mul(2 * MOMENT_BYTES))?;
            moments::read(tensor, wanted.datatype)?
        }
    };
    // A column of pictures, as a client with rows of one cell sends it.
    if wanted.accepts_images() && tensor.datatype == Datatype::Bytes && matches!(tensor.shape[..], [_, 1]) {
        tensor.shape.truncate(1);
    }
    Ok(tensor)
}

/// Straight into the new elements: a picture may be large.
fn from_base64(tensor: Tensor) -> Result<Tensor, Error> {
    let mut data = Vec::with_capacity(tensor.data.len());
    for (index, text) in tensor.strings().enumerate() {
        let begin = data.len();
        data.extend_from_slice(&[0; 4]);
        base64_text::decode(&text, &mut data).map_err(|error| wrong(&tensor, index, error))?;
        let length = (data.len() - begin - 4) as u32;
        data[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
    }
    Ok(Tensor { data: data.into(), ..tensor })
}

/// Does something with each element; an error names the first that will not have it.
pub(crate) fn each<T>(tensor: &Tensor, what: &str, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, Error> {
    let elements = tensor.strings().enumerate();
    elements
        .map(|(index, string)| read(&string).ok_or_else(|| wrong(tensor, index, format_args!("is not {what}"))))
        .collect()
}

fn wrong(tensor: &Tensor, element: usize, what: impl std::fmt::Display) -> Error {
    Error::malformed(format!("input {}: element {element} {what}", shown(&tensor.name)))
}
