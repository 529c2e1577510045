//! Converts an `image_arr` to the input tensor of a model.

use open_inference::{NotRepresentable, Tensor, TensorMetadata};

use super::image_array::ImageArray;

/// Why an array does not fit an input.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToTensorError {
    /// The shapes differ in more than axes of length one.
    #[error("image_arr has the shape {found:?}, which does not fit the model's {expected:?}")]
    Shape {
        /// Shape of the array.
        found: Vec<usize>,
        /// Shape of the input; −1 is any length.
        expected: Vec<i64>,
    },
    /// The datatype of the input cannot represent a number.
    #[error(transparent)]
    Number(#[from] NotRepresentable),
}

impl ImageArray {
    /// Converts the array to a tensor for `input`. Axes of length one are inserted or dropped to match the shape.
    /// height × width × channels is transposed for a model with channels first.
    pub fn to_tensor(&self, input: &TensorMetadata) -> Result<Tensor, ToTensorError> {
        let tensor_of = |shape: Vec<usize>, values: &[f32]| {
            Tensor::from_f32(&input.name, input.datatype, shape, values).map_err(ToTensorError::from)
        };
        let shape = input.shape.as_slice();
        let shape_error = || ToTensorError::Shape { found: self.shape.clone(), expected: shape.to_vec() };
        if self.values.is_empty() {
            return Err(shape_error());
        }
        if let Some(matched) = match_shape(&self.shape, shape) {
            return tensor_of(matched, &self.values);
        }
        if let &[batch, channels @ (1 | 3), height, width] = shape
            && let Some(matched) = match_shape(&self.shape, &[batch, height, width, channels])
        {
            let [n, h, w, c] = matched[..] else { unreachable!("matched to four axes") };
            return tensor_of(vec![n, c, h, w], &channels_first(&self.values, h * w, c));
        }
        Err(shape_error())
    }
}

/// `found` with axes of length one dropped or inserted so that it matches `expected`, where −1 is any length.
///
/// Matches from the last axis to the first, so that an ambiguous insertion becomes the batch axis.
fn match_shape(found: &[usize], expected: &[i64]) -> Option<Vec<usize>> {
    if found.is_empty() && expected.is_empty() {
        return Some(Vec::new());
    }
    let append = |length: usize| {
        move |mut matched: Vec<usize>| {
            matched.push(length);
            matched
        }
    };
    let keep_axis = || match (found.split_last()?, expected.split_last()?) {
        ((&length, found), (&last, expected)) if last == -1 || usize::try_from(last) == Ok(length) => {
            match_shape(found, expected).map(append(length))
        }
        _ => None,
    };
    let drop_axis = || found.strip_suffix(&[1]).and_then(|found| match_shape(found, expected));
    let insert_axis = || match expected.split_last()? {
        (1 | -1, expected) => match_shape(found, expected).map(append(1)),
        _ => None,
    };
    keep_axis().or_else(drop_axis).or_else(insert_axis)
}

/// Transposes interleaved channels to planes.
fn channels_first(values: &[f32], pixels: usize, channels: usize) -> Vec<f32> {
    let mut planes = Vec::with_capacity(values.len());
    for image in values.chunks_exact(pixels * channels) {
        planes.extend((0..channels).flat_map(|channel| image.iter().skip(channel).step_by(channels)));
    }
    planes
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn convert(shape: &[usize], expected: &[i64]) -> Result<Tensor, String> {
        let length: usize = shape.iter().product();
        let values = (0..u16::try_from(length).unwrap()).map(f32::from).collect();
        let input = TensorMetadata::new("x", Datatype::Fp32, expected);
        ImageArray { shape: shape.to_vec(), values }.to_tensor(&input).map_err(|error| error.to_string())
    }

    #[test]
    fn axes_of_length_one_are_dropped_or_inserted() {
        const MNIST: &[i64] = &[-1, 28, 28, 1];
        for shape in [&[28, 28][..], &[28, 28, 1], &[1, 28, 28], &[1, 28, 28, 1], &[1, 1, 28, 28, 1]] {
            assert_eq!(convert(shape, MNIST).unwrap().shape, [1, 28, 28, 1], "{shape:?}");
        }
        assert_eq!(convert(&[3, 28, 28], MNIST).unwrap().shape, [3, 28, 28, 1]);
        assert_eq!(convert(&[3], &[-1, -1]).unwrap().shape, [1, 3], "the batch axis is inserted");
        assert_eq!(convert(&[], &[]).unwrap().shape, [0; 0]);
    }

    #[test]
    fn channels_last_is_transposed_for_a_model_with_channels_first() {
        let tensor = convert(&[2, 2, 3], &[-1, 3, 2, 2]).unwrap();
        assert_eq!(tensor.shape, [1, 3, 2, 2]);
        assert_eq!(tensor.to_f32(), [0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]);
        let planes = convert(&[3, 2, 2], &[-1, 3, 2, 2]).unwrap();
        assert_eq!(planes.to_f32(), (0..12_u8).map(f32::from).collect::<Vec<_>>(), "channels first are not transposed");
        assert_eq!(convert(&[2, 4, 5, 3], &[-1, 3, -1, -1]).unwrap().shape, [2, 3, 4, 5]);
    }

    #[test]
    fn shape_error_names_both_shapes() {
        for (shape, expected) in
            [(&[27, 28][..], &[-1, 28, 28, 1][..]), (&[784], &[-1, 28, 28, 1]), (&[2, 0], &[-1, 2])]
        {
            let error = convert(shape, expected).unwrap_err();
            assert_eq!(
                error,
                format!("image_arr has the shape {shape:?}, which does not fit the model's {expected:?}")
            );
        }
    }
}
