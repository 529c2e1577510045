//! Typed tensor contents.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, bytes as strings, encode_key, encode_varint, encoded_len_varint, key_len,
};
use prost::encoding::{bool, double, float, int32, int64, skip_field, uint32, uint64};
use prost::{DecodeError, Message};

/// Message `InferTensorContents`: the elements of a tensor, in the field of its datatype.
///
/// Written by hand, because the generated type allocates each element of `bytes_contents`: two million words of three
/// bytes would take 64 MiB. Here they share one buffer, in the format of `raw_input_contents`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InferTensorContents {
    /// BOOL
    pub bool_contents: Vec<bool>,
    /// INT8, INT16, INT32
    pub int_contents: Vec<i32>,
    /// INT64
    pub int64_contents: Vec<i64>,
    /// UINT8, UINT16, UINT32
    pub uint_contents: Vec<u32>,
    /// UINT64
    pub uint64_contents: Vec<u64>,
    /// FP32
    pub fp32_contents: Vec<f32>,
    /// FP64
    pub fp64_contents: Vec<f64>,
    /// BYTES
    pub bytes_contents: PackedStrings,
}

/// Elements of `BYTES` in one buffer, each after its length (u32, little-endian).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedStrings {
    raw: BytesMut,
    count: usize,
}

/// Size of the length of an element in bytes.
const LENGTH_PREFIX_BYTES: usize = size_of::<u32>();

/// Field number of `bytes_contents`.
const BYTES_CONTENTS: u32 = 8;

impl PackedStrings {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All elements in the format of `raw_input_contents`.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Iterates over the elements.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.raw[..];
        std::iter::from_fn(move || {
            let (length, data) = rest.split_first_chunk::<LENGTH_PREFIX_BYTES>()?;
            let (element, after) = data.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            Some(element)
        })
    }

    fn push(&mut self, element: &[u8]) {
        self.raw.put_u32_le(element.len() as u32);
        self.raw.put_slice(element);
        self.count += 1;
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for PackedStrings {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut strings = Self::default();
        elements.into_iter().for_each(|element| strings.push(element.as_ref()));
        strings
    }
}

impl Message for InferTensorContents {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        bool::encode_packed(1, &self.bool_contents, buf);
        int32::encode_packed(2, &self.int_contents, buf);
        int64::encode_packed(3, &self.int64_contents, buf);
        uint32::encode_packed(4, &self.uint_contents, buf);
        uint64::encode_packed(5, &self.uint64_contents, buf);
        float::encode_packed(6, &self.fp32_contents, buf);
        double::encode_packed(7, &self.fp64_contents, buf);
        for element in self.bytes_contents.iter() {
            encode_key(BYTES_CONTENTS, WireType::LengthDelimited, buf);
            encode_varint(element.len() as u64, buf);
            buf.put_slice(element);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => bool::merge_repeated(wire_type, &mut self.bool_contents, buf, ctx),
            2 => int32::merge_repeated(wire_type, &mut self.int_contents, buf, ctx),
            3 => int64::merge_repeated(wire_type, &mut self.int64_contents, buf, ctx),
            4 => uint32::merge_repeated(wire_type, &mut self.uint_contents, buf, ctx),
            5 => uint64::merge_repeated(wire_type, &mut self.uint64_contents, buf, ctx),
            6 => float::merge_repeated(wire_type, &mut self.fp32_contents, buf, ctx),
            7 => double::merge_repeated(wire_type, &mut self.fp64_contents, buf, ctx),
            BYTES_CONTENTS => {
                let mut element = Bytes::new();
                strings::merge(wire_type, &mut element, buf, ctx)?;
                self.bytes_contents.push(&element);
                Ok(())
            }
            _ => skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn encoded_len(&self) -> usize {
        let strings =
            self.bytes_contents.iter().map(|element| encoded_len_varint(element.len() as u64) + element.len());
        bool::encoded_len_packed(1, &self.bool_contents)
            + int32::encoded_len_packed(2, &self.int_contents)
            + int64::encoded_len_packed(3, &self.int64_contents)
            + uint32::encoded_len_packed(4, &self.uint_contents)
            + uint64::encoded_len_packed(5, &self.uint64_contents)
            + float::encoded_len_packed(6, &self.fp32_contents)
            + double::encoded_len_packed(7, &self.fp64_contents)
            + self.bytes_contents.len() * key_len(BYTES_CONTENTS)
            + strings.sum::<usize>()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message as prost would derive it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Derived {
        #[prost(bool, repeated, tag = "1")]
        bools: Vec<bool>,
        #[prost(int32, repeated, tag = "2")]
        ints: Vec<i32>,
        #[prost(int64, repeated, tag = "3")]
        longs: Vec<i64>,
        #[prost(uint32, repeated, tag = "4")]
        uints: Vec<u32>,
        #[prost(uint64, repeated, tag = "5")]
        ulongs: Vec<u64>,
        #[prost(float, repeated, tag = "6")]
        floats: Vec<f32>,
        #[prost(double, repeated, tag = "7")]
        doubles: Vec<f64>,
        #[prost(bytes = "vec", repeated, tag = "8")]
        strings: Vec<Vec<u8>>,
    }

    fn full() -> Derived {
        Derived {
            bools: vec![true, false],
            ints: vec![-1, i32::MAX],
            longs: vec![i64::MIN, 0],
            uints: vec![0, u32::MAX],
            ulongs: vec![u64::MAX],
            floats: vec![-0.5, f32::MAX],
            doubles: vec![f64::MIN_POSITIVE],
            strings: vec![b"word".to_vec(), vec![], vec![0xff; 300]],
        }
    }

    #[test]
    fn encoding_equals_that_of_the_derived_message() {
        let bytes = full().encode_to_vec();
        let message = InferTensorContents::decode(&bytes[..]).unwrap();
        assert_eq!(message.encoded_len(), bytes.len());
        assert_eq!(message.encode_to_vec(), bytes);
        assert_eq!(message.bytes_contents.iter().collect::<Vec<_>>(), full().strings);
        assert_eq!(message.bytes_contents.len(), 3);
        assert_eq!((message.fp32_contents, message.int_contents), (full().floats, full().ints));
        // Merging appends, as for every repeated field.
        let mut twice = InferTensorContents::decode(&bytes[..]).unwrap();
        twice.merge(&bytes[..]).unwrap();
        assert_eq!((twice.bytes_contents.len(), &twice.uint64_contents[..]), (6, &[u64::MAX; 2][..]));
        twice.clear();
        assert!(twice.bytes_contents.is_empty() && twice.encoded_len() == 0);
    }

    #[test]
    fn an_invalid_message_is_rejected() {
        let bytes = full().encode_to_vec();
        assert!(InferTensorContents::decode(&bytes[..bytes.len() - 1]).is_err());
        // A varint in place of an element.
        assert!(InferTensorContents::decode(&[8 << 3, 1][..]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn decoding_equals_that_of_the_derived_message(bytes: Vec<u8>) {
            let (ours, derived) = (InferTensorContents::decode(&bytes[..]), Derived::decode(&bytes[..]));
            assert_eq!(ours.is_ok(), derived.is_ok());
            if let (Ok(ours), Ok(derived)) = (ours, derived) {
                assert_eq!(ours.encode_to_vec(), derived.encode_to_vec());
            }
        }
    }
}
