use bytes::Bytes;
use open_inference::grpc::proto::inference::{InferTensorContents, ModelInferRequest};
use open_inference::{Datatype, Tensor};

use crate::support::{TestServer, describe, raw};

/// Extreme values of a datatype, and bits that only an exact copy preserves.
fn elements(datatype: Datatype) -> Tensor {
    let size = datatype.size().unwrap_or_default();
    let data: Bytes = match datatype {
        Datatype::Bytes => return Tensor::from_strings("x", vec![3], [&b"\xff\0"[..], b"", b"abc"]),
        Datatype::Bool => vec![0, 1, 1].into(),
        // Alternating bits; all bits set: −1, the maximum, a NaN with a payload; no bits.
        _ => [vec![0x55; size], vec![0xff; size], vec![0; size]].concat().into(),
    };
    Tensor::new("x", datatype, &[3], data).unwrap()
}

#[tokio::test]
async fn raw_contents_round_trip_bit_for_bit_in_every_datatype() {
    let server = TestServer::start().await;
    for datatype in Datatype::ALL {
        let x = elements(datatype);
        let response = server.client().model_infer(raw(datatype.name(), std::slice::from_ref(&x))).await.unwrap();
        let response = response.into_inner();
        assert_eq!(response.raw_output_contents, [x.data], "{datatype}");
        let [output] = &response.outputs[..] else { panic!("one output") };
        assert_eq!(
            (output.name.as_str(), output.datatype.as_str(), &output.shape[..]),
            ("x_out", datatype.name(), &[3][..])
        );
        assert_eq!(output.contents, None);
    }
}

#[tokio::test]
async fn typed_contents_round_trip_in_every_datatype() {
    let server = TestServer::start().await;
    let none = InferTensorContents::default;
    for (datatype, contents) in [
        (Datatype::Bool, InferTensorContents { bool_contents: vec![true, false], ..none() }),
        (Datatype::Uint8, InferTensorContents { uint_contents: vec![0, 255], ..none() }),
        (Datatype::Uint16, InferTensorContents { uint_contents: vec![0, 65535], ..none() }),
        (Datatype::Uint32, InferTensorContents { uint_contents: vec![0, u32::MAX], ..none() }),
        (Datatype::Uint64, InferTensorContents { uint64_contents: vec![0, u64::MAX], ..none() }),
        (Datatype::Int8, InferTensorContents { int_contents: vec![-128, 127], ..none() }),
        (Datatype::Int16, InferTensorContents { int_contents: vec![-32768, 32767], ..none() }),
        (Datatype::Int32, InferTensorContents { int_contents: vec![i32::MIN, i32::MAX], ..none() }),
        (Datatype::Int64, InferTensorContents { int64_contents: vec![i64::MIN, i64::MAX], ..none() }),
        (Datatype::Fp32, InferTensorContents { fp32_contents: vec![-0.0, f32::INFINITY], ..none() }),
        (Datatype::Fp64, InferTensorContents { fp64_contents: vec![f64::MIN_POSITIVE, -1e300], ..none() }),
        (
            Datatype::Bytes,
            InferTensorContents { bytes_contents: [&[0xff, 0][..], b""].into_iter().collect(), ..none() },
        ),
    ] {
        let mut input = describe(&Tensor { name: "x".to_owned(), datatype, shape: vec![2], data: Bytes::new() });
        input.contents = Some(contents.clone());
        let request =
            ModelInferRequest { model_name: datatype.name().to_owned(), inputs: vec![input], ..Default::default() };
        let response = server.client().model_infer(request).await.unwrap().into_inner();
        assert_eq!(response.outputs[0].contents, Some(contents), "{datatype}");
        assert!(response.raw_output_contents.is_empty());
    }
}

#[tokio::test]
async fn empty_tensors_may_be_typed_or_raw() {
    let server = TestServer::start().await;
    let empty = Tensor { shape: vec![0], data: Bytes::new(), ..elements(Datatype::Int64) };
    let response = server.client().model_infer(raw("INT64", std::slice::from_ref(&empty))).await.unwrap().into_inner();
    assert_eq!((&response.outputs[0].shape[..], response.raw_output_contents.len()), (&[0][..], 1));
    let request = ModelInferRequest { raw_input_contents: Vec::new(), ..raw("INT64", &[empty]) };
    let response = server.client().model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.outputs[0].contents, Some(InferTensorContents::default()));
}
