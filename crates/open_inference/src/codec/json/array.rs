//! Parser for the `data` array of an input or output in JSON.

use half::{bf16, f16};

use super::decimal;
pub(crate) use super::scanner::ArrayError;
use super::scanner::Scanner;
use crate::truncate::quoted;
use crate::types::rounding::{to_bf16, to_f16};
use crate::types::{Datatype, Element};
use crate::with_element;

/// Bytes that [`parse_array`] allocates for these arguments.
///
/// The length of the text limits the number of elements, because a shape may claim more than were sent: an element
/// takes at least two bytes of text.
pub(crate) fn capacity(text: &[u8], datatype: Datatype, shape: &[usize], max_bytes: usize) -> usize {
    let elements = shape.iter().product::<usize>().min(text.len() / 2 + 1);
    match datatype.size() {
        Some(size) => elements.saturating_mul(size),
        // A string is no longer than its text, whose quotes and comma make up for three of the four bytes of its length
        // prefix.
        None => elements.saturating_add(text.len()).min(max_bytes),
    }
}

/// Parses a flat or nested list, or a single element, directly into tensor data. There is no allocation per element,
/// and a number is rounded once, from its digits to its datatype.
///
/// Invalid JSON gives an error or arbitrary elements, but never a panic. `shape` must be validated: its size in bytes
/// is at most `max_bytes`.
pub(crate) fn parse_array(
    text: &[u8],
    datatype: Datatype,
    shape: &[usize],
    max_bytes: usize,
) -> Result<Vec<u8>, ArrayError> {
    let text = std::str::from_utf8(text).map_err(|_| ArrayError::Malformed("its data is not UTF-8".to_owned()))?;
    let expected: usize = shape.iter().product();
    let mut scanner = Scanner::new(text, shape);
    let mut data = Vec::with_capacity(capacity(text.as_bytes(), datatype, shape, max_bytes));
    let mut elements = 0;
    with_element!(datatype, T => {
        while let Some(token) = scanner.next()? {
            count_element(&mut elements, expected, shape)?;
            <T as Number>::parse(token).ok_or_else(|| invalid_element(elements, token, datatype))?.write(&mut data);
        }
    }, bytes => {
        while let Some(token) = scanner.next()? {
            count_element(&mut elements, expected, shape)?;
            let start = data.len();
            if start + 4 > max_bytes {
                return Err(ArrayError::TooLarge);
            }
            data.extend_from_slice(&[0; 4]);
            unquote(token, &mut data, max_bytes).ok_or_else(|| invalid_element(elements, token, datatype))??;
            let length = (data.len() - start - 4) as u32;
            data[start..start + 4].copy_from_slice(&length.to_le_bytes());
        }
    });
    if elements < expected {
        return Err(ArrayError::Malformed(format!(
            "shape {shape:?} has {expected} elements, but {elements} were sent"
        )));
    }
    Ok(data)
}

fn count_element(elements: &mut usize, expected: usize, shape: &[usize]) -> Result<(), ArrayError> {
    *elements += 1;
    if *elements > expected {
        return Err(ArrayError::Malformed(format!("shape {shape:?} has {expected} elements, but more were sent")));
    }
    Ok(())
}

/// `elements` includes the invalid one.
fn invalid_element(elements: usize, token: &str, datatype: Datatype) -> ArrayError {
    let token = if token.starts_with('"') { quoted(token.trim_matches('"')) } else { token.chars().take(64).collect() };
    ArrayError::Malformed(format!("element {}: {token} is not a valid {datatype}", elements - 1))
}

/// Appends the value of a JSON string to `data`, which may have at most `max_bytes`. `None` where the token is not a
/// string, or has an unpaired surrogate.
///
/// `serde_json` would unescape into a buffer of its own, which grows to three times the length of the string.
fn unquote(token: &str, data: &mut Vec<u8>, max_bytes: usize) -> Option<Result<(), ArrayError>> {
    let mut rest = token.strip_prefix('"')?.strip_suffix('"')?;
    let mut buffer = [0; 4];
    loop {
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(plain);
        let (character, after) = match after.strip_prefix('\\') {
            None => ("", ""),
            Some(escape) => {
                let (character, after) = unescape(escape)?;
                (&*character.encode_utf8(&mut buffer), after)
            }
        };
        if data.len() + text.len() + character.len() > max_bytes {
            return Some(Err(ArrayError::TooLarge));
        }
        data.extend_from_slice(text.as_bytes());
        data.extend_from_slice(character.as_bytes());
        if plain == rest.len() {
            return Some(Ok(()));
        }
        rest = after;
    }
}

