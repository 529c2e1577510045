//! What a model needs to take images, where its graph looks as if it could and its settings do not say so.

use contract::ModelDescription;
use open_inference::{Datatype, TensorMetadata};

/// A height or width in an example, where the graph leaves it open.
const EXAMPLE_SIDE: i64 = 224;

/// Shorter axes are not the height or width of an image.
const SHORTEST_SIDE: i64 = 8;

/// `model-settings.json` with which the model takes images.
#[derive(Debug, PartialEq)]
pub(super) struct ImageHint {
    pub settings: String,
    /// Whether [`EXAMPLE_SIDE`] stands for a height or width that the graph leaves open.
    pub has_example_size: bool,
}

impl ImageHint {
    /// For a model with one input of four axes, one of which has the length 1 or 3, that is not known to take images.
    pub fn of(model: &ModelDescription) -> Option<Self> {
        let [input] = model.inputs.as_slice() else { return None };
        if model.image.is_some() || model.pipeline.is_some() || !is_numeric(input) {
            return None;
        }
        let [_, a, b, c] = input.shape[..] else { return None };
        let is_channels = |length: i64| length == 1 || length == 3;
        let is_side = |length: i64| !(0..SHORTEST_SIDE).contains(&length);
        let channels_first = is_channels(a) && is_side(b) && is_side(c);
        let channels_last = is_channels(c) && is_side(a) && is_side(b);
        (channels_first || channels_last).then(|| Self::for_input(input))
    }

    fn for_input(input: &TensorMetadata) -> Self {
        let name = serde_json::Value::from(input.name.as_str());
        let has_example_size = input.shape[1..].iter().any(|&length| length < 0);
        let sides = input.shape.iter().skip(1).map(|&length| if length < 0 { EXAMPLE_SIDE } else { length });
        let shape: Vec<_> = input.shape.first().copied().into_iter().chain(sides).collect();
        let shape = if has_example_size { format!(", \"shape\": {shape:?}") } else { String::new() };
        let settings =
            format!("{{\"inputs\": [{{\"name\": {name}{shape}, \"parameters\": {{\"content_type\": \"image\"}}}}]}}");
        Self { settings, has_example_size }
    }
}

fn is_numeric(input: &TensorMetadata) -> bool {
    !matches!(input.datatype, Datatype::Bytes | Datatype::Bool)
}

#[cfg(test)]
mod tests {
    use open_inference::ModelState;

    use super::*;

    fn hint(datatype: Datatype, shape: &[i64]) -> Option<ImageHint> {
        let inputs = vec![TensorMetadata::new("x", datatype, shape)];
        ImageHint::of(&ModelDescription { inputs, ..ModelDescription::placeholder("m", "1", ModelState::Ready, None) })
    }

    #[test]
    fn an_input_with_the_axes_of_an_image_gets_settings_for_images() {
        let settings = r#"{"inputs": [{"name": "x", "parameters": {"content_type": "image"}}]}"#;
        for shape in [[-1, 3, 224, 224], [1, 1, 28, 28], [-1, 28, 28, 1]] {
            let hint = hint(Datatype::Fp32, &shape).unwrap();
            assert_eq!((hint.settings.as_str(), hint.has_example_size), (settings, false), "{shape:?}");
        }
        let open = hint(Datatype::Uint8, &[-1, 3, -1, -1]).unwrap();
        let settings =
            r#"{"inputs": [{"name": "x", "shape": [-1, 3, 224, 224], "parameters": {"content_type": "image"}}]}"#;
        assert_eq!((open.settings.as_str(), open.has_example_size), (settings, true));
    }

    #[test]
    fn other_inputs_get_none() {
        for shape in [&[-1, 3][..], &[-1, 3, 224], &[-1, 64, 56, 56], &[-1, 3, 4, 4], &[-1, -1, -1, -1]] {
            assert_eq!(hint(Datatype::Fp32, shape), None, "{shape:?}");
        }
        assert_eq!(hint(Datatype::Bytes, &[-1, 3, 224, 224]), None);
    }
}
