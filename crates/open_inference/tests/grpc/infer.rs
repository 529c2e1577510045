use open_inference::Tensor;
use open_inference::grpc::proto::inference::infer_parameter::ParameterChoice;
use open_inference::grpc::proto::inference::model_infer_request::InferRequestedOutputTensor;
use open_inference::grpc::proto::inference::{InferTensorContents, ModelInferRequest};
use tonic::{Code, Request};

use crate::support::{TestServer, describe, floats, parameters, raw};

fn two() -> [Tensor; 2] {
    let a = Tensor::new("a", open_inference::Datatype::Int32, &[1], vec![1, 0, 0, 0].into()).unwrap();
    let b = Tensor::new("b", open_inference::Datatype::Fp16, &[1], vec![0, 0x3c].into()).unwrap();
    [a, b]
}

#[tokio::test]
async fn a_response_has_id_model_and_provenance() {
    let server = TestServer::start().await;
    let mut client = server.client();
    let request = ModelInferRequest { id: "mine".to_owned(), ..raw("FP32", &[floats(&[1.0])]) };
    let response = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!((response.model_name.as_str(), response.model_version.as_str()), ("FP32", "2"));
    assert_eq!(response.id, "mine");
    let parameter = |name: &str| response.parameters[name].parameter_choice.clone().unwrap();
    assert_eq!(parameter("model_digest"), ParameterChoice::StringParam("sha256:00".to_owned()));
    assert_eq!(parameter("device"), ParameterChoice::StringParam("cpu".to_owned()));
    assert_eq!(parameter("queue_ms"), ParameterChoice::DoubleParam(1.0));

    let request = ModelInferRequest { model_version: "1".to_owned(), ..raw("FP32", &[floats(&[1.0])]) };
    let response = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.model_version, "1");
    assert!(!response.id.is_empty(), "an id is generated");
}

#[tokio::test]
async fn metadata_is_passed_in_both_directions() {
    let server = TestServer::start().await;
    let mut request = Request::new(raw("FP32", &[floats(&[1.0])]));
    request.metadata_mut().insert("cache-control", "no-store".parse().unwrap());
    let response = server.client().model_infer(request).await.unwrap();
    assert_eq!(server.fake.headers.lock().unwrap()["cache-control"], "no-store");
    for (name, value) in [("cache-status", "mlserve; hit"), ("age", "3"), ("etag", "\"key\"")] {
        assert_eq!(response.metadata().get(name).unwrap(), value);
    }
}

