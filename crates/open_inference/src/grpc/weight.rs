//! A few bytes of Protocol Buffers can become a large structure: an empty input is two bytes in a message and some hundred in
//! memory, a small number one byte and eight. So a request is weighed before it is decoded.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::proto::inference::InferParameter;
use super::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// A parameter, and the node with places for eleven that a map takes for its first.
const PARAMETER: usize = 16 + 11 * size_of::<(String, InferParameter)>();

/// Raw contents, beside their bytes.
const POINTER: usize = size_of::<bytes::Bytes>();

/// What decoding allocates for a `ModelInferRequest`, beside the message's own bytes, at most.
pub fn of_infer_request(message: &[u8]) -> usize {
    fields(message, |number, value| match (number, value) {
        (4, _) => PARAMETER,
        (5, Value::Bytes(input)) => 2 * size_of::<InferInputTensor>() + of_input(input),
        (6, Value::Bytes(output)) => 2 * size_of::<InferRequestedOutputTensor>() + fields(output, |_, _| PARAMETER),
        (7, _) => 2 * POINTER,
        _ => 0,
    })
}

/// Whatever is in it, the limit of a small message bounds it well enough.
pub fn of_small_message(_: &[u8]) -> usize {
    0
}

fn of_input(input: &[u8]) -> usize {
    fields(input, |number, value| match (number, value) {
        (3, Value::Bytes(lengths)) => varints(lengths) * size_of::<i64>(),
        (3, Value::Number) => size_of::<i64>(),
        (4, _) => PARAMETER,
        (5, Value::Bytes(contents)) => fields(contents, of_elements),
        _ => 0,
    })
}

fn of_elements(number: u32, value: Value) -> usize {
    match (number, value) {
        (1, Value::Bytes(packed)) => varints(packed),
        (2 | 4, Value::Bytes(packed)) => varints(packed) * 4,
        (3 | 5, Value::Bytes(packed)) => varints(packed) * 8,
        (6 | 7, Value::Bytes(packed)) => packed.len(),
        // In one piece, each after its length: as much as the same strings in raw contents.
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

/// Adds up what the fields weigh, to the first that is broken: decoding gets no further.
fn fields(mut message: &[u8], weigh: impl Fn(u32, Value) -> usize) -> usize {
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
            // What stands in a group is skipped by the decoder; here it counts, which errs on the safe side.
            WireType::StartGroup | WireType::EndGroup => continue,
        };
        let Some((rest, value)) = rest else { break };
        message = rest;
        sum = sum.saturating_add(weigh(number, value));
    }
    sum
}

/// How many numbers of variable length there are: each ends with the one byte of it that has no highest bit.
fn varints(packed: &[u8]) -> usize {
    packed.iter().filter(|&&byte| byte < 0x80).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost::Message;

    use super::super::proto::inference::{InferTensorContents, ModelInferRequest};
    use super::*;

    fn weight(request: &ModelInferRequest) -> usize {
        of_infer_request(&request.encode_to_vec())
    }

    fn with_contents(contents: InferTensorContents) -> ModelInferRequest {
        let input = InferInputTensor { contents: Some(contents), shape: vec![1; 3], ..Default::default() };
        ModelInferRequest { inputs: vec![input], ..Default::default() }
    }

    #[test]
    fn empty_inputs_weigh_what_they_become() {
        let inputs = vec![InferInputTensor::default(); 1000];
        let request = ModelInferRequest { inputs, ..Default::default() };
        assert!(request.encoded_len() == 2000);
        assert!(weight(&request) >= 1000 * size_of::<InferInputTensor>());
    }

    #[test]
    fn small_numbers_weigh_their_type() {
        let base = weight(&with_contents(InferTensorContents::default()));
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
            assert_eq!(weight(&with_contents(contents.clone())), base + bytes, "{contents:?}");
        }
    }

    #[test]
    fn typed_strings_weigh_what_raw_ones_take() {
        let words = ["a", "", "three"].repeat(700_000);
        let raw = crate::Tensor::from_strings("x", vec![words.len()], &words).data.len();
        let base = weight(&with_contents(InferTensorContents::default()));
        let contents = InferTensorContents { bytes_contents: words.into_iter().collect(), ..Default::default() };
        assert_eq!(weight(&with_contents(contents)), base + raw);
        assert!(raw < 64 << 20, "two million words are no large request");
    }

    #[test]
    fn parameters_and_unpacked_and_hidden_fields_weigh_too() {
        let parameters: BTreeMap<_, _> = (0..10).map(|n| (n.to_string(), InferParameter::default())).collect();
        assert_eq!(weight(&ModelInferRequest { parameters, ..Default::default() }), 10 * PARAMETER);
        // Field 3 of an input, one number at a time.
        assert_eq!(of_input(&[0x18, 1, 0x18, 1]), 16);
        // The same in a group of the unknown field 100.
        assert_eq!(of_input(&[0xa3, 6, 0x18, 1, 0x18, 1, 0xa4, 6]), 16);
    }

    #[test]
    fn what_is_broken_is_weighed_up_to_there() {
        let whole =
            with_contents(InferTensorContents { int_contents: vec![1; 50], ..Default::default() }).encode_to_vec();
        for length in 0..whole.len() {
            assert!(of_infer_request(&whole[..length]) <= of_infer_request(&whole));
        }
        assert_eq!(of_infer_request(&[0xff; 20]), 0);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_weighed(message: Vec<u8>) {
            of_infer_request(&message);
        }

        #[test]
        fn what_is_decoded_was_not_heavier(message: Vec<u8>) {
            if let Ok(request) = ModelInferRequest::decode(&message[..]) {
                let inputs = request.inputs.len() * size_of::<InferInputTensor>();
                let raw = request.raw_input_contents.len() * POINTER;
                assert!(inputs + raw + request.parameters.len() * PARAMETER <= of_infer_request(&message));
            }
        }
    }
}
