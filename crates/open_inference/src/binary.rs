use bytes::Bytes;
use http::HeaderMap;

use crate::check::shown;
use crate::{Error, Parameter};

/// Says how long the JSON is; what follows it in the body are raw elements.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// An input's or output's parameter: how many bytes behind the JSON are its elements.
pub(crate) const SIZE: &str = "binary_data_size";

/// An output's parameter: whether its elements shall stand behind the JSON.
pub(crate) const WANTED: &str = "binary_data";

/// A request's parameter: the same for all outputs that do not say it themselves.
pub(crate) const ALL_WANTED: &str = "binary_data_output";

/// How long the headers say that the JSON is; `None` where they say nothing.
pub(crate) fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::malformed(format!("{HEADER_LENGTH} is given twice")));
    }
    // Only digits: `parse` would take a sign as well.
    let number = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        let value = shown(&String::from_utf8_lossy(value.as_bytes()));
        Error::malformed(format!("{HEADER_LENGTH} is no length: {value}"))
    })
}

/// A body's JSON, and what is behind it.
pub(crate) fn split(mut body: Bytes, json_length: Option<usize>) -> Result<(Bytes, Bytes), Error> {
    let length = json_length.unwrap_or(body.len());
    if length > body.len() {
        let found = body.len();
        return Err(Error::malformed(format!("{HEADER_LENGTH} is {length}, but the body has only {found} bytes")));
    }
    let tail = body.split_off(length);
    Ok((body, tail))
}

/// What is behind the JSON: the elements of one tensor after the other.
pub(crate) struct Tail {
    rest: Bytes,
}

impl Tail {
    pub fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    /// The next tensor's elements; `size` is what it says of their length.
    pub fn take(&mut self, name: &str, size: &Parameter) -> Result<Bytes, Error> {
        let name = shown(name);
        let size =
            size.as_u64().ok_or_else(|| Error::malformed(format!("{SIZE} of {name} is not a number of bytes")))?;
        let left = self.rest.len();
        match usize::try_from(size) {
            Ok(size) if size <= left => Ok(self.rest.split_to(size)),
            _ => Err(Error::malformed(format!("{SIZE} of {name} is {size}, but only {left} bytes are left"))),
        }
    }

    /// Bytes that belong to no tensor are a sign that both sides disagree.
    pub fn must_be_used_up(self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::malformed(format!("{left} bytes behind the JSON belong to no tensor"))),
        }
    }
}
