//! Character encoding of JSON documents (RFC 8259 §8.1): UTF-8, with or without a byte order mark.

/// U+FEFF in UTF-8. Editors and PowerShell on Windows write it at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// JSON in an unsupported encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the JSON is encoded as UTF-16 or UTF-32; send it as UTF-8")]
pub struct NotUtf8;

/// `json` without its byte order mark. Only the first bytes are inspected; the parser validates the rest.
pub fn utf8_json(json: &[u8]) -> Result<&[u8], NotUtf8> {
    match json {
        // UTF-16 and UTF-32, recognised by a byte order mark or by the zero bytes of the first character.
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => Err(NotUtf8),
        _ => Ok(json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_removed_and_other_encodings_are_rejected() {
        assert_eq!(utf8_json(b"\xef\xbb\xbf{}"), Ok(&b"{}"[..]));
        for plain in [&b"{}"[..], b"", b"7", b"\xef\xbb"] {
            assert_eq!(utf8_json(plain), Ok(plain));
        }
        for other in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"{\0}\0", b"\0{\0}", b"\xff\xfe\0\0{\0\0\0"] {
            assert_eq!(utf8_json(other), Err(NotUtf8), "{other:?}");
        }
    }
}
