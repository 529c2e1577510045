use std::collections::HashSet;
use std::fmt::{self, Display, Write};

use crate::{Datatype, Error, ModelMetadata, Tensor, TensorMetadata, image_settings_hint};

/// Holds a request's tensors against the model's signature: each input once, of the right datatype, with lengths that fit.
/// `BYTES` also fit an input that [takes images](TensorMetadata::accepts_images): one encoded picture each. An optional input may
/// be absent.
pub fn validate_inputs(inputs: &[Tensor], model: &ModelMetadata) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for tensor in inputs {
        let input = find(&tensor.name, model)?;
        if !seen.insert(tensor.name.as_str()) {
            return Err(duplicate(&tensor.name));
        }
        check_tensor(tensor, input, model)?;
    }
    let is_missing = |input: &&TensorMetadata| !input.parameters.optional && !seen.contains(input.name.as_str());
    match model.inputs.iter().find(is_missing) {
        None => Ok(()),
        Some(missing) => Err(Error::unprocessable(format!(
            "input {:?} is missing; model {:?} takes {}",
            missing.name,
            model.name,
            names(&model.inputs)
        ))),
    }
}

/// The model's input of this name.
pub(crate) fn find<'a>(name: &str, model: &'a ModelMetadata) -> Result<&'a TensorMetadata, Error> {
    let unknown = || {
        Error::unprocessable(format!(
            "model {:?} has no input {}; it takes {}",
            model.name,
            shown(name),
            names(&model.inputs)
        ))
    };
    model.inputs.iter().find(|input| input.name == name).ok_or_else(unknown)
}

pub(crate) fn duplicate(name: &str) -> Error {
    Error::malformed(format!("input {} is given twice", shown(name)))
}

/// A name of the caller's in quotes, cut where it is long: an error is no echo.
pub(crate) fn shown(name: &str) -> String {
    let cut: String = name.chars().take(64).collect();
    if cut.len() == name.len() { format!("{cut:?}") } else { format!("{cut:?}…") }
}