/// The character of an escape sequence without its backslash, and the rest (RFC 8259 §7).
fn unescape(escape: &str) -> Option<(char, &str)> {
    let (kind, rest) = (escape.as_bytes().first()?, escape.get(1..)?);
    let character = match kind {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_utf16(rest),
        _ => return None,
    };
    Some((character, rest))
}

/// One UTF-16 code unit in hexadecimal, or a surrogate pair.
fn unescape_utf16(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    let rest = text.get(4..)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, rest));
    }
    let rest = rest.strip_prefix("\\u")?;
    let pair = [first, unit(rest)?];
    Some((char::decode_utf16(pair).next()?.ok()?, rest.get(4..)?))
}

/// Element that JSON represents without quotes.
trait Number: Element {
    /// Parses a JSON token; `None` where the type cannot represent it.
    fn parse(token: &str) -> Option<Self>;
}

macro_rules! integer {
    ($($number:ty)*) => {$(
        impl Number for $number {
            fn parse(token: &str) -> Option<Self> {
                token.parse().ok().or_else(|| {
                    // Clients write integers as 1.0 or 1e3. An `f64` is exact up to this limit.
                    let number = parse_f64(token)?;
                    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)?.try_into().ok()
                })
            }
        }
    )*};
}
integer!(u8 u16 u32 u64 i8 i16 i32 i64);

macro_rules! float {
    ($($number:ty, $fast:expr, $parse:expr;)*) => {$(
        impl Number for $number {
            fn parse(token: &str) -> Option<Self> {
                let parse: fn(&str) -> Option<$number> = $parse;
                // Plain digits first: they are by far the most frequent.
                $fast(token).or_else(|| match token {
                    // As the JSON mapping of Protocol Buffers represents values that JSON numbers cannot.
                    r#""NaN""# => Some(Self::NAN),
                    r#""Infinity""# => Some(Self::INFINITY),
                    r#""-Infinity""# => Some(Self::NEG_INFINITY),
                    // As MLServer's clients represent a missing number.
                    "null" => Some(Self::NAN),
                    _ => parse(number_text(token)?).filter(|number| number.is_finite()),
                })
            }
        }
    )*};
}
float! {
    f32, decimal::to_f32, |digits| digits.parse().ok();
    f64, decimal::to_f64, |digits| digits.parse().ok();
    f16, |_| None, |digits| digits.parse().ok().map(to_f16);
    bf16, |_| None, |digits| digits.parse().ok().map(to_bf16);
}

