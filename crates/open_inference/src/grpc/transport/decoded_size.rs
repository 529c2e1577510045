//! Estimate of the decoded size of a message, from its encoding. A few bytes of Protocol Buffers can become a large
//! structure. An empty input has two bytes in a message and some hundred in memory; a small number has one and eight.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::grpc::proto::inference::InferParameter;
use crate::grpc::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// Memory of a parameter, including the map's first node, which has room for eleven entries.
const PARAMETER_BYTES: usize = 16 + 11 * size_of::<(String, InferParameter)>();

/// Memory of raw contents, besides their bytes.
const RAW_CONTENTS_BYTES: usize = size_of::<bytes::Bytes>();

/// Maximum number of bytes that decoding a `ModelInferRequest` allocates, besides those of the message.
pub fn infer_request_size(message: &[u8]) -> usize {
    sum_fields(message, |number, value| match (number, value) {
        (4, _) => PARAMETER_BYTES,
        (5, Value::Bytes(input)) => 2 * size_of::<InferInputTensor>() + input_size(input),
        (6, Value::Bytes(output)) => {
            2 * size_of::<InferRequestedOutputTensor>() + sum_fields(output, |_, _| PARAMETER_BYTES)
        }
        (7, _) => 2 * RAW_CONTENTS_BYTES,
        _ => 0,
    })
}

/// Other messages are small, and their size limit bounds the allocation well enough.
pub fn small_message_size(_: &[u8]) -> usize {
    0
}

fn input_size(input: &[u8]) -> usize {
    sum_fields(input, |number, value| match (number, value) {
        (3, Value::Bytes(lengths)) => count_varints(lengths) * size_of::<i64>(),
        (3, Value::Number) => size_of::<i64>(),
        (4, _) => PARAMETER_BYTES,
        (5, Value::Bytes(contents)) => sum_fields(contents, contents_size),
        _ => 0,
    })
}

fn contents_size(number: u32, value: Value) -> usize {
    match (number, value) {
        (1, Value::Bytes(packed)) => count_varints(packed),
        (2 | 4, Value::Bytes(packed)) => count_varints(packed) * 4,
        (3 | 5, Value::Bytes(packed)) => count_varints(packed) * 8,
        (6 | 7, Value::Bytes(packed)) => packed.len(),
        // Elements share one buffer, each after its length, as in raw contents.
        (8, Value::Bytes(element)) => size_of::<u32>() + element.len(),
        (_, Value::Number) => 8,
        _ => 0,
    }
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
}

/// Sums the sizes of the fields, up to the first invalid one, where decoding stops.
fn sum_fields(mut message: &[u8], field_size: impl Fn(u32, Value) -> usize) -> usize {
    let mut sum = 0_usize;
    while !message.is_empty() {
        let Ok((number, wire_type)) = decode_key(&mut message) else { break };
        let rest = match wire_type {
            WireType::Varint => decode_varint(&mut message).ok().map(|_| (message, Value::Number)),
            WireType::ThirtyTwoBit => message.get(4..).map(|rest| (rest, Value::Number)),
            WireType::SixtyFourBit => message.get(8..).map(|rest| (rest, Value::Number)),
            WireType::LengthDelimited => decode_varint(&mut message)
                .ok()
                .and_then(|length| message.split_at_checked(usize::try_from(length).ok()?))
                .map(|(bytes, rest)| (rest, Value::Bytes(bytes))),
            // The decoder skips the fields of a group. Counting them overestimates.
            WireType::StartGroup | WireType::EndGroup => continue,
        };
        let Some((rest, value)) = rest else { break };
        message = rest;
        sum = sum.saturating_add(field_size(number, value));
    }
    sum
}

