//! The Open Inference Protocol of the real binary with the real ONNX Runtime.

use bytes::Bytes;
use open_inference::{Datatype, Tensor, client};
use serde_json::json;

use crate::support::folder::Folder;
use crate::support::onnx;
use crate::support::process::Running;
use crate::support::squares::png;

#[tokio::test]
async fn every_datatype_is_returned_bit_for_bit() {
    let inputs = Datatype::ALL.map(|datatype| (datatype.name(), datatype, &[-1_i64, 3][..]));
    let folder = Folder::new().with("all.onnx", onnx::identities(&inputs));
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let tensors = Datatype::ALL.map(|datatype| match datatype.size() {
        None => Tensor::from_strings("BYTES", vec![2, 3], [&b"\0"[..], b"", b"\xff\xfe", b"a", b"b\0", b"c"]),
        Some(size) => {
            let bits = if datatype == Datatype::Bool { 0..=1_u8 } else { 0..=255 };
            let data: Bytes = bits.rev().cycle().take(6 * size).collect();
            Tensor { name: datatype.name().to_owned(), datatype, shape: vec![2, 3], data }
        }
    });
    let (headers, body) = client::encode_request(&tensors);
    let (headers, body) = running.post_with("/v2/models/all/infer", headers, body).await;
    let inference = client::decode_response(&headers, body).unwrap();
    for (output, input) in inference.outputs.iter().zip(&tensors) {
        assert_eq!((&output.shape, output.datatype), (&input.shape, input.datatype));
        assert_eq!(output.data, input.data, "{}", input.name);
    }
    assert_eq!(inference.outputs.len(), tensors.len());
    assert_eq!(inference.provenance.device, "cpu");
}

#[tokio::test]
async fn an_image_may_be_one_of_several_inputs() {
    let inputs = [("face", Datatype::Uint8, &[-1_i64, 2, 2, 1][..]), ("age", Datatype::Fp32, &[-1, 1])];
    let settings = r#"{"inputs": [{"name": "face", "parameters": {"image": {"fit": "stretch"}}}],
                       "parameters": {"independent_rows": true}}"#;
    let graph = onnx::identities(&inputs);
    let folder = Folder::new().with("m/model.onnx", graph).with("m/model-settings.json", settings);
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let (image, age) = (png(), Tensor::from_f32("age", Datatype::Fp32, vec![2, 1], &[3.0, 4.0]).unwrap());
    let faces = Tensor::from_strings("face", vec![2], [image.as_slice(), &image]);
    let (headers, body) = client::encode_request(&[age, faces]);
    let (headers, body) = running.post_with("/v2/models/m/infer", headers, body).await;
    let inference = client::decode_response(&headers, body).unwrap();
    assert_eq!(inference.outputs[0].shape, [2, 2, 2, 1]);
    assert_eq!(inference.outputs[0].data, [0, 51, 255, 102].repeat(2));
    assert_eq!(inference.outputs[1].to_f32(), [3.0, 4.0]);
    let (_, models) = running.get("/models").await.unwrap();
    assert_eq!(models["models"][0]["image"], json!(null), "an image alone is not a complete request");
    assert_eq!(models["models"][0]["independent_rows"], true);
}

#[tokio::test]
async fn skipped_outputs_are_reported_and_the_others_are_served() {
    let folder = Folder::new().with("classifier.onnx", onnx::zip_map(true));
    let Some(running) = Running::ready(folder.path(), &[]).await else { return };
    let (_, models) = running.get("/models").await.unwrap();
    let left_out = models["models"][0]["left_out"].as_array().unwrap();
    assert!(left_out[0].as_str().unwrap().starts_with("output \"probabilities\" is a sequence"), "{left_out:?}");
    let x = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 0.9]});
    let body = json!({"inputs": [x]}).to_string().into_bytes();
    let (status, response) = running.post("/v2/models/classifier/infer", "application/json", body).await;
    assert_eq!(status, 200, "{response}");
    let label = json!({"name": "label", "datatype": "INT64", "shape": [1, 1], "data": [1]});
    assert_eq!(response["outputs"], json!([label]));
}
