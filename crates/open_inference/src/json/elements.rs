use half::{bf16, f16};

use super::decimal;
use super::scanner::Scanner;
use crate::check::shown;
use crate::rounding::{to_bf16, to_f16};
use crate::{Datatype, Element, with_element};

/// Why `data` of JSON does not become elements.
#[derive(Debug, PartialEq)]
pub(crate) enum ElementsError {
    /// The words begin with what is wrong, to be put after the input's name.
    Malformed(String),
    /// More bytes than there is room for.
    TooLarge,
}

/// Bytes that [`read`] allocates for these arguments, apart from those for one string with escapes.
///
/// A shape promises more than it may hold: an element takes at least two bytes of text.
pub(crate) fn capacity(text: &[u8], datatype: Datatype, shape: &[usize], room: usize) -> usize {
    let elements = shape.iter().product::<usize>().min(text.len() / 2 + 1);
    match datatype.size() {
        Some(size) => elements.saturating_mul(size),
        // A string is no longer than its text, whose quotes and comma are three of the four bytes of its length.
        None => elements.saturating_add(text.len()).min(room),
    }
}

/// Reads a JSON value, a list flat or nested or one element, straight into raw elements: nothing is allocated for one, and
/// a number goes from its digits to its datatype in one rounding.
///
/// The text should be valid JSON; what is not gives an error or some elements, and never a panic. `shape` has been
/// checked: its product times the datatype's size is at most `room`.
pub(crate) fn read(text: &[u8], datatype: Datatype, shape: &[usize], room: usize) -> Result<Vec<u8>, ElementsError> {
    let text = std::str::from_utf8(text).map_err(|_| ElementsError::Malformed("its data is not UTF-8".to_owned()))?;
    let expected: usize = shape.iter().product();
    let mut scanner = Scanner::new(text, shape);
    let mut data = Vec::with_capacity(capacity(text.as_bytes(), datatype, shape, room));
    let mut elements = 0;
    with_element!(datatype, T => {
        while let Some(token) = scanner.next()? {
            count(&mut elements, expected, shape)?;
            <T as Number>::parse(token).ok_or_else(|| no_element(elements, token, datatype))?.write(&mut data);
        }
    }, bytes => {
        while let Some(token) = scanner.next()? {
            count(&mut elements, expected, shape)?;
            let begin = data.len();
            if begin + 4 > room {
                return Err(ElementsError::TooLarge);
            }
            data.extend_from_slice(&[0; 4]);
            unquote(token, &mut data, room).ok_or_else(|| no_element(elements, token, datatype))??;
            let length = (data.len() - begin - 4) as u32;
            data[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        }
    });
    if elements < expected {
        return Err(ElementsError::Malformed(format!(
            "shape {shape:?} has {expected} elements, but {elements} were sent"
        )));
    }
    Ok(data)
}

fn count(elements: &mut usize, expected: usize, shape: &[usize]) -> Result<(), ElementsError> {
    *elements += 1;
    if *elements > expected {
        return Err(ElementsError::Malformed(format!("shape {shape:?} has {expected} elements, but more were sent")));
    }
    Ok(())
}

/// `elements` counts the bad one already.
fn no_element(elements: usize, token: &str, datatype: Datatype) -> ElementsError {
    let token = if token.starts_with('"') { shown(token.trim_matches('"')) } else { token.chars().take(64).collect() };
    ElementsError::Malformed(format!("element {}: {token} is no {datatype}", elements - 1))
}

/// Appends the text of a JSON string to `data`, which may have `room` bytes. `None` where it is none, also where half of a
/// surrogate pair stands alone.
///
/// `serde_json` would make a string with escapes in a buffer of its own, which grows to three times the string's length.
fn unquote(token: &str, data: &mut Vec<u8>, room: usize) -> Option<Result<(), ElementsError>> {
    let mut rest = token.strip_prefix('"')?.strip_suffix('"')?;
    let mut buffer = [0; 4];
    loop {
        let plain = memchr::memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(plain);
        let (character, behind) = match behind.strip_prefix('\\') {
            None => ("", ""),
            Some(escape) => {
                let (character, behind) = unescape(escape)?;
                (&*character.encode_utf8(&mut buffer), behind)
            }
        };
        if data.len() + text.len() + character.len() > room {
            return Some(Err(ElementsError::TooLarge));
        }
        data.extend_from_slice(text.as_bytes());
        data.extend_from_slice(character.as_bytes());
        if plain == rest.len() {
            return Some(Ok(()));
        }
        rest = behind;
    }
}

/// The character that stands behind a backslash, and what follows it (RFC 8259 §7).
fn unescape(escape: &str) -> Option<(char, &str)> {
    let (kind, behind) = (escape.as_bytes().first()?, escape.get(1..)?);
    let character = match kind {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unit(behind),
        _ => return None,
    };
    Some((character, behind))
}

/// One UTF-16 unit in hexadecimal, or two that are a surrogate pair.
fn unescape_unit(text: &str) -> Option<(char, &str)> {
    let unit = |text: &str| {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(text)?;
    let behind = text.get(4..)?;
    match char::from_u32(first.into()) {
        Some(character) => Some((character, behind)),
        None => {
            let behind = behind.strip_prefix("\\u")?;
            let pair = [first, unit(behind)?];
            Some((char::decode_utf16(pair).next()?.ok()?, behind.get(4..)?))
        }
    }
}

/// An element that JSON writes without quotes.
trait Number: Element {
    /// From a token of JSON; `None` where the type cannot hold it.
    fn parse(token: &str) -> Option<Self>;
}

macro_rules! whole_number {
    ($($number:ty)*) => {$(
        impl Number for $number {
            fn parse(token: &str) -> Option<Self> {
                token.parse().ok().or_else(|| {
                    // Clients write 1.0 and 1e3 for whole numbers. An f64 has each whole number up to here.
                    let number = decimal(token)?;
                    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)?.try_into().ok()
                })
            }
        }
    )*};
}
whole_number!(u8 u16 u32 u64 i8 i16 i32 i64);

macro_rules! float {
    ($($number:ty, $quick:expr, $read:expr;)*) => {$(
        impl Number for $number {
            fn parse(token: &str) -> Option<Self> {
                let read: fn(&str) -> Option<$number> = $read;
                // Digits first: they are nearly all that comes.
                $quick(token).or_else(|| match token {
                    // As the JSON mapping of Protocol Buffers writes what JSON has no number for.
                    r#""NaN""# => Some(Self::NAN),
                    r#""Infinity""# => Some(Self::INFINITY),
                    r#""-Infinity""# => Some(Self::NEG_INFINITY),
                    // As MLServer's clients write a missing number.
                    "null" => Some(Self::NAN),
                    _ => read(digits(token)?).filter(|number| number.is_finite()),
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

fn decimal(token: &str) -> Option<f64> {
    digits(token)?.parse().ok()
}

/// Rust reads `inf` and `nan` too.
fn digits(token: &str) -> Option<&str> {
    token.strip_prefix('-').unwrap_or(token).starts_with(|first: char| first.is_ascii_digit()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, datatype: Datatype, shape: &[usize]) -> Result<Vec<u8>, String> {
        read(text.as_bytes(), datatype, shape, 1 << 20).map_err(|error| match error {
            ElementsError::Malformed(words) => words,
            ElementsError::TooLarge => "too large".to_owned(),
        })
    }

    #[test]
    fn lists_are_read_flat_nested_and_as_one_element() {
        let expected = Ok(vec![1, 2, 3, 4]);
        for text in ["[1,2,3,4]", "[[1,2],[3,4]]", " [ [ 1 , 2 ] ,\n[3, 4 ] ] ", "[[1.0, 2e0], [30e-1, 4]]"] {
            assert_eq!(words(text, Datatype::Uint8, &[2, 2]), expected, "{text}");
        }
        assert_eq!(words("[[1,2],[3,4]]", Datatype::Uint8, &[1, 2, 2]), expected, "an axis may be left out");
        let deepest = format!("{}1,2{},[3,4]{}", "[".repeat(8), "]", "]".repeat(7));
        assert_eq!(words(&deepest, Datatype::Uint8, &[1, 1, 1, 1, 1, 1, 2, 2]), expected);
        for text in ["7", "[7]"] {
            assert_eq!(words(text, Datatype::Uint8, &[]), Ok(vec![7]), "{text}");
        }
        assert_eq!(words("[]", Datatype::Uint8, &[0]), Ok(vec![]));
        assert_eq!(words("[[],[]]", Datatype::Uint8, &[2, 0]), Ok(vec![]));
    }

    #[test]
    fn strings_are_read_with_their_escapes() {
        let data = words(r#"["a", "", "\u00e9\n\ud83d\ude00", "é]\\\""]"#, Datatype::Bytes, &[4]).unwrap();
        let tensor = crate::Tensor::new("x", Datatype::Bytes, &[4], data.into()).unwrap();
        let strings: Vec<_> = tensor.strings().map(|string| String::from_utf8(string.to_vec()).unwrap()).collect();
        assert_eq!(strings, ["a", "", "é\n😀", "é]\\\""]);
    }

    #[test]
    fn strings_are_those_that_serde_reads_in_no_more_memory_than_their_text() {
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
        assert_eq!(unquote(r#""abc\n""#, &mut vec![0], 4), Some(Err(ElementsError::TooLarge)));
    }

    #[test]
    fn every_number_is_exact_to_the_last_bit() {
        let read = |text: &str, datatype| words(text, datatype, &[1]);
        assert_eq!(read("[9223372036854775807]", Datatype::Int64), Ok(i64::MAX.to_le_bytes().into()));
        assert_eq!(read("[-9223372036854775808]", Datatype::Int64), Ok(i64::MIN.to_le_bytes().into()));
        assert_eq!(read("[18446744073709551615]", Datatype::Uint64), Ok(u64::MAX.to_le_bytes().into()));
        assert_eq!(read("[-0.0]", Datatype::Fp32), Ok((-0.0_f32).to_le_bytes().into()));
        assert_eq!(read("[1e-45]", Datatype::Fp32), Ok(f32::from_bits(1).to_le_bytes().into()));
        assert_eq!(read("[5e-324]", Datatype::Fp64), Ok(f64::from_bits(1).to_le_bytes().into()));
        // Read as an f64 first and then rounded again, it would be one bit more.
        let between = "[1.00000017881393432617187499]";
        assert_eq!(read(between, Datatype::Fp32), Ok(1.000_000_1_f32.to_le_bytes().into()));
        assert_eq!(read("[1.00048828218]", Datatype::Fp16), Ok(f16::from_bits(0x3c01).to_le_bytes().into()));
        assert_eq!(read(r#"["NaN"]"#, Datatype::Fp16), Ok(f16::NAN.to_le_bytes().into()));
        assert_eq!(read(r#"["-Infinity"]"#, Datatype::Fp64), Ok(f64::NEG_INFINITY.to_le_bytes().into()));
        assert_eq!(read("[true]", Datatype::Bool), Ok(vec![1]));
    }

    #[test]
    fn null_is_a_missing_number_where_the_datatype_has_nan() {
        let missing = |datatype| match datatype {
            Datatype::Fp16 => f16::NAN.to_le_bytes().to_vec(),
            Datatype::Bf16 => bf16::NAN.to_le_bytes().to_vec(),
            Datatype::Fp32 => f32::NAN.to_le_bytes().to_vec(),
            _ => f64::NAN.to_le_bytes().to_vec(),
        };
        for datatype in [Datatype::Fp16, Datatype::Bf16, Datatype::Fp32, Datatype::Fp64] {
            assert_eq!(words("[null]", datatype, &[1]), Ok(missing(datatype)), "{datatype}");
            assert_eq!(words(r#"["NaN"]"#, datatype, &[1]), Ok(missing(datatype)), "{datatype}");
        }
        let nested = words("[[1, null], [ null ,2.5]]", Datatype::Fp32, &[2, 2]).unwrap();
        let flat = words("[1,null,null,2.5]", Datatype::Fp32, &[2, 2]).unwrap();
        assert_eq!(nested, flat);
        assert_eq!(nested, [1.0, f32::NAN, f32::NAN, 2.5].map(f32::to_le_bytes).concat());
        assert_eq!(words("[[1,2],null]", Datatype::Fp32, &[2, 2]), Err("its data is nested unevenly".to_owned()));
    }

    #[test]
    fn what_a_datatype_cannot_hold_is_refused_by_element() {
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
            let error = words(&format!("[{text}]"), datatype, &[1]).unwrap_err();
            assert_eq!(error, format!("element 0: {shown} is no {datatype}"));
        }
    }

    #[test]
    fn data_that_contradicts_the_shape_is_refused() {
        for (text, shape, expected) in [
            ("[1,2,3]", &[2, 2][..], "shape [2, 2] has 4 elements, but 3 were sent"),
            ("[1,2,3,4,5]", &[2, 2], "shape [2, 2] has 4 elements, but more were sent"),
            ("[[1],[2,3,4]]", &[2, 2], "a list on axis 1 has 1 elements, where the shape is [2, 2]"),
            ("[[1,2,3,4]]", &[2, 2], "a list on axis 1 has 4 elements, where the shape is [2, 2]"),
            ("[[[1,2,3,4]]]", &[2, 2], "its data is nested deeper than the 2 axes of its shape"),
            ("[[7]]", &[], "its data is nested deeper than the 0 axes of its shape"),
            ("[1,[2,3],4]", &[2, 2], "its data is nested unevenly"),
            ("[[1,2],3,4]", &[2, 2], "its data is nested unevenly"),
            (r#"[{"a": 1}]"#, &[1], "its data has an object among its elements"),
            ("", &[1], "shape [1] has 1 elements, but 0 were sent"),
        ] {
            assert_eq!(words(text, Datatype::Uint8, shape), Err(expected.to_owned()), "{text}");
        }
        let deep = "[".repeat(200_000);
        assert!(words(&deep, Datatype::Uint8, &[1; 8]).unwrap_err().starts_with("its data is nested deeper"));
    }

    #[test]
    fn strings_take_no_more_than_the_room_there_is() {
        let text = br#"["", ""]"#;
        assert_eq!(read(text, Datatype::Bytes, &[2], 7), Err(ElementsError::TooLarge));
        assert_eq!(read(text, Datatype::Bytes, &[2], 8), Ok(vec![0; 8]));
    }
}