/// Counts varints: only the last byte of each has no continuation bit.
fn count_varints(packed: &[u8]) -> usize {
    packed.iter().filter(|&&byte| byte < 0x80).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::*;
    use crate::grpc::proto::inference::{InferTensorContents, ModelInferRequest};

    fn size(request: &ModelInferRequest) -> usize {
        infer_request_size(&request.encode_to_vec())
    }

    fn with_contents(contents: InferTensorContents) -> ModelInferRequest {
        let input = InferInputTensor { contents: Some(contents), shape: vec![1; 3], ..Default::default() };
        ModelInferRequest { inputs: vec![input], ..Default::default() }
    }

    #[test]
    fn empty_inputs_count_with_their_decoded_size() {
        let inputs = vec![InferInputTensor::default(); 1000];
        let request = ModelInferRequest { inputs, ..Default::default() };
        assert!(request.encoded_len() == 2000);
        assert!(size(&request) >= 1000 * size_of::<InferInputTensor>());
    }

    #[test]
    fn small_numbers_count_with_the_size_of_their_type() {
        let base = size(&with_contents(InferTensorContents::default()));
        for (contents, bytes) in [
            (InferTensorContents { bool_contents: vec![true; 100], ..Default::default() }, 100),
            (InferTensorContents { int_contents: vec![1; 100], ..Default::default() }, 400),
            (InferTensorContents { int_contents: vec![-1; 100], ..Default::default() }, 400),
            (InferTensorContents { int64_contents: vec![1; 100], ..Default::default() }, 800),
            (InferTensorContents { uint64_contents: vec![u64::MAX; 100], ..Default::default() }, 800),
            (InferTensorContents { fp32_contents: vec![1.0; 100], ..Default::default() }, 400),
            (InferTensorContents { fp64_contents: vec![1.0; 100], ..Default::default() }, 800),
            (InferTensorContents { bytes_contents: ["ab"; 100].into_iter().collect(), ..Default::default() }, 600),
        ] {
            assert_eq!(size(&with_contents(contents.clone())), base + bytes, "{contents:?}");
        }
    }

    #[test]
    fn typed_strings_count_as_much_as_raw_ones() {
        let words = ["a", "", "three"].repeat(700_000);
        let raw = crate::Tensor::from_strings("x", vec![words.len()], &words).data.len();
        let base = size(&with_contents(InferTensorContents::default()));
        let contents = InferTensorContents { bytes_contents: words.into_iter().collect(), ..Default::default() };
        assert_eq!(size(&with_contents(contents)), base + raw);
        assert!(raw < 64 << 20, "two million words fit a request");
    }

    #[test]
    fn parameters_unpacked_fields_and_groups_are_counted() {
        let parameters: BTreeMap<_, _> = (0..10).map(|n| (n.to_string(), InferParameter::default())).collect();
        assert_eq!(size(&ModelInferRequest { parameters, ..Default::default() }), 10 * PARAMETER_BYTES);
        // Field 3 of an input, unpacked.
        assert_eq!(input_size(&[0x18, 1, 0x18, 1]), 16);
        // The same in a group of the unknown field 100.
        assert_eq!(input_size(&[0xa3, 6, 0x18, 1, 0x18, 1, 0xa4, 6]), 16);
    }

    #[test]
    fn an_invalid_message_is_counted_up_to_the_error() {
        let whole =
            with_contents(InferTensorContents { int_contents: vec![1; 50], ..Default::default() }).encode_to_vec();
        for length in 0..whole.len() {
            assert!(infer_request_size(&whole[..length]) <= infer_request_size(&whole));
        }
        assert_eq!(infer_request_size(&[0xff; 20]), 0);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(message: Vec<u8>) {
            infer_request_size(&message);
        }

        #[test]
        fn the_estimate_is_an_upper_bound(message: Vec<u8>) {
            if let Ok(request) = ModelInferRequest::decode(&message[..]) {
                let inputs = request.inputs.len() * size_of::<InferInputTensor>();
                let raw = request.raw_input_contents.len() * RAW_CONTENTS_BYTES;
                assert!(inputs + raw + request.parameters.len() * PARAMETER_BYTES <= infer_request_size(&message));
            }
        }
    }
}
