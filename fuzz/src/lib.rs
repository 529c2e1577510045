//! Models and invariants that all fuzz targets share.

mod models;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
pub use models::model;
use open_inference::{
    Datatype, Error, Inference, JsonResponse, ModelMetadata, Provenance, Tensor, TensorMetadata, TensorParameters,
    WireRequest, client, decode_request, encode_response, parse_request, response_to_json, validate_inputs,
};
use serde_json::{Value, json};
use service::memory_budget::{MemoryBudget, Reservation};

/// Header with the length of the JSON in a body.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// Limit for all tensors of a request.
pub const MAX_BYTES: usize = 1 << 20;

/// An empty reservation in an unlimited budget.
fn memory() -> Reservation {
    MemoryBudget::new(usize::MAX).reservation(None)
}

/// Decodes a request like a transport, runs a model that returns its inputs, and encodes the response. Errors are
/// allowed, panics are not, and decoded tensors must be valid.
pub fn run_request(wire: WireRequest, model: &ModelMetadata) -> Result<(), Error> {
    let (inputs, options) = decode_request(wire, model, MAX_BYTES, &mut memory())?;
    assert!(inputs.iter().map(|input| input.data.len()).sum::<usize>() <= MAX_BYTES);
    validate_inputs(&inputs, model).expect("decoded inputs match the model");
    for Tensor { name, datatype, shape, data } in &inputs {
        let shape: Vec<i64> = shape.iter().map(|&length| length.try_into().expect("a valid shape")).collect();
        Tensor::new(name, *datatype, &shape, data.clone()).expect("shape, datatype and data are consistent");
    }
    let Some(inference) = echo(&inputs, model) else { return Ok(()) };
    let response = response_to_json(&encode_response(&inference, &options, model)?)?;
    assert_valid_response(&response);
    assert_round_trip(&inputs, &inference, model)
}

/// The result of a model that returns its inputs; `None` for images, which a model would decode.
fn echo(inputs: &[Tensor], model: &ModelMetadata) -> Option<Inference> {
    let output = |output: &TensorMetadata| {
        let input = inputs.iter().find(|input| input.name == output.name)?;
        (input.datatype == output.datatype).then(|| input.clone())
    };
    Some(Inference {
        model: model.name.clone(),
        version: model.version.clone(),
        outputs: model.outputs.iter().map(output).collect::<Option<_>>()?,
        provenance: Provenance::default(),
        headers: HeaderMap::new(),
    })
}

fn assert_valid_response(response: &JsonResponse) {
    let json: Value = serde_json::from_slice(&response.json).expect("a response is JSON");
    let sizes = json["outputs"].as_array().expect("a response has outputs").iter();
    let sizes: u64 = sizes.filter_map(|output| output["parameters"]["binary_data_size"].as_u64()).sum();
    let tail = response.tail.iter().flatten().map(Bytes::len).sum::<usize>();
    assert_eq!(sizes, tail as u64, "the JSON has the size of the binary data");
}

/// Tensors round-trip bit for bit: in the internal binary format and in JSON.
fn assert_round_trip(inputs: &[Tensor], inference: &Inference, model: &ModelMetadata) -> Result<(), Error> {
    if model.inputs.iter().any(|input| input.parameters != TensorParameters::default()) {
        // Content types would be applied twice.
        return Ok(());
    }
    let (headers, body) = client::encode_request(inputs);
    let length = headers[HEADER_LENGTH].to_str().expect("a number").parse().expect("a number");
    let wire = parse_request(&body, Some(length)).expect("an encoded request is valid");
    let plain = WireRequest { inputs: wire.inputs.clone(), ..WireRequest::default() };
    let (decoded, options) =
        decode_request(wire, model, MAX_BYTES, &mut memory()).expect("an encoded request is valid");
    assert_eq!(decoded, inputs);

    let JsonResponse { json, tail } = response_to_json(&encode_response(inference, &options, model)?)?;
    let headers = HeaderMap::from_iter([(HeaderName::from_static(HEADER_LENGTH), json.len().into())]);
    let body = std::iter::once(json).chain(tail.into_iter().flatten()).flatten().collect();
    let read = client::decode_response(&headers, body).expect("an encoded response is valid");
    assert_eq!(read.outputs, inference.outputs);

    let (_, options) = decode_request(plain, model, MAX_BYTES, &mut memory()).expect("an encoded request is valid");
    // `BYTES` that are not UTF-8 have no JSON.
    let Ok(JsonResponse { json, .. }) = response_to_json(&encode_response(inference, &options, model)?) else {
        return Ok(());
    };
    if inputs.iter().all(has_unique_json) {
        let mut json: Value = serde_json::from_slice(&json).expect("a response is JSON");
        let request = json!({ "inputs": json["outputs"].take() }).to_string();
        let wire = parse_request(&request.into(), None).expect("serialized JSON is valid");
        let (decoded, _) = decode_request(wire, model, MAX_BYTES, &mut memory()).expect("serialized JSON is valid");
        assert_eq!(decoded, inputs);
    }
    Ok(())
}

/// JSON has one NaN and one `true`; the binary format has many.
fn has_unique_json(tensor: &Tensor) -> bool {
    match tensor.datatype {
        Datatype::Bool => tensor.data.iter().all(|&byte| byte < 2),
        _ => !tensor.to_f32().iter().any(|value| value.is_nan()),
    }
}
