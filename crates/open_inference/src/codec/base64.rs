//! Lenient base64 decoder: the standard and URL-safe alphabets (RFC 4648 §4 and §5), line breaks (RFC 2045), missing
//! padding, and data URLs (RFC 2397).

use base64::Engine;
use base64::alphabet::{STANDARD as STANDARD_ALPHABET, URL_SAFE as URL_SAFE_ALPHABET};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use crate::types::Tensor;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const LENIENT_STANDARD: GeneralPurpose = GeneralPurpose::new(&STANDARD_ALPHABET, LENIENT);
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&URL_SAFE_ALPHABET, LENIENT);

/// Characters that encode three bytes.
const GROUP_CHARS: usize = 4;

/// Why a text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotBase64 {
    #[error("is not base64")]
    Text,
    #[error("is a data URL whose data is not base64: it has no \";base64,\"")]
    DataUrl,
    /// Form decoding turns `+` into a space. Ignoring the space would decode to different bytes.
    #[error("is not base64: it has a space inside a group of four characters, where a \"+\" may have stood")]
    LostPlus,
}

/// Appends the decoded bytes to `data`. After an error, `data` may end with part of them.
pub(crate) fn decode(text: &[u8], data: &mut Vec<u8>) -> Result<(), NotBase64> {
    let start = data.len();
    // The canonical form needs no copy.
    if STANDARD.decode_vec(text, data).is_ok() {
        return Ok(());
    }
    data.truncate(start);
    let compact = without_whitespace(payload(text)?)?;
    let is_url_safe = compact.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if is_url_safe { &LENIENT_URL_SAFE } else { &LENIENT_STANDARD };
    engine.decode_vec(&compact, data).map_err(|_| NotBase64::Text)
}

/// Encodes the elements of `BYTES` as base64, which JSON can hold.
pub(crate) fn encode_tensor(tensor: &Tensor) -> Tensor {
    Tensor::from_strings(&tensor.name, tensor.shape.clone(), tensor.strings().map(|string| STANDARD.encode(&string)))
}

/// The data of a data URL, or the whole text where it is not a data URL.
fn payload(text: &[u8]) -> Result<&[u8], NotBase64> {
    let text = text.trim_ascii();
    if !text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:")) {
        return Ok(text);
    }
    let comma = text.iter().position(|&byte| byte == b',').ok_or(NotBase64::DataUrl)?;
    let header = text[..comma].trim_ascii_end();
    let is_base64 = header.len() >= 7 && header[header.len() - 7..].eq_ignore_ascii_case(b";base64");
    if is_base64 { Ok(&text[comma + 1..]) } else { Err(NotBase64::DataUrl) }
}

/// Removes whitespace. Line breaks may be anywhere. Spaces may only separate groups, as in folded lines.
fn without_whitespace(text: &[u8]) -> Result<Vec<u8>, NotBase64> {
    let mut compact = Vec::with_capacity(text.len());
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        compact.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
        let gap = rest.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(rest.len());
        let is_line_break = rest[..gap].iter().any(|&byte| byte != b' ');
        if gap > 0 && !is_line_break && !compact.len().is_multiple_of(GROUP_CHARS) {
            return Err(NotBase64::LostPlus);
        }
        rest = &rest[gap..];
    }
    Ok(compact)
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

    use super::*;

    /// All four characters in which the alphabets differ, and padding.
    const BYTES: [u8; 10] = [0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff, 0x00, 0x10, 0x83, 0x10];

    fn decoded(text: &str) -> Result<Vec<u8>, NotBase64> {
        let mut data = b"before".to_vec();
        decode(text.as_bytes(), &mut data).map(|()| data.split_off(6))
    }

    #[test]
    fn all_accepted_forms_decode_to_the_same_bytes() {
        let plain = STANDARD.encode(BYTES);
        let lines = |end: &str| format!("{}{end}{}{end}", &plain[..7], &plain[7..]);
        for text in [
            plain.clone(),
            STANDARD_NO_PAD.encode(BYTES),
            URL_SAFE.encode(BYTES),
            URL_SAFE_NO_PAD.encode(BYTES),
            lines("\n"),
            lines("\r\n"),
            lines("\n  "),
            lines("\t"),
            format!(" {plain} "),
            format!("{} {}  {}", &plain[..4], &plain[4..8], &plain[8..]),
            format!("data:image/png;base64,{plain}"),
            format!("DATA:image/svg+xml;charset=utf-8;BASE64,{}", lines("\n")),
            format!("data:;base64, {}", URL_SAFE_NO_PAD.encode(BYTES)),
        ] {
            assert_eq!(decoded(&text), Ok(BYTES.to_vec()), "{text:?}");
        }
        for empty in ["", "\n", "data:image/png;base64,"] {
            assert_eq!(decoded(empty), Ok(vec![]), "{empty:?}");
        }
    }

    #[test]
    fn invalid_base64_is_rejected() {
        for text in ["*", "QUJD*", "QUJ=D", "QUJDR", "+_+_", "QUI=QUI=", "é", "QUJ\0", "QR=="] {
            assert_eq!(decoded(text), Err(NotBase64::Text), "{text:?}");
        }
        for text in ["data:text/plain,hello", "data:image/png;base64", "data:", "data:base64,QUJD"] {
            assert_eq!(decoded(text), Err(NotBase64::DataUrl), "{text:?}");
        }
        for text in ["QU JD", "QUJDQ UJD"] {
            assert_eq!(decoded(text), Err(NotBase64::LostPlus), "{text:?}");
        }
    }
}
