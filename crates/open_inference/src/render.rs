use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use crate::json::write_output;
use crate::wishes::{Form, Wish};
use crate::{
    ContentType, Datatype, Error, Inference, ModelMetadata, OutputOptions, Parameter, Parameters, Provenance, Tensor,
    TensorMetadata, WireOutput, WireResponse, classes, content, moments, picture,
};

/// Of an answer, what the caller wishes to see. The answer itself is whole, so that one that was remembered serves every wish.
pub fn encode_response(
    inference: &Inference,
    wishes: &OutputOptions,
    model: &ModelMetadata,
) -> Result<WireResponse, Error> {
    let outputs = wishes.outputs.iter().map(|wish| render_output(inference, wish, model)).collect::<Result<_, _>>()?;
    Ok(WireResponse {
        model_name: inference.model.clone(),
        model_version: inference.version.clone(),
        id: wishes.id.clone(),
        parameters: provenance(&inference.provenance),
        outputs,
    })
}

/// `tensors` as the JSON list `outputs` of a response, each in the content type that `outputs`, its metadata, give it. `BYTES`
/// that are not UTF-8 are written in base64 and say so.
pub fn outputs_to_json(tensors: &[Tensor], outputs: &[TensorMetadata]) -> Result<String, Error> {
    let mut json = b"[".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let metadata = outputs.iter().find(|output| output.name == tensor.name && output.datatype == tensor.datatype);
        let is_binary = || tensor.strings().any(|string| std::str::from_utf8(&string).is_err());
        let form = match metadata.map_or(Form::Plain(None), Form::of) {
            Form::Plain(_) if tensor.datatype == Datatype::Bytes && is_binary() => Form::Base64,
            form => form,
        };
        let unnamed = TensorMetadata::new(&tensor.name, tensor.datatype, &[]);
        write_output(&mut json, &written(tensor, form, metadata.unwrap_or(&unnamed), false)?)?;
    }
    json.push(b']');
    String::from_utf8(json).map_err(|_| Error::unprocessable("the result is not UTF-8"))
}

fn render_output(inference: &Inference, wish: &Wish, model: &ModelMetadata) -> Result<WireOutput, Error> {
    let Wish { name, form, binary } = wish;
    // A model that changes between the two looks at it; asking again finds the new one.
    let gone =
        || Error::new(StatusCode::SERVICE_UNAVAILABLE, format!("the model has just changed; it gives no {name:?}"));
    let tensor = inference.outputs.iter().find(|output| output.name == *name).ok_or_else(gone)?;
    let metadata = model.outputs.iter().find(|output| output.name == *name).ok_or_else(gone)?;
    written(tensor, *form, metadata, *binary)
}

fn written(tensor: &Tensor, form: Form, metadata: &TensorMetadata, binary: bool) -> Result<WireOutput, Error> {
    let (tensor, content_type) = match form {
        Form::Plain(content_type) => (tensor.clone(), content_type),
        Form::Classes(count) => (classes::best(tensor, count, metadata), None),
        Form::Picture => (picture::write(tensor, metadata)?, Some(ContentType::Image)),
        Form::Base64 => (base64(tensor), Some(ContentType::Base64)),
        Form::Datetime => (moments::write(tensor)?, Some(ContentType::Datetime)),
    };
    let parameters = content_type.map(content::parameters).unwrap_or_default();
    Ok(WireOutput { tensor, parameters, binary })
}

/// Bytes that are no text, as text.
pub(crate) fn base64(tensor: &Tensor) -> Tensor {
    Tensor::from_strings(&tensor.name, tensor.shape.clone(), tensor.strings().map(|string| STANDARD.encode(&string)))
}

/// Who answered and what it took, as parameters of every answer.
fn provenance(provenance: &Provenance) -> Parameters {
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