#[tokio::test]
async fn requested_outputs_are_returned_in_order_and_encoding() {
    let server = TestServer::start().await;
    let output = |name: &str| InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() };
    let request = ModelInferRequest { outputs: vec![output("b_out"), output("a_out")], ..raw("two", &two()) };
    let response = server.client().model_infer(request).await.unwrap().into_inner();
    let names: Vec<_> = response.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["b_out", "a_out"]);
    assert_eq!(response.raw_output_contents, [&two()[1].data, &two()[0].data]);

    let classes = InferRequestedOutputTensor {
        name: "x_out".to_owned(),
        parameters: parameters([("classification", ParameterChoice::Int64Param(1))]),
    };
    let request = ModelInferRequest { outputs: vec![classes], ..raw("FP32", &[floats(&[0.25, 0.75])]) };
    let response = server.client().model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.outputs[0].datatype, "BYTES");

    let request = ModelInferRequest { outputs: vec![output("c_out")], ..raw("two", &two()) };
    assert_eq!(server.client().model_infer(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn raw_contents_must_cover_all_inputs_or_none() {
    let server = TestServer::start().await;
    let typed = InferTensorContents { int_contents: vec![1], ..Default::default() };
    let mut mixed = raw("two", &two());
    mixed.inputs[0].contents = Some(typed.clone());
    let mut too_few = raw("two", &two());
    too_few.raw_input_contents.pop();
    let mut too_many = raw("two", &two());
    too_many.raw_input_contents.push(vec![0].into());
    let mut missing = ModelInferRequest { raw_input_contents: Vec::new(), ..raw("two", &two()) };
    missing.inputs[0].contents = Some(typed.clone());
    let mut elsewhere = ModelInferRequest { raw_input_contents: Vec::new(), ..raw("FP32", &[floats(&[1.0])]) };
    let region = ParameterChoice::StringParam("region".to_owned());
    elsewhere.inputs[0].parameters = parameters([("shared_memory_region", region)]);
    let mut half = ModelInferRequest { raw_input_contents: Vec::new(), ..raw("two", &two()) };
    half.inputs[0].contents = Some(typed);
    half.inputs[1].contents = Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
    for (request, message) in [
        (mixed, "input \"a\" has int_contents, but raw_input_contents is used"),
        (too_few, "raw_input_contents has 1 entries for 2 inputs; each input needs one, or none has one"),
        (too_many, "raw_input_contents has 3 entries for 2 inputs; each input needs one, or none has one"),
        (missing, "input \"b\": it has neither contents nor an entry in raw_input_contents"),
        (elsewhere, "input \"x\": it is in shared memory, which is not supported"),
        (half, "input \"b\": FP16 has no typed contents; use raw_input_contents"),
    ] {
        let error = server.client().model_infer(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, message));
    }
}

#[tokio::test]
async fn invalid_requests_are_rejected_with_a_reason() {
    let server = TestServer::start().await;
    let x = floats(&[1.0, 2.0]);
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = raw("FP32", std::slice::from_ref(&x));
        change(&mut request);
        request
    };
    for (request, code, message) in [
        (with(|request| request.inputs[0].shape = vec![3]), Code::InvalidArgument, "takes 12 bytes, but 8 were sent"),
        (with(|request| request.inputs[0].shape = vec![-1]), Code::InvalidArgument, "negative"),
        (with(|request| request.inputs[0].shape = vec![1 << 62, 4]), Code::InvalidArgument, "too many elements"),
        (
            raw("BYTES", &[Tensor { datatype: open_inference::Datatype::Bytes, ..floats(&[1.0]) }]),
            Code::InvalidArgument,
            "has a length of 1065353216 bytes, but only 0 are left",
        ),
        (with(|request| request.inputs[0].datatype = "FP33".to_owned()), Code::InvalidArgument, "is not a datatype"),
        (with(|request| request.inputs[0].datatype = "INT32".to_owned()), Code::InvalidArgument, "INT32"),
        (with(|request| request.inputs[0].name = "y".to_owned()), Code::InvalidArgument, "\"y\""),
        (with(|request| request.model_name = "none".to_owned()), Code::NotFound, "no model"),
        (with(|request| request.model_version = "9".to_owned()), Code::NotFound, "no version"),
        (with(|request| request.model_name = "../FP32".to_owned()), Code::NotFound, "no model"),
        (ModelInferRequest { model_name: "FP32".to_owned(), ..Default::default() }, Code::InvalidArgument, "x"),
        (raw("FP32", &[x.clone(), x.clone()]), Code::InvalidArgument, "x"),
    ] {
        let error = server.client().model_infer(request).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(message), "{error}");
    }
    assert!(server.client().model_infer(with(|_| {})).await.is_ok());
}

#[tokio::test]
async fn a_retryable_error_has_retry_after() {
    let server = TestServer::start().await;
    let error = server.client().model_infer(raw("busy", &[floats(&[1.0])])).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "all are busy"));
    assert_eq!(error.metadata().get("retry-after").unwrap(), "1");
}

#[tokio::test]
async fn a_panic_fails_only_its_request() {
    let server = TestServer::start().await;
    let error = server.client().model_infer(raw("panics", &[floats(&[1.0])])).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert!(server.client().model_infer(raw("FP32", &[floats(&[1.0])])).await.is_ok());
}

#[tokio::test]
async fn typed_contents_that_do_not_match_the_shape_are_rejected() {
    let server = TestServer::start().await;
    let mut input = describe(&floats(&[1.0, 2.0]));
    input.contents = Some(InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
    let request = ModelInferRequest { model_name: "FP32".to_owned(), inputs: vec![input], ..Default::default() };
    let error = server.client().model_infer(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("takes 8 bytes, but 4 were sent"), "{error}");
}
