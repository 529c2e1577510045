use open_inference::client::{decode_error, decode_response, encode_request};
use open_inference::{Datatype, Tensor};
use proptest::prelude::*;
use serde_json::json;

use crate::support::TestService;

/// A tensor of any datatype with zero, three or eight axes, some of them empty, and arbitrary bits.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let datatype = (0..Datatype::ALL.len()).prop_map(|index| Datatype::ALL[index]);
    let shape = prop_oneof![1 => Just(vec![]), 4 => prop::collection::vec(0_usize..4, 3), 1 => prop::collection::vec(1_usize..3, 8)];
    (datatype, shape).prop_flat_map(|(datatype, shape)| {
        let elements: usize = shape.iter().product();
        let data = match datatype.size() {
            Some(size) => {
                let element = prop::sample::select(interesting(datatype));
                let element = prop_oneof![element, prop::collection::vec(any::<u8>(), size)];
                prop::collection::vec(element, elements).prop_map(|elements| elements.concat()).boxed()
            }
            None => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), elements)
                .prop_map(|strings| Tensor::from_strings("x", vec![], strings.iter().map(Vec::as_slice)).data.to_vec())
                .boxed(),
        };
        data.prop_map(move |mut data| {
            if datatype == Datatype::Bool {
                for byte in &mut data {
                    *byte &= 1;
                }
            }
            Tensor { name: "x".to_owned(), datatype, shape: shape.clone(), data: data.into() }
        })
    })
}

/// Extreme and special values.
fn interesting(datatype: Datatype) -> Vec<Vec<u8>> {
    let doubles = |bits: &[u64]| bits.iter().map(|bits| bits.to_le_bytes().to_vec()).collect();
    let floats = |bits: &[u32]| bits.iter().map(|bits| bits.to_le_bytes().to_vec()).collect();
    let halves = |bits: &[u16]| bits.iter().map(|bits| bits.to_le_bytes().to_vec()).collect();
    match datatype {
        // Zeros of both signs, the smallest and the largest subnormal, the limits, infinities, quiet and signalling
        // NaNs.
        Datatype::Fp64 => doubles(&[
            0,
            1 << 63,
            1,
            (1 << 52) - 1,
            f64::MAX.to_bits(),
            f64::NEG_INFINITY.to_bits(),
            0x7ff8_0000_0000_0001,
            0x7ff0_0000_0000_0001,
        ]),
        Datatype::Fp32 => floats(&[
            0,
            1 << 31,
            1,
            (1 << 23) - 1,
            f32::MAX.to_bits(),
            f32::INFINITY.to_bits(),
            0x7fc0_0001,
            0xff80_0001,
        ]),
        Datatype::Fp16 => halves(&[0, 0x8000, 1, 0x03ff, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x7c01]),
        Datatype::Bf16 => halves(&[0, 0x8000, 1, 0x007f, 0x7f7f, 0x7f80, 0xff80, 0x7fc1, 0x7f81]),
        datatype => {
            let size = datatype.size().unwrap_or_default();
            let mut smallest = vec![0; size];
            let mut largest = vec![0xff; size];
            let ends = vec![vec![0; size], vec![0xff; size]];
            if let (Some(smallest), Some(largest)) = (smallest.last_mut(), largest.last_mut()) {
                *smallest = 0x80;
                *largest = 0x7f;
            }
            ends.into_iter().chain([smallest, largest]).collect()
        }
    }
}

fn model_of(tensor: &Tensor) -> String {
    let kind = match tensor.shape.len() {
        0 => "scalar",
        8 => "eight",
        _ => "any",
    };
    format!("{kind}_{}", tensor.datatype.name().to_lowercase())
}

