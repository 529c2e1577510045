//! Splitter for inference requests in one body: a JSON list, or NDJSON.
//!
//! Requests are parsed one after the other, so that a body with too many of them is rejected without being parsed to its end.

use std::fmt;

use bytes::Bytes;
use open_inference::utf8_json;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::Error;

/// Format of the requests in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestList {
    /// One JSON request, or a JSON list of requests.
    Json,
    /// One JSON request per line.
    Lines,
}

/// Iterates over the requests of a body.
pub struct RequestSplitter {
    body: Bytes,
    format: RequestList,
    /// Position of the next request.
    position: usize,
    /// Whether the JSON is a list.
    is_list: bool,
    is_finished: bool,
}

impl RequestSplitter {
    pub fn new(body: Bytes, format: RequestList) -> Result<Self, Error> {
        let text = utf8_json(&body).map_err(|error| Error::InvalidJobRequest(error.to_string()))?;
        let list = text.trim_ascii_start().strip_prefix(b"[").filter(|_| format == RequestList::Json);
        let is_list = list.is_some();
        let position = body.len() - list.unwrap_or(text).len();
        Ok(Self { position, body, format, is_list, is_finished: false })
    }

    /// The next request, as a slice of the body.
    pub fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.is_finished {
            return Ok(None);
        }
        let rest = &self.body[self.position..];
        let (request, consumed) = match self.format {
            RequestList::Json if self.is_list => next_element(rest)?,
            RequestList::Json => (Some(rest.trim_ascii()), rest.len()),
            RequestList::Lines => next_line(rest),
        };
        let request = request.map(|request| self.body.slice_ref(request));
        self.position += consumed;
        self.is_finished = request.is_none() || self.format == RequestList::Json && !self.is_list;
        Ok(request)
    }
}

/// The first element of the rest of a list, and the number of bytes up to the end of the comma after it.
fn next_element(rest: &[u8]) -> Result<(Option<&[u8]>, usize), Error> {
    let invalid = |error: &dyn fmt::Display| Error::InvalidJobRequest(format!("the JSON list is not valid: {error}"));
    if let Some(after) = rest.trim_ascii_start().strip_prefix(b"]") {
        let is_end = after.trim_ascii().is_empty();
        return if is_end { Ok((None, rest.len())) } else { Err(invalid(&"its end is followed by other text")) };
    }
    let mut reader = serde_json::Deserializer::from_slice(rest);
    let element = <&RawValue>::deserialize(&mut reader).map_err(|error| invalid(&error))?.get().as_bytes();
    // The reader does not report its position outside of streams. Apart from the element, it has read only the whitespace before it.
    let end = rest.len() - rest.trim_ascii_start().len() + element.len();
    let after = rest[end..].trim_ascii_start();
    let position = rest.len() - after.len();
    match after.split_first() {
        Some((b',', next)) if next.trim_ascii_start().starts_with(b"]") => {
            Err(invalid(&"its last element is followed by a comma"))
        }
        Some((b',', _)) => Ok((Some(element), position + 1)),
        Some((b']', _)) => Ok((Some(element), position)),
        _ => Err(invalid(&"an element is followed by neither a comma nor the end of the list")),
    }
}

/// The first line that is not empty, and the number of bytes up to its end.
fn next_line(rest: &[u8]) -> (Option<&[u8]>, usize) {
    let mut end = 0;
    for line in rest.split_inclusive(|&byte| byte == b'\n') {
        end += line.len();
        let line = line.trim_ascii();
        if !line.is_empty() {
            return (Some(line), end);
        }
    }
    (None, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(body: &str, format: RequestList) -> Result<Vec<String>, String> {
        let mut requests =
            RequestSplitter::new(Bytes::copy_from_slice(body.as_bytes()), format).map_err(|error| error.to_string())?;
        let mut read = Vec::new();
        while let Some(request) = requests.next().map_err(|error| error.to_string())? {
            read.push(String::from_utf8(request.to_vec()).unwrap());
        }
        Ok(read)
    }

    #[test]
    fn a_list_is_split_into_its_elements() {
        for (body, elements) in [
            ("[]", &[][..]),
            (" [ ] ", &[]),
            ("\u{feff}[1]", &["1"]),
            ("\n[ {\"a\": [1, 2]} ,\t\"]\" ,[[]]\r\n] ", &["{\"a\": [1, 2]}", "\"]\"", "[[]]"]),
            (" {\"a\": 1} ", &["{\"a\": 1}"]),
        ] {
            assert_eq!(split(body, RequestList::Json).unwrap(), elements, "{body}");
        }
        for body in ["[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1] 2", "[1]]", "[{]}", "[1}", "[nul]"] {
            let error = split(body, RequestList::Json).unwrap_err();
            assert!(error.starts_with("the JSON list is not valid: "), "{body}: {error}");
        }
        assert_eq!(split("\u{feff}1\n\n 2 \r\n{}\n", RequestList::Lines).unwrap(), ["1", "2", "{}"]);
    }
}
