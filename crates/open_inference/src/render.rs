use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use crate::wishes::{Form, Wish};
use crate::{
    ContentType, Error, Inference, ModelMetadata, Parameter, Parameters, Provenance, Tensor, WireOutput, WireResponse,
    Wishes, classes, content, moments, picture,
};

/// Of an answer, what the caller wishes to see. The answer itself is whole, so that one that was remembered serves every wish.
pub fn render(inference: &Inference, wishes: &Wishes, model: &ModelMetadata) -> Result<WireResponse, Error> {
    let outputs = wishes.outputs.iter().map(|wish| render_output(inference, wish, model)).collect::<Result<_, _>>()?;
    Ok(WireResponse {
        model_name: inference.model.clone(),
        model_version: inference.version.clone(),
        id: wishes.id.clone(),
        parameters: provenance(&inference.provenance),
        outputs,
    })
}

fn render_output(inference: &Inference, wish: &Wish, model: &ModelMetadata) -> Result<WireOutput, Error> {
    let Wish { name, form, binary } = wish;
    // A model that changes between the two looks at it; asking again finds the new one.
    let gone =
        || Error::new(StatusCode::SERVICE_UNAVAILABLE, format!("the model has just changed; it gives no {name:?}"));
    let tensor = inference.outputs.iter().find(|output| output.name == *name).ok_or_else(gone)?;
    let metadata = model.outputs.iter().find(|output| output.name == *name).ok_or_else(gone)?;
    let (tensor, content_type) = match *form {
        Form::Plain(content_type) => (tensor.clone(), content_type),
        Form::Classes(count) => (classes::best(tensor, count, metadata), None),
        Form::Picture => (picture::write(tensor, metadata)?, Some(ContentType::Image)),
        Form::Base64 => (base64(tensor), Some(ContentType::Base64)),
        Form::Datetime => (moments::write(tensor)?, Some(ContentType::Datetime)),
    };
    let parameters = content_type.map(content::parameters).unwrap_or_default();
    Ok(WireOutput { tensor, parameters, binary: *binary })
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