/// JSON has only one NaN, so every NaN becomes that one.
fn with_one_nan(tensor: &Tensor) -> Vec<u8> {
    fn canonical<const N: usize>(data: &[u8], is_nan: impl Fn([u8; N]) -> bool, nan: [u8; N]) -> Vec<u8> {
        let element = |chunk: &[u8]| <[u8; N]>::try_from(chunk).unwrap();
        data.chunks_exact(N).flat_map(|chunk| if is_nan(element(chunk)) { nan } else { element(chunk) }).collect()
    }
    let data = &tensor.data;
    match tensor.datatype {
        Datatype::Fp64 => canonical(data, |e| f64::from_le_bytes(e).is_nan(), f64::NAN.to_le_bytes()),
        Datatype::Fp32 => canonical(data, |e| f32::from_le_bytes(e).is_nan(), f32::NAN.to_le_bytes()),
        Datatype::Fp16 => canonical(data, |e| half::f16::from_le_bytes(e).is_nan(), half::f16::NAN.to_le_bytes()),
        Datatype::Bf16 => canonical(data, |e| half::bf16::from_le_bytes(e).is_nan(), half::bf16::NAN.to_le_bytes()),
        _ => data.to_vec(),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #[test]
    fn every_tensor_round_trips_in_binary(tensor in any_tensor()) {
        let (headers, body) = encode_request(std::slice::from_ref(&tensor));
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        let path = format!("/v2/models/{}/infer", model_of(&tensor));
        let response = run(TestService::new().send(http::Method::POST, &path, &headers, body));
        prop_assert_eq!(response.status.as_u16(), 200, "{}", response.text());
        let inference = decode_response(&response.headers, response.body).unwrap();
        prop_assert_eq!(&inference.provenance.model_digest, "sha256:abc");
        prop_assert_eq!(inference.provenance.timing_ms.infer.to_bits(), 2.0_f64.to_bits());
        prop_assert_eq!(&inference.outputs, &[Tensor { name: "y".to_owned(), ..tensor }]);
    }

    #[test]
    fn every_tensor_round_trips_in_json(tensor in any_tensor()) {
        let (service, model) = (TestService::new(), model_of(&tensor));
        // The JSON of the first response is sent as a request: data passes the serializer and then the parser.
        let (headers, body) = encode_request(std::slice::from_ref(&tensor));
        let length = headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let head = String::from_utf8(body[..length].to_vec()).unwrap();
        let base64 = tensor.datatype == Datatype::Bytes;
        let requested = if base64 { json!([{"name": "y", "parameters": {"content_type": "base64"}}]) } else { json!([]) };
        let head = head.replace("\"binary_data_output\":true", "\"binary_data_output\":false");
        let head = format!("{},\"outputs\":{requested}}}", head.strip_suffix('}').unwrap());
        let first = run(service.infer_binary(&model, &head, &body[length..]));
        prop_assert_eq!(first.status.as_u16(), 200, "{}", first.text());
        let text = first.text();
        // The text itself, because a JSON parser in between would round numbers.
        let outputs = &text[text.find("\"outputs\":[").unwrap() + 11..text.len() - 2];
        let input = outputs.replacen("\"name\":\"y\"", "\"name\":\"x\"", 1);
        run(service.infer(&model, format!("{{\"inputs\":[{input}],\"outputs\":{requested}}}"))).json();
        let request = service.fake.last_request.lock().unwrap().take().unwrap();
        prop_assert_eq!(&request.inputs[0].shape, &tensor.shape);
        prop_assert_eq!(request.inputs[0].data.to_vec(), with_one_nan(&tensor));
        if !base64 {
            let inference = decode_response(&first.headers, first.body).unwrap();
            prop_assert_eq!(inference.outputs[0].data.to_vec(), with_one_nan(&tensor));
        }
    }

    #[test]
    fn arbitrary_bodies_are_rejected(head in ".{0,60}", tail in prop::collection::vec(any::<u8>(), 0..60), length in 0_usize..130) {
        let body = [head.as_bytes(), &tail].concat();
        let length = length.to_string();
        let headers = [("inference-header-content-length", &*length)];
        let response = run(TestService::new().send(http::Method::POST, "/v2/models/two/infer", &headers, body));
        prop_assert_eq!(response.error().0, 400);
    }
}

#[test]
fn errors_and_invalid_responses_of_a_server_are_decoded() {
    let error = decode_error(http::StatusCode::NOT_FOUND, br#"{"error": "there is no model \"m\""}"#);
    assert_eq!((error.status.as_u16(), error.message.as_str()), (404, "there is no model \"m\""));
    assert_eq!(decode_error(http::StatusCode::BAD_GATEWAY, b"<html>").message, "Bad Gateway");
    let bad = decode_response(&http::HeaderMap::new(), "{}".into()).unwrap_err();
    assert_eq!(
        (bad.status.as_u16(), bad.message.as_str()),
        (502, "the response is not a valid inference response: missing field `model_name` at line 1 column 2")
    );
}
