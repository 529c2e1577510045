//! Nested list of numbers, as `{"image_arr": <nested list>}` contains it.

use std::fmt;

use memchr::memchr_iter;
use open_inference::utf8_json;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A rectangular nested list of numbers, flattened in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageArray {
    /// Length of each nesting level.
    pub shape: Vec<usize>,
    /// Numbers, as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// Response of the legacy route: the largest value of row 0 and its index.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LegacyResponse {
    /// Index of the largest value.
    pub cls: usize,
    /// The largest value.
    pub value: f32,
}

/// Error of a body that is not `{"image_arr": …}`.
#[derive(Debug, thiserror::Error)]
#[error("the body is not {{\"image_arr\": <nested list of numbers>}}: {0}")]
pub struct ImageArrayError(serde_json::Error);

/// Nesting limit: deeper than any tensor that ONNX Runtime accepts, and far from exhausting the stack.
const MAX_DEPTH: usize = 8;

impl ImageArray {
    /// Upper bound of the bytes that [`Self::from_json`] allocates for the numbers of `body`, which commas separate.
    pub fn max_value_bytes(body: &[u8]) -> usize {
        max_numbers(body) * size_of::<f32>()
    }

    /// Parses a request body. Numbers become `f32`, the only datatype of the first MLServe.
    pub fn from_json(body: &[u8]) -> Result<Self, ImageArrayError> {
        let body = utf8_json(body).map_err(|error| ImageArrayError(serde_json::Error::custom(error)))?;
        // serde would deserialize the fields of an object from a list as well.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(ImageArrayError(serde_json::Error::custom("expected an object, found a list")));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read = reader.deserialize_map(BodyVisitor { numbers: max_numbers(body) });
        read.and_then(|array| reader.end().map(|()| array)).map_err(ImageArrayError)
    }
}

/// Upper bound of the count of numbers in `body`.
fn max_numbers(body: &[u8]) -> usize {
    memchr_iter(b',', body).count() + 1
}

/// Visitor of the object. `numbers` is the capacity of the vector, so that it never grows.
struct BodyVisitor {
    numbers: usize,
}

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = ImageArray;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ImageArray, A::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Field {
            ImageArr,
            #[serde(other)]
            Other,
        }
        let mut read = None;
        while let Some(field) = map.next_key()? {
            match field {
                Field::ImageArr if read.is_some() => return Err(A::Error::duplicate_field("image_arr")),
                Field::ImageArr => {
                    let mut array = ImageArray { shape: Vec::new(), values: Vec::with_capacity(self.numbers) };
                    map.next_value_seed(LevelVisitor { array: &mut array, depth: 0 })?;
                    read = Some(array);
                }
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        read.ok_or_else(|| A::Error::missing_field("image_arr"))
    }
}

/// Deserializes one nesting level directly into the flat vector, without intermediate lists.
struct LevelVisitor<'a> {
    array: &'a mut ImageArray,
    depth: usize,
}

impl LevelVisitor<'_> {
    fn push_number<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        // Only the first number may find the shape still growing. Later, a number in place of a list is ragged.
        if self.depth != self.array.shape.len() {
            return Err(E::custom("image_arr is ragged: expected a list, found a number"));
        }
        let value = value as f32;
        if !value.is_finite() {
            return Err(E::custom("image_arr holds a number that no 32-bit float can hold"));
        }
        self.array.values.push(value);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for LevelVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LevelVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number or a list of numbers")
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push_number(value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push_number(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push_number(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let LevelVisitor { array, depth } = self;
        if depth == MAX_DEPTH {
            return Err(A::Error::custom(format!("image_arr is nested more than {MAX_DEPTH} deep")));
        }
        // The first list at each depth determines the length of that depth, which is unknown until its end.
        let first = depth == array.shape.len();
        if first {
            if !array.values.is_empty() {
                return Err(A::Error::custom("image_arr is ragged: expected a number, found a list"));
            }
            array.shape.push(usize::MAX);
        }
        let mut length = 0;
        while list.next_element_seed(LevelVisitor { array, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        if first {
            array.shape[depth] = length;
        } else if array.shape[depth] != length {
            let expected = array.shape[depth];
            return Err(A::Error::custom(format!(
                "image_arr is ragged: a list of {length} where the others have {expected}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ImageArray, String> {
        ImageArray::from_json(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn list_is_flattened_in_row_major_order() {
        let array = parse(r#"{"image_arr": [[1, 2.5, -3], [4, 5, 6]]}"#).unwrap();
        assert_eq!(array.shape, [2, 3]);
        assert_eq!(array.values, [1.0, 2.5, -3.0, 4.0, 5.0, 6.0]);
        assert_eq!(parse(r#"{"image_arr": 7}"#).unwrap().shape, Vec::<usize>::new());
        assert_eq!(parse(r#"{"image_arr": [[], []]}"#).unwrap().shape, [2, 0]);
    }

    #[test]
    fn byte_order_mark_is_accepted() {
        assert_eq!(parse("\u{feff} {\"image_arr\": [7]}").unwrap().values, [7.0]);
        assert!(parse("\u{feff}[[7]]").unwrap_err().contains("expected an object, found a list"));
        let utf16: Vec<u8> = r#"{"image_arr": [7]}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let error = ImageArray::from_json(&utf16).unwrap_err().to_string();
        assert!(error.ends_with("the JSON is encoded as UTF-16 or UTF-32; send it as UTF-8"), "{error}");
    }

    #[test]
    fn ragged_lists_are_rejected() {
        for ragged in
            ["[[1,2],[3]]", "[[1],2]", "[1,[2]]", "[[],[1]]", "[[[1]],[2]]", "[[],[[]]]", "[[1,2],[[3,4],[5,6]]]"]
        {
            let error = parse(&format!(r#"{{"image_arr": {ragged}}}"#)).unwrap_err();
            assert!(error.contains("ragged"), "{ragged}: {error}");
        }
    }

    #[test]
    fn anything_but_a_list_of_finite_numbers_is_rejected() {
        for (json, text) in [
            (r#"{"image_arr": [NaN]}"#, "expected"),
            (r#"{"image_arr": [1e39]}"#, "32-bit"),
            (r#"{"image_arr": ["1"]}"#, "invalid type: string"),
            (r#"{"image_arr": [null]}"#, "invalid type: null"),
            (r#"{"image": [1]}"#, "missing field `image_arr`"),
            ("[[1]]", "expected an object, found a list"),
            ("null", "expected an object"),
            ("", "EOF"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(text), "{json}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_rejected_without_exhausting_the_stack() {
        let json = format!(r#"{{"image_arr": {}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
        assert!(parse(&json).unwrap_err().contains("nested more than 8 deep"));
    }
}