/// A parser's error in words, cut where it repeats a long piece of what was sent.
pub(crate) fn cut(error: &impl Display) -> String {
    const LONGEST: usize = 256;
    struct Cut(String);
    impl Write for Cut {
        fn write_str(&mut self, words: &str) -> fmt::Result {
            let fits = words.floor_char_boundary(LONGEST - self.0.len());
            self.0.push_str(&words[..fits]);
            if fits == words.len() { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let mut cut = Cut(String::new());
    if write!(cut, "{error}").is_err() {
        cut.0.push('…');
    }
    cut.0
}

pub(crate) fn names(tensors: &[TensorMetadata]) -> String {
    let name = |tensor: &TensorMetadata| {
        let optional = if tensor.parameters.optional { " (optional)" } else { "" };
        format!("{:?}{optional}", tensor.name)
    };
    tensors.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn check_tensor(tensor: &Tensor, input: &TensorMetadata, model: &ModelMetadata) -> Result<(), Error> {
    let unfit = |reason: String| Err(Error::unprocessable(format!("input {:?} {reason}", tensor.name)));
    let pictures = input.accepts_images() && tensor.datatype == Datatype::Bytes;
    if tensor.datatype != input.datatype && !pictures {
        let or_pictures = if input.accepts_images() { " or BYTES, one encoded picture each" } else { "" };
        let is_bytes = tensor.datatype == Datatype::Bytes;
        let remedy = is_bytes.then(|| image_settings_hint(&model.name, std::slice::from_ref(input))).flatten();
        let remedy = remedy.map(|remedy| format!(". {remedy}")).unwrap_or_default();
        return unfit(format!("is {}{or_pictures}, not {}{remedy}", input.datatype, tensor.datatype));
    }
    // The first axis is the batch's, also of three: N×H×W are gray pictures.
    let wanted = if pictures { &input.shape[..input.shape.len().min(1)] } else { &input.shape[..] };
    let fits = |(&length, &wanted): (&usize, &i64)| wanted < 0 || usize::try_from(wanted) == Ok(length);
    if tensor.shape.len() != wanted.len() || !tensor.shape.iter().zip(wanted).all(fits) {
        let of = if pictures { " of pictures" } else { "" };
        return unfit(format!("has the shape {wanted:?}{of} (-1: any length), not {:?}", tensor.shape));
    }
    if tensor.is_empty() && !input.parameters.allow_empty {
        return unfit(format!(
            "of the shape {:?} has no elements; the model's settings allow none (allow_empty)",
            tensor.shape
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::ContentType;

    fn model() -> ModelMetadata {
        let mut picture = TensorMetadata::new("p", Datatype::Fp32, &[-1, 2, 2, 1]);
        picture.parameters.content_type = Some(ContentType::Image);
        ModelMetadata {
            name: "m".to_owned(),
            version: "1".to_owned(),
            inputs: vec![TensorMetadata::new("x", Datatype::Int8, &[-1, 2]), picture],
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
    fn what_fits_is_let_through_in_any_order() {
        assert_eq!(validate_inputs(&[x(&[3, 2]), p()], &model()), Ok(()));
        let pixels = Tensor::new("p", Datatype::Fp32, &[2, 2, 2, 1], vec![0; 32].into()).unwrap();
        assert_eq!(validate_inputs(&[pixels, x(&[1, 2])], &model()), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_inputs_name_and_the_reason() {
        let renamed = |name: &str| Tensor { name: name.to_owned(), ..x(&[1, 2]) };
        let other = Tensor::new("x", Datatype::Uint8, &[1, 2], vec![0; 2].into()).unwrap();
        let two_axes = Tensor::from_strings("p", vec![1, 1], [&b"png"[..]]);
        let bytes = Tensor::from_strings("x", vec![1, 1], [&b"png"[..]]);
        let long = "n".repeat(100);
        for (inputs, words) in [
            (vec![p()], r#"input "x" is missing; model "m" takes "x", "p""#),
            (vec![renamed("y")], r#"model "m" has no input "y"; it takes "x", "p""#),
            (vec![renamed(&long)], &format!(r#"model "m" has no input "{}"…; it takes "x", "p""#, &long[..64])),
            (vec![other], r#"input "x" is INT8, not UINT8"#),
            (vec![bytes], r#"input "x" is INT8, not BYTES"#),
            (vec![renamed("p")], r#"input "p" is FP32 or BYTES, one encoded picture each, not INT8"#),
            (vec![x(&[2])], r#"input "x" has the shape [-1, 2] (-1: any length), not [2]"#),
            (vec![x(&[1, 3])], r#"input "x" has the shape [-1, 2] (-1: any length), not [1, 3]"#),
            (vec![two_axes], r#"input "p" has the shape [-1] of pictures (-1: any length), not [1, 1]"#),
            (
                vec![x(&[0, 2])],
                r#"input "x" of the shape [0, 2] has no elements; the model's settings allow none (allow_empty)"#,
            ),
        ] {
            let error = validate_inputs(&inputs, &model()).unwrap_err();
            assert_eq!((error.status, error.message.as_str()), (StatusCode::UNPROCESSABLE_ENTITY, words));
        }
        let twice = validate_inputs(&[x(&[1, 2]), x(&[1, 2])], &model()).unwrap_err();
        assert_eq!((twice.status, twice.message.as_str()), (StatusCode::BAD_REQUEST, r#"input "x" is given twice"#));
    }

    #[test]
    fn an_encoded_image_for_what_looks_like_one_is_refused_with_the_settings_to_write() {
        let mut model = model();
        model.inputs = vec![TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 32, 32])];
        let error = validate_inputs(&[Tensor::from_strings("x", vec![1], [&b"png"[..]])], &model).unwrap_err();
        let words =
            "input \"x\" is FP32, not BYTES. If its input \"x\" of the shape [-1, 3, 32, 32] is an image, write ";
        assert!(error.message.starts_with(words), "{}", error.message);
    }

    #[test]
    fn an_optional_input_may_be_absent_and_is_checked_where_it_is_given() {
        let mut model = model();
        model.inputs.push(TensorMetadata::new("gain", Datatype::Int8, &[]));
        model.inputs[2].parameters.optional = true;
        let gain = |shape: &[i64]| {
            let length = shape.iter().product::<i64>() as usize;
            Tensor::new("gain", Datatype::Int8, shape, vec![0; length].into()).unwrap()
        };
        assert_eq!(validate_inputs(&[x(&[1, 2]), p()], &model), Ok(()));
        assert_eq!(validate_inputs(&[gain(&[]), x(&[1, 2]), p()], &model), Ok(()));
        for (inputs, words) in [
            (vec![x(&[1, 2]), p(), gain(&[1])], r#"input "gain" has the shape [] (-1: any length), not [1]"#),
            (vec![gain(&[]), p()], r#"input "x" is missing; model "m" takes "x", "p", "gain" (optional)"#),
        ] {
            assert_eq!(validate_inputs(&inputs, &model).unwrap_err().message, words);
        }
    }

    #[test]
    fn an_empty_tensor_is_let_through_where_the_settings_allow_it() {
        let mut model = model();
        model.inputs[0].parameters.allow_empty = true;
        assert_eq!(validate_inputs(&[x(&[0, 2]), p()], &model), Ok(()));
    }
}
