//! What all targets share: models to hold requests against, and what must be true of every request that was understood.

mod models;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
pub use models::model;
use open_inference::{
    Datatype, Error, Inference, JsonResponse, ModelMetadata, Provenance, Tensor, TensorMetadata, TensorParameters,
    WireRequest, validate_inputs, client, parse_request, encode_response, decode_request, response_to_json,
};
use serde_json::{Value, json};
use service::memory_budget::{MemoryBudget, Reservation};

/// Says where in a body the JSON ends.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// All tensors of one request.
pub const MAX_BYTES: usize = 1 << 20;

/// Of a budget that is never used up.
fn memory() -> Reservation {
    MemoryBudget::new(usize::MAX).reservation(None)
}

/// Takes a request the way that a transport takes it, asks a model that answers with its inputs, and writes the answer.
/// Errors are fine, panics are not, and what is understood must be what was checked.
pub fn ask(wire: WireRequest, model: &ModelMetadata) -> Result<(), Error> {
    let (inputs, wishes) = decode_request(wire, model, MAX_BYTES, &mut memory())?;
    assert!(inputs.iter().map(|input| input.data.len()).sum::<usize>() <= MAX_BYTES);
    validate_inputs(&inputs, model).expect("what was understood fits the model");
    for Tensor { name, datatype, shape, data } in &inputs {
        let shape: Vec<i64> = shape.iter().map(|&length| length.try_into().expect("a checked shape")).collect();
        Tensor::new(name, *datatype, &shape, data.clone()).expect("shape, datatype and bytes go together");
    }
    let Some(inference) = echo(&inputs, model) else { return Ok(()) };
    let written = response_to_json(&encode_response(&inference, &wishes, model)?)?;
    is_written_well(&written);
    reads_what_it_writes(&inputs, &inference, model)
}

/// The answer of a model that gives back what it gets; `None` for a picture, which a model would get decoded.
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

fn is_written_well(response: &JsonResponse) {
    let json: Value = serde_json::from_slice(&response.json).expect("an answer is JSON");
    let sizes = json["outputs"].as_array().expect("an answer has outputs").iter();
    let sizes: u64 = sizes.filter_map(|output| output["parameters"]["binary_data_size"].as_u64()).sum();
    let tail = response.tail.iter().flatten().map(Bytes::len).sum::<usize>();
    assert_eq!(sizes, tail as u64, "the JSON says how long the tail is");
}

/// Tensors come back as the same bits: over the private hop, and over JSON.
fn reads_what_it_writes(inputs: &[Tensor], inference: &Inference, model: &ModelMetadata) -> Result<(), Error> {
    if model.inputs.iter().any(|input| input.parameters != TensorParameters::default()) {
        // Content types would be read once more.
        return Ok(());
    }
    let (headers, body) = client::encode_request(inputs);
    let length = headers[HEADER_LENGTH].to_str().expect("a number").parse().expect("a number");
    let wire = parse_request(&body, Some(length)).expect("our own request");
    let plain = WireRequest { inputs: wire.inputs.clone(), ..WireRequest::default() };
    let (again, wishes) = decode_request(wire, model, MAX_BYTES, &mut memory()).expect("our own request");
    assert_eq!(again, inputs);

    let JsonResponse { json, tail } = response_to_json(&encode_response(inference, &wishes, model)?)?;
    let headers = HeaderMap::from_iter([(HeaderName::from_static(HEADER_LENGTH), json.len().into())]);
    let body = std::iter::once(json).chain(tail.into_iter().flatten()).flatten().collect();
    let read = client::decode_response(&headers, body).expect("our own answer");
    assert_eq!(read.outputs, inference.outputs);

    let (_, wishes) = decode_request(plain, model, MAX_BYTES, &mut memory()).expect("our own request");
    // `BYTES` that are no text have no JSON.
    let Ok(JsonResponse { json, .. }) = response_to_json(&encode_response(inference, &wishes, model)?) else { return Ok(()) };
    if inputs.iter().all(has_one_spelling) {
        let mut json: Value = serde_json::from_slice(&json).expect("an answer is JSON");
        let request = json!({ "inputs": json["outputs"].take() }).to_string();
        let wire = parse_request(&request.into(), None).expect("our own JSON");
        let (again, _) = decode_request(wire, model, MAX_BYTES, &mut memory()).expect("our own JSON");
        assert_eq!(again, inputs);
    }
    Ok(())
}

/// JSON has one NaN and one truth; bytes have many.
fn has_one_spelling(tensor: &Tensor) -> bool {
    match tensor.datatype {
        Datatype::Bool => tensor.data.iter().all(|&byte| byte < 2),
        _ => !tensor.to_f32().iter().any(|value| value.is_nan()),
    }
}
