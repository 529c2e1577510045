//! Validation of input tensors against a model's signature.

use std::collections::HashSet;

use super::image_hint::image_settings_hint;
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::{Datatype, ModelMetadata, Tensor, TensorMetadata};

/// Validates tensors against the model's signature: every required input exactly once, with a matching datatype and
/// shape. An input that [accepts images](TensorMetadata::accepts_images) also matches `BYTES`, one encoded image per
/// element.
pub fn validate_inputs(inputs: &[Tensor], model: &ModelMetadata) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for tensor in inputs {
        let input = find_input(&tensor.name, model)?;
        if !seen.insert(tensor.name.as_str()) {
            return Err(duplicate_input(&tensor.name));
        }
        validate_tensor(tensor, input, model)?;
    }
    let is_missing = |input: &&TensorMetadata| !input.parameters.optional && !seen.contains(input.name.as_str());
    match model.inputs.iter().find(is_missing) {
        None => Ok(()),
        Some(missing) => Err(Error::unprocessable(format!(
            "input {:?} is missing; model {:?} has the inputs {}",
            missing.name,
            model.name,
            tensor_names(&model.inputs)
        ))),
    }
}

/// Finds the model's input of this name.
pub(crate) fn find_input<'a>(name: &str, model: &'a ModelMetadata) -> Result<&'a TensorMetadata, Error> {
    let unknown = || {
        Error::unprocessable(format!(
            "model {:?} has no input {}; its inputs are {}",
            model.name,
            quoted(name),
            tensor_names(&model.inputs)
        ))
    };
    model.inputs.iter().find(|input| input.name == name).ok_or_else(unknown)
}

pub(crate) fn duplicate_input(name: &str) -> Error {
    Error::malformed(format!("input {} is given twice", quoted(name)))
}

