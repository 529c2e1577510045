//! Hint for clients that send an image to a model without image settings: which settings to write, and where.

use std::fmt::Write as _;

use crate::types::{Datatype, TensorMetadata, only_required_input};

/// The settings with which the only input of `model` accepts images, as a sentence. `None` where the input does not
/// look like an image, or accepts images already.
///
/// An image is N×H×W×C or N×C×H×W with one or three channels, a batch size of one or any, and numeric elements.
pub fn image_settings_hint(model: &str, inputs: &[TensorMetadata]) -> Option<String> {
    let input = only_required_input(inputs)?;
    let is_number = !matches!(input.datatype, Datatype::Bytes | Datatype::Bool);
    let [batch, first, height_or_width, last] = input.shape[..] else { return None };
    let is_channel_count = |length: i64| length == 1 || length == 3;
    let is_side = |length: i64| length == -1 || length > 3;
    let sides = if is_channel_count(last) { [first, height_or_width] } else { [height_or_width, last] };
    let is_image = is_number
        && matches!(batch, -1 | 1)
        && (is_channel_count(last) || is_channel_count(first))
        && sides.iter().all(|&side| is_side(side))
        && !input.accepts_images();
    if !is_image {
        return None;
    }
    let (name, shape) = (&input.name, &input.shape);
    let mut hint = format!("If its input {name:?} of the shape {shape:?} is an image, write ");
    let mut settings = format!("{{\"inputs\": [{{\"name\": {name:?}, ");
    if sides.contains(&-1) {
        settings.push_str("\"shape\": [its shape, with height and width as numbers], ");
    }
    settings.push_str("\"parameters\": {\"content_type\": \"image\"}}]}");
    let _ = write!(
        hint,
        "{settings} into {model}/model-settings.json in the models' folder, beside model.onnx (a bare {model}.onnx is moved to \
         {model}/model.onnx)"
    );
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(datatype: Datatype, shape: &[i64]) -> Option<String> {
        image_settings_hint("m", &[TensorMetadata::new("x", datatype, shape)])
    }

    #[test]
    fn an_image_input_gets_a_hint() {
        let hint = hint(Datatype::Fp32, &[-1, 3, 224, 224]).unwrap();
        assert_eq!(
            hint,
            "If its input \"x\" of the shape [-1, 3, 224, 224] is an image, write {\"inputs\": [{\"name\": \"x\", \
             \"parameters\": {\"content_type\": \"image\"}}]} into m/model-settings.json in the models' folder, beside \
             model.onnx (a bare m.onnx is moved to m/model.onnx)"
        );
        let open = image_settings_hint("m", &[TensorMetadata::new("x", Datatype::Uint8, &[1, -1, -1, 3])]).unwrap();
        assert!(open.contains("\"shape\": [its shape, with height and width as numbers]"), "{open}");
    }

    #[test]
    fn other_inputs_get_no_hint() {
        for (datatype, shape) in [
            (Datatype::Bytes, &[-1, 3, 224, 224][..]),
            (Datatype::Fp32, &[-1, 4]),
            (Datatype::Fp32, &[-1, 12, 64, 64]),
            (Datatype::Fp32, &[8, 3, 224, 224]),
            (Datatype::Fp32, &[-1, 3, 1, 1]),
        ] {
            assert_eq!(hint(datatype, shape), None, "{datatype} {shape:?}");
        }
        let mut image = TensorMetadata::new("x", Datatype::Fp32, &[-1, 3, 224, 224]);
        image.parameters.content_type = Some(crate::ContentType::Image);
        assert_eq!(image_settings_hint("m", &[image]), None, "it accepts images already");
    }
}
