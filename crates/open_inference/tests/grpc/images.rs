use open_inference::grpc::proto::inference::infer_parameter::ParameterChoice;
use open_inference::grpc::proto::inference::model_infer_request::InferRequestedOutputTensor;
use open_inference::grpc::proto::inference::{InferTensorContents, ModelInferRequest};
use open_inference::{Datatype, Tensor};

use crate::support::{TestServer, parameters, raw};

#[tokio::test]
async fn raw_and_typed_images_reach_the_model() {
    let server = TestServer::start().await;
    for files in [vec![&b"\x89PNG"[..]], vec![&b"\x89PNG"[..], b"\xff\xd8JPEG"]] {
        for shape in [vec![files.len()], vec![files.len(), 1]] {
            let images = Tensor::from_strings("p", shape, &files);
            let raw = raw("image", std::slice::from_ref(&images));
            let mut typed = ModelInferRequest { raw_input_contents: Vec::new(), ..raw.clone() };
            let bytes_contents = files.iter().collect();
            typed.inputs[0].contents = Some(InferTensorContents { bytes_contents, ..Default::default() });
            let response = server.client().model_infer(raw).await.unwrap().into_inner();
            assert_eq!(response.raw_output_contents, [images.data]);
            assert_eq!(response.outputs[0].shape, [i64::try_from(files.len()).unwrap()]);
            let response = server.client().model_infer(typed).await.unwrap().into_inner();
            assert!(response.outputs[0].contents.as_ref().unwrap().bytes_contents.iter().eq(files.iter().copied()));
        }
    }
}

#[tokio::test]
async fn an_output_is_encoded_as_images_on_request() {
    let server = TestServer::start().await;
    let pixels = Tensor::new("x", Datatype::Uint8, &[2, 2, 2], vec![7; 8].into()).unwrap();
    let output = InferRequestedOutputTensor {
        name: "x_out".to_owned(),
        parameters: parameters([("content_type", ParameterChoice::StringParam("image".to_owned()))]),
    };
    let request = ModelInferRequest { outputs: vec![output], ..raw("mask", &[pixels]) };
    let response = server.client().model_infer(request).await.unwrap().into_inner();
    assert_eq!((response.outputs[0].datatype.as_str(), &response.outputs[0].shape[..]), ("BYTES", &[2][..]));
    let files = Tensor::new("y", Datatype::Bytes, &[2], response.raw_output_contents[0].clone()).unwrap();
    assert!(files.strings().all(|file| file.starts_with(b"\x89PNG\r\n")));
}