pub(crate) fn tensor_names(tensors: &[TensorMetadata]) -> String {
    let name = |tensor: &TensorMetadata| {
        let optional = if tensor.parameters.optional { " (optional)" } else { "" };
        format!("{:?}{optional}", tensor.name)
    };
    tensors.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn validate_tensor(tensor: &Tensor, input: &TensorMetadata, model: &ModelMetadata) -> Result<(), Error> {
    let mismatch = |reason: String| Err(Error::unprocessable(format!("input {:?} {reason}", tensor.name)));
    let are_images = input.accepts_images() && tensor.datatype == Datatype::Bytes;
    if tensor.datatype != input.datatype && !are_images {
        let or_images = if input.accepts_images() { " or BYTES, one encoded image each" } else { "" };
        let is_bytes = tensor.datatype == Datatype::Bytes;
        let hint = is_bytes.then(|| image_settings_hint(&model.name, std::slice::from_ref(input))).flatten();
        let hint = hint.map(|hint| format!(". {hint}")).unwrap_or_default();
        return mismatch(format!("is {}{or_images}, not {}{hint}", input.datatype, tensor.datatype));
    }
    // The first axis is the batch axis, also with three axes: N×H×W are grayscale images.
    let expected = if are_images { &input.shape[..input.shape.len().min(1)] } else { &input.shape[..] };
    let fits = |(&length, &expected): (&usize, &i64)| expected < 0 || usize::try_from(expected) == Ok(length);
    if tensor.shape.len() != expected.len() || !tensor.shape.iter().zip(expected).all(fits) {
        let suffix = if are_images { " of images" } else { "" };
        return mismatch(format!("has the shape {expected:?}{suffix} (-1: any length), not {:?}", tensor.shape));
    }
    if tensor.is_empty() && !input.parameters.allow_empty {
        return mismatch(format!(
            "of the shape {:?} has no elements, which the model's settings do not allow (allow_empty)",
            tensor.shape
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::types::ContentType;

    fn model() -> ModelMetadata {
        let mut image = TensorMetadata::new("p", Datatype::Fp32, &[-1, 2, 2, 1]);
        image.parameters.content_type = Some(ContentType::Image);
        ModelMetadata {
            name: "m".to_owned(),
            version: "1".to_owned(),
            inputs: vec![TensorMetadata::new("x", Datatype::Int8, &[-1, 2]), image],
            outputs: Vec::new(),
            max_batch_size: 8,
            platform: crate::Platform::default(),
            batching: None,
            not_cached: None,
        }
    }

    fn x(shape: &[i64]) -> Tensor {
        let length = shape.iter().product::<i64>() as usize;
        Tensor::new("x", Datatype::Int8, shape, vec![0; length].into()).unwrap()
    }

    fn p() -> Tensor {
        Tensor::from_strings("p", vec![1], [&b"png"[..]])
    }

    #[test]
    fn matching_inputs_are_accepted_in_any_order() {
        assert_eq!(validate_inputs(&[x(&[3, 2]), p()], &model()), Ok(()));
        let pixels = Tensor::new("p", Datatype::Fp32, &[2, 2, 2, 1], vec![0; 32].into()).unwrap();
        assert_eq!(validate_inputs(&[pixels, x(&[1, 2])], &model()), Ok(()));
    }

    #[test]
    fn mismatches_are_rejected_with_the_name_of_the_input() {
        let renamed = |name: &str| Tensor { name: name.to_owned(), ..x(&[1, 2]) };
        let other = Tensor::new("x", Datatype::Uint8, &[1, 2], vec![0; 2].into()).unwrap();
        let two_axes = Tensor::from_strings("p", vec![1, 1], [&b"png"[..]]);
        let bytes = Tensor::from_strings("x", vec![1, 1], [&b"png"[..]]);
        let long = "n".repeat(100);
        for (inputs, message) in [
            (vec![p()], r#"input "x" is missing; model "m" has the inputs "x", "p""#),
            (vec![renamed("y")], r#"model "m" has no input "y"; its inputs are "x", "p""#),
            (vec![renamed(&long)], &format!(r#"model "m" has no input "{}"…; its inputs are "x", "p""#, &long[..64])),
            (vec![other], r#"input "x" is INT8, not UINT8"#),
            (vec![bytes], r#"input "x" is INT8, not BYTES"#),
            (vec![renamed("p")], r#"input "p" is FP32 or BYTES, one encoded image each, not INT8"#),
            (vec![x(&[2])], r#"input "x" has the shape [-1, 2] (-1: any length), not [2]"#),
            (vec![x(&[1, 3])], r#"input "x" has the shape [-1, 2] (-1: any length), not [1, 3]"#),
            (vec![two_axes], r#"input "p" has the shape [-1] of images (-1: any length), not [1, 1]"#),
            (
                vec![x(&[0, 2])],
                r#"input "x" of the shape [0, 2] has no elements, which the model's settings do not allow (allow_empty)"#,
            ),
        ] {
            let error = validate_inputs(&inputs, &model()).unwrap_err();
            assert_eq!((error.status, error.message.as_str()), (StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        let twice = validate_inputs(&[x(&[1, 2]), x(&[1, 2])], &model()).unwrap_err();
        assert_eq!((twice.status, twice.message.as_str()), (StatusCode::BAD_REQUEST, r#"input "x" is given twice"#));
    }

    #[test]
    fn an_encoded_image_without_image_settings_is_rejected_with_a_hint() {
        let mut model = model();
        model.inputs = vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 32, 32])];
        let error = validate_inputs(&[Tensor::from_strings("x", vec![1], [&b"png"[..]])], &model).unwrap_err();
        let message =
            "input \"x\" is FP32, not BYTES. If its input \"x\" of the shape [-1, 3, 32, 32] is an image, write ";
        assert!(error.message.starts_with(message), "{}", error.message);
    }

    #[test]
    fn an_optional_input_may_be_absent_but_is_validated() {
        let mut model = model();
        model.inputs.push(TensorMetadata::new("gain", Datatype::Int8, &[]));
        model.inputs[2].parameters.optional = true;
        let gain = |shape: &[i64]| {
            let length = shape.iter().product::<i64>() as usize;
            Tensor::new("gain", Datatype::Int8, shape, vec![0; length].into()).unwrap()
        };
        assert_eq!(validate_inputs(&[x(&[1, 2]), p()], &model), Ok(()));
        assert_eq!(validate_inputs(&[gain(&[]), x(&[1, 2]), p()], &model), Ok(()));
        for (inputs, message) in [
            (vec![x(&[1, 2]), p(), gain(&[1])], r#"input "gain" has the shape [] (-1: any length), not [1]"#),
            (vec![gain(&[]), p()], r#"input "x" is missing; model "m" has the inputs "x", "p", "gain" (optional)"#),
        ] {
            assert_eq!(validate_inputs(&inputs, &model).unwrap_err().message, message);
        }
    }

    #[test]
    fn an_empty_tensor_is_accepted_where_the_settings_allow_it() {
        let mut model = model();
        model.inputs[0].parameters.allow_empty = true;
        assert_eq!(validate_inputs(&[x(&[0, 2]), p()], &model), Ok(()));
    }
}