impl Number for bool {
    fn parse(token: &str) -> Option<Self> {
        match token {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }
}

fn parse_f64(token: &str) -> Option<f64> {
    number_text(token)?.parse().ok()
}

/// The token of a JSON number. Rust's `parse` would also accept `inf` and `nan`.
fn number_text(token: &str) -> Option<&str> {
    token.strip_prefix('-').unwrap_or(token).starts_with(|first: char| first.is_ascii_digit()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, datatype: Datatype, shape: &[usize]) -> Result<Vec<u8>, String> {
        parse_array(text.as_bytes(), datatype, shape, 1 << 20).map_err(|error| match error {
            ArrayError::Malformed(message) => message,
            ArrayError::TooLarge => "too large".to_owned(),
        })
    }

    #[test]
    fn flat_lists_nested_lists_and_scalars_are_parsed() {
        let expected = Ok(vec![1, 2, 3, 4]);
        for text in ["[1,2,3,4]", "[[1,2],[3,4]]", " [ [ 1 , 2 ] ,\n[3, 4 ] ] ", "[[1.0, 2e0], [30e-1, 4]]"] {
            assert_eq!(parse(text, Datatype::Uint8, &[2, 2]), expected, "{text}");
        }
        assert_eq!(parse("[[1,2],[3,4]]", Datatype::Uint8, &[1, 2, 2]), expected, "an axis may be left out");
        let deepest = format!("{}1,2{},[3,4]{}", "[".repeat(8), "]", "]".repeat(7));
        assert_eq!(parse(&deepest, Datatype::Uint8, &[1, 1, 1, 1, 1, 1, 2, 2]), expected);
        for text in ["7", "[7]"] {
            assert_eq!(parse(text, Datatype::Uint8, &[]), Ok(vec![7]), "{text}");
        }
        assert_eq!(parse("[]", Datatype::Uint8, &[0]), Ok(vec![]));
        assert_eq!(parse("[[],[]]", Datatype::Uint8, &[2, 0]), Ok(vec![]));
    }

    #[test]
    fn escapes_in_strings_are_decoded() {
        let data = parse(r#"["a", "", "\u00e9\n\ud83d\ude00", "é]\\\""]"#, Datatype::Bytes, &[4]).unwrap();
        let tensor = crate::Tensor::new("x", Datatype::Bytes, &[4], data.into()).unwrap();
        let strings: Vec<_> = tensor.strings().map(|string| String::from_utf8(string.to_vec()).unwrap()).collect();
        assert_eq!(strings, ["a", "", "é\n😀", "é]\\\""]);
    }

    #[test]
    fn strings_equal_those_of_serde_without_reallocation() {
        for text in [
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u0041\u00e9\u20ac\ud83d\ude00\uFFFF""#,
            r#""\ud83d""#,
            r#""\ud83d\n""#,
            r#""\ude00\ud83d""#,
            r#""\u00g1""#,
            r#""\u+123""#,
            r#""\x""#,
            r#""é\u00e9é""#,
        ] {
            let mut data = Vec::with_capacity(text.len());
            let read = unquote(text, &mut data, text.len()).is_some();
            let expected = serde_json::from_str::<String>(text).ok();
            assert_eq!(read.then(|| String::from_utf8(data.clone()).unwrap()), expected, "{text}");
            assert!(data.capacity() == text.len(), "{text}");
        }
        assert_eq!(unquote(r#""abc\n""#, &mut vec![0], 4), Some(Err(ArrayError::TooLarge)));
    }

    #[test]
    fn numbers_are_exact_to_the_last_bit() {
        let read = |text: &str, datatype| parse(text, datatype, &[1]);
        assert_eq!(read("[9223372036854775807]", Datatype::Int64), Ok(i64::MAX.to_le_bytes().into()));
        assert_eq!(read("[-9223372036854775808]", Datatype::Int64), Ok(i64::MIN.to_le_bytes().into()));
        assert_eq!(read("[18446744073709551615]", Datatype::Uint64), Ok(u64::MAX.to_le_bytes().into()));
        assert_eq!(read("[-0.0]", Datatype::Fp32), Ok((-0.0_f32).to_le_bytes().into()));
        assert_eq!(read("[1e-45]", Datatype::Fp32), Ok(f32::from_bits(1).to_le_bytes().into()));
        assert_eq!(read("[5e-324]", Datatype::Fp64), Ok(f64::from_bits(1).to_le_bytes().into()));
        // Rounding to `f64` first would give a result that is one bit greater.
        let between = "[1.00000017881393432617187499]";
        assert_eq!(read(between, Datatype::Fp32), Ok(1.000_000_1_f32.to_le_bytes().into()));
        assert_eq!(read("[1.00048828218]", Datatype::Fp16), Ok(f16::from_bits(0x3c01).to_le_bytes().into()));
        assert_eq!(read(r#"["NaN"]"#, Datatype::Fp16), Ok(f16::NAN.to_le_bytes().into()));
        assert_eq!(read(r#"["-Infinity"]"#, Datatype::Fp64), Ok(f64::NEG_INFINITY.to_le_bytes().into()));
        assert_eq!(read("[true]", Datatype::Bool), Ok(vec![1]));
    }

    #[test]
    fn null_becomes_nan_in_float_datatypes() {
        let missing = |datatype| match datatype {
            Datatype::Fp16 => f16::NAN.to_le_bytes().to_vec(),
            Datatype::Bf16 => bf16::NAN.to_le_bytes().to_vec(),
            Datatype::Fp32 => f32::NAN.to_le_bytes().to_vec(),
            _ => f64::NAN.to_le_bytes().to_vec(),
        };
        for datatype in [Datatype::Fp16, Datatype::Bf16, Datatype::Fp32, Datatype::Fp64] {
            assert_eq!(parse("[null]", datatype, &[1]), Ok(missing(datatype)), "{datatype}");
            assert_eq!(parse(r#"["NaN"]"#, datatype, &[1]), Ok(missing(datatype)), "{datatype}");
        }
        let nested = parse("[[1, null], [ null ,2.5]]", Datatype::Fp32, &[2, 2]).unwrap();
        let flat = parse("[1,null,null,2.5]", Datatype::Fp32, &[2, 2]).unwrap();
        assert_eq!(nested, flat);
        assert_eq!(nested, [1.0, f32::NAN, f32::NAN, 2.5].map(f32::to_le_bytes).concat());
        assert_eq!(parse("[[1,2],null]", Datatype::Fp32, &[2, 2]), Err("its data is nested unevenly".to_owned()));
    }

    #[test]
    fn invalid_elements_are_rejected_with_their_index() {
        for (text, datatype, token) in [
            ("9223372036854775808", Datatype::Int64, ""),
            ("-1", Datatype::Uint64, ""),
            ("0.5", Datatype::Int32, ""),
            ("256", Datatype::Uint8, ""),
            ("1e20", Datatype::Uint64, ""),
            ("1e39", Datatype::Fp32, ""),
            ("1e400", Datatype::Fp64, ""),
            ("70000", Datatype::Fp16, ""),
            ("true", Datatype::Fp32, ""),
            ("null", Datatype::Int64, ""),
            ("null", Datatype::Bool, ""),
            ("null", Datatype::Bytes, ""),
            ("nul", Datatype::Fp32, ""),
            (r#""nan""#, Datatype::Fp32, ""),
            ("nan", Datatype::Fp32, ""),
            ("2", Datatype::Bool, ""),
            ("5", Datatype::Bytes, ""),
            (r#""\ud800""#, Datatype::Bytes, r#""\\ud800""#),
        ] {
            let shown = if token.is_empty() { text } else { token };
            let error = parse(&format!("[{text}]"), datatype, &[1]).unwrap_err();
            assert_eq!(error, format!("element 0: {shown} is not a valid {datatype}"));
        }
    }

    #[test]
    fn data_that_does_not_match_the_shape_is_rejected() {
        for (text, shape, expected) in [
            ("[1,2,3]", &[2, 2][..], "shape [2, 2] has 4 elements, but 3 were sent"),
            ("[1,2,3,4,5]", &[2, 2], "shape [2, 2] has 4 elements, but more were sent"),
            ("[[1],[2,3,4]]", &[2, 2], "a list on axis 1 has 1 elements, where the shape is [2, 2]"),
            ("[[1,2,3,4]]", &[2, 2], "a list on axis 1 has 4 elements, where the shape is [2, 2]"),
            ("[[[1,2,3,4]]]", &[2, 2], "its data is nested deeper than the 2 axes of its shape"),
            ("[[7]]", &[], "its data is nested deeper than the 0 axes of its shape"),
            ("[1,[2,3],4]", &[2, 2], "its data is nested unevenly"),
            ("[[1,2],3,4]", &[2, 2], "its data is nested unevenly"),
            (r#"[{"a": 1}]"#, &[1], "its data contains an object"),
            ("", &[1], "shape [1] has 1 elements, but 0 were sent"),
        ] {
            assert_eq!(parse(text, Datatype::Uint8, shape), Err(expected.to_owned()), "{text}");
        }
        let deep = "[".repeat(200_000);
        assert!(parse(&deep, Datatype::Uint8, &[1; 8]).unwrap_err().starts_with("its data is nested deeper"));
    }

    #[test]
    fn strings_beyond_the_size_limit_are_rejected() {
        let text = br#"["", ""]"#;
        assert_eq!(parse_array(text, Datatype::Bytes, &[2], 7), Err(ArrayError::TooLarge));
        assert_eq!(parse_array(text, Datatype::Bytes, &[2], 8), Ok(vec![0; 8]));
    }
}
