//! Encoding of the requested outputs.

use http::StatusCode;

use crate::codec::json::write_output;
use crate::codec::{base64, classification, content_type, datetime, png};
use crate::error::Error;
use crate::request::OutputOptions;
use crate::request::output_options::{OutputEncoding, OutputRequest};
use crate::types::{
    ContentType, Datatype, Inference, ModelMetadata, Parameter, Parameters, Provenance, Tensor, TensorMetadata,
    WireOutput, WireResponse,
};

/// Encodes the requested outputs of an inference. The inference itself always has all outputs, so that a cached one
/// serves any request.
pub fn encode_response(
    inference: &Inference,
    options: &OutputOptions,
    model: &ModelMetadata,
) -> Result<WireResponse, Error> {
    let outputs = options
        .outputs
        .iter()
        .map(|output| encode_requested_output(inference, output, model))
        .collect::<Result<_, _>>()?;
    Ok(WireResponse {
        model_name: inference.model.clone(),
        model_version: inference.version.clone(),
        id: options.id.clone(),
        parameters: provenance_parameters(&inference.provenance),
        outputs,
    })
}

/// Serializes `tensors` as the JSON list `outputs` of a response, each with the content type of its metadata in
/// `outputs`. `BYTES` that are not UTF-8 become base64, marked by their content type.
pub fn outputs_to_json(tensors: &[Tensor], outputs: &[TensorMetadata]) -> Result<String, Error> {
    let mut json = b"[".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let metadata = outputs.iter().find(|output| output.name == tensor.name && output.datatype == tensor.datatype);
        let is_binary = || tensor.strings().any(|string| std::str::from_utf8(&string).is_err());
        let encoding = match metadata.map_or(OutputEncoding::Plain(None), OutputEncoding::from_metadata) {
            OutputEncoding::Plain(_) if tensor.datatype == Datatype::Bytes && is_binary() => OutputEncoding::Base64,
            encoding => encoding,
        };
        let without_metadata = TensorMetadata::new(&tensor.name, tensor.datatype, &[]);
        write_output(&mut json, &encode_output(tensor, encoding, metadata.unwrap_or(&without_metadata), false)?)?;
    }
    json.push(b']');
    String::from_utf8(json).map_err(|_| Error::unprocessable("the result is not UTF-8"))
}

fn encode_requested_output(
    inference: &Inference,
    output: &OutputRequest,
    model: &ModelMetadata,
) -> Result<WireOutput, Error> {
    let OutputRequest { name, encoding, binary } = output;
    // The model was replaced between the lookup of its metadata and the inference. A retry uses the new one.
    let changed = || {
        Error::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the model has just changed and has no output {name:?} any more; retry the request"),
        )
    };
    let tensor = inference.outputs.iter().find(|output| output.name == *name).ok_or_else(changed)?;
    let metadata = model.outputs.iter().find(|output| output.name == *name).ok_or_else(changed)?;
    encode_output(tensor, *encoding, metadata, *binary)
}

fn encode_output(
    tensor: &Tensor,
    encoding: OutputEncoding,
    metadata: &TensorMetadata,
    binary: bool,
) -> Result<WireOutput, Error> {
    let (tensor, content_type) = match encoding {
        OutputEncoding::Plain(content_type) => (tensor.clone(), content_type),
        OutputEncoding::Classification(count) => (classification::top_k(tensor, count, metadata), None),
        OutputEncoding::Image => (png::encode(tensor, metadata)?, Some(ContentType::Image)),
        OutputEncoding::Base64 => (base64::encode_tensor(tensor), Some(ContentType::Base64)),
        OutputEncoding::Datetime => (datetime::encode(tensor)?, Some(ContentType::Datetime)),
    };
    let parameters = content_type.map(content_type::content_type_parameters).unwrap_or_default();
    Ok(WireOutput { tensor, parameters, binary })
}

/// Origin and timing as parameters of the response.
fn provenance_parameters(provenance: &Provenance) -> Parameters {
    let Provenance { model_digest, device, timing_ms } = provenance;
    [
        ("model_digest", Parameter::from(model_digest.as_str())),
        ("device", Parameter::from(device.as_str())),
        ("decode_ms", Parameter::Double(timing_ms.decode)),
        ("queue_ms", Parameter::Double(timing_ms.queue)),
        ("infer_ms", Parameter::Double(timing_ms.infer)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
