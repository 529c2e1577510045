//! Triton's binary tensor data extension: raw elements after the JSON of a body.

use bytes::Bytes;
use http::HeaderMap;

use crate::error::Error;
use crate::truncate::quoted;
use crate::types::Parameter;

/// Header with the length of the JSON. The rest of the body is binary tensor data.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// Parameter of an input or output: size of its binary data in bytes.
pub(crate) const BINARY_DATA_SIZE: &str = "binary_data_size";

/// Parameter of an output: whether to return it as binary data.
pub(crate) const BINARY_DATA: &str = "binary_data";

/// Parameter of a request: default of `binary_data` for all outputs.
pub(crate) const BINARY_DATA_OUTPUT: &str = "binary_data_output";

/// Length of the JSON according to the headers; `None` without the header.
pub(crate) fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::malformed(format!("{HEADER_LENGTH} is given twice")));
    }
    // Digits only: `parse` would accept a sign.
    let number = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        let value = quoted(&String::from_utf8_lossy(value.as_bytes()));
        Error::malformed(format!("{HEADER_LENGTH} is not a length: {value}"))
    })
}

/// Splits a body into JSON and binary data.
pub(crate) fn split_body(mut body: Bytes, json_length: Option<usize>) -> Result<(Bytes, Bytes), Error> {
    let length = json_length.unwrap_or(body.len());
    if length > body.len() {
        let found = body.len();
        return Err(Error::malformed(format!("{HEADER_LENGTH} is {length}, but the body has only {found} bytes")));
    }
    let tail = body.split_off(length);
    Ok((body, tail))
}

/// Binary data after the JSON: the elements of one tensor after the other.
pub(crate) struct BinaryTail {
    rest: Bytes,
}

impl BinaryTail {
    pub fn new(rest: Bytes) -> Self {
        Self { rest }
    }

    /// Splits off the data of the next tensor, `name`. `size` is its `binary_data_size`.
    pub fn split_next(&mut self, name: &str, size: &Parameter) -> Result<Bytes, Error> {
        let name = quoted(name);
        let size = size
            .as_u64()
            .ok_or_else(|| Error::malformed(format!("{BINARY_DATA_SIZE} of {name} is not a number of bytes")))?;
        let remaining = self.rest.len();
        match usize::try_from(size) {
            Ok(size) if size <= remaining => Ok(self.rest.split_to(size)),
            _ => Err(Error::malformed(format!(
                "{BINARY_DATA_SIZE} of {name} is {size}, but only {remaining} bytes are left"
            ))),
        }
    }

    /// Rejects data that belongs to no tensor: client and server disagree about the layout.
    pub fn expect_empty(self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            length => Err(Error::malformed(format!("{length} bytes after the JSON belong to no tensor"))),
        }
    }
}
