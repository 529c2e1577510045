//! PNG encoder for image outputs.

use crate::error::Error;
use crate::types::{Datatype, Tensor, TensorMetadata};

/// A PNG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedImage {
    /// Contents of the file.
    pub file: Vec<u8>,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

/// Encodes images as PNG, one `BYTES` element per row of N×H×W, N×H×W×C or N×C×H×W with one, three or four channels.
/// H×W, H×W×C and C×H×W are one image.
///
/// Floats range from 0 (black) to 1 (white) and are clamped. `UINT8` is unchanged; `BOOL` is black and white. Other
/// integers are class numbers: with labels, they are spread evenly up to white; without labels, they are clamped to
/// 255.
pub(crate) fn encode(tensor: &Tensor, output: &TensorMetadata) -> Result<Tensor, Error> {
    let images = encode_images(tensor, output)?;
    Ok(Tensor::from_strings(&tensor.name, vec![images.len()], images.iter().map(|image| &image.file)))
}

/// Encodes the images of a tensor as PNG files, as for `"content_type": "image"`: one per row of N×H×W, N×H×W×C or
/// N×C×H×W.
pub fn encode_images(tensor: &Tensor, output: &TensorMetadata) -> Result<Vec<EncodedImage>, Error> {
    let unsupported = |reason: String| Error::unprocessable(format!("output {:?} {reason}", tensor.name));
    let layout = Layout::infer(&tensor.shape, &output.shape)
        .ok_or_else(|| unsupported(format!("of the shape {:?} is not an image", tensor.shape)))?;
    let pixels = to_brightness(tensor, output.parameters.labels.len());
    let (width, height) = (layout.width, layout.height);
    let encode = |row| layout.encode(&pixels, row).map(|file| EncodedImage { file, width, height });
    let images: Result<Vec<_>, _> = (0..layout.rows).map(encode).collect();
    images.map_err(|error| unsupported(format!("cannot be encoded as an image: {error}")))
}

/// Interpretation of the axes.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    rows: usize,
    height: usize,
    width: usize,
    channels: usize,
    /// C×H×W: channel planes instead of interleaved pixels.
    planar: bool,
}

impl Layout {
    /// `declared` is the model's shape. Where the lengths are ambiguous, a fixed length is the channel axis.
    fn infer(shape: &[usize], declared: &[i64]) -> Option<Self> {
        let layout = |rows, height, width, channels, planar| Self { rows, height, width, channels, planar };
        let is_channels = |length: usize| matches!(length, 1 | 3 | 4);
        let is_open = |axis: usize| declared.get(axis).is_none_or(|&length| length < 0);
        match *shape {
            [height, width] => Some(layout(1, height, width, 1, false)),
            [rows, height, width] if is_open(0) || !is_channels(rows) && !is_channels(width) => {
                Some(layout(rows, height, width, 1, false))
            }
            [height, width, channels] if is_channels(channels) => Some(layout(1, height, width, channels, false)),
            [channels, height, width] => Some(layout(1, height, width, channels, true)),
            [rows, first, second, last] => {
                let (front, back) = (is_channels(first), is_channels(last));
                let back = back && !(front && is_open(3) && !is_open(1));
                match (front, back) {
                    (_, true) => Some(layout(rows, first, second, last, false)),
                    (true, _) => Some(layout(rows, second, last, first, true)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn encode(&self, pixels: &[u8], row: usize) -> Result<Vec<u8>, png::EncodingError> {
        let plane = self.height * self.width;
        let row = &pixels[row * plane * self.channels..(row + 1) * plane * self.channels];
        let interleaved: Vec<u8>;
        let row = if self.planar && self.channels > 1 {
            interleaved = (0..plane).flat_map(|at| (0..self.channels).map(move |c| row[c * plane + at])).collect();
            &interleaved
        } else {
            row
        };
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, png_dimension(self.width)?, png_dimension(self.height)?);
        encoder.set_color(match self.channels {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        let mut writer = encoder.write_header()?;
        writer.write_image_data(row)?;
        writer.finish()?;
        Ok(file)
    }
}

pub(crate) fn png_dimension(length: usize) -> Result<u32, png::EncodingError> {
    u32::try_from(length).map_err(|_| png::EncodingError::LimitsExceeded)
}

fn to_brightness(tensor: &Tensor, labels: usize) -> Vec<u8> {
    let step = if labels > 1 { 255.0 / (labels - 1) as f32 } else { 1.0 };
    let scale = match tensor.datatype {
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => 255.0,
        Datatype::Uint8 if labels == 0 => return tensor.data.to_vec(),
        _ => step,
    };
    // The cast saturates at 0 and 255; NaN becomes 0.
    tensor.to_f32().into_iter().map(|value| (value * scale).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn layout(shape: &[usize], declared: &[i64]) -> Option<(usize, usize, usize, usize, bool)> {
        let Layout { rows, height, width, channels, planar } = Layout::infer(shape, declared)?;
        Some((rows, height, width, channels, planar))
    }

    /// Colour type and pixels of each PNG.
    fn pixels(
        datatype: Datatype,
        shape: Vec<usize>,
        values: &[f32],
        labels: &[&str],
    ) -> Vec<(png::ColorType, Vec<u8>)> {
        let mut output = TensorMetadata::new("y", datatype, &[-1; 4][..shape.len()]);
        output.parameters.labels = labels.iter().map(ToString::to_string).collect();
        let tensor = Tensor::from_f32("y", datatype, shape, values).unwrap();
        let decode = |file: bytes::Bytes| {
            let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let frame = reader.next_frame(&mut pixels).unwrap();
            (frame.color_type, pixels)
        };
        encode(&tensor, &output).unwrap().strings().map(decode).collect()
    }

    #[test]
    fn the_layout_follows_from_lengths_and_fixed_axes() {
        assert_eq!(layout(&[5, 7], &[-1, -1]), Some((1, 5, 7, 1, false)));
        assert_eq!(layout(&[2, 5, 7], &[-1, 5, 7]), Some((2, 5, 7, 1, false)));
        assert_eq!(layout(&[5, 7, 3], &[5, 7, 3]), Some((1, 5, 7, 3, false)));
        assert_eq!(layout(&[3, 5, 7], &[3, 5, 7]), Some((1, 5, 7, 3, true)));
        assert_eq!(layout(&[2, 5, 7, 3], &[-1, -1, -1, 3]), Some((2, 5, 7, 3, false)));
        assert_eq!(layout(&[2, 1, 5, 7], &[-1, 1, -1, -1]), Some((2, 5, 7, 1, true)));
        assert_eq!(layout(&[1, 3, 5, 4], &[-1, 3, -1, -1]), Some((1, 5, 4, 3, true)));
        assert_eq!(layout(&[1, 3, 5, 4], &[-1, -1, -1, 4]), Some((1, 3, 5, 4, false)));
        assert_eq!(layout(&[1, 21, 5, 7], &[-1, 21, -1, -1]), None);
        assert_eq!(layout(&[5], &[-1]), None);
    }

    #[test]
    fn values_are_scaled_to_brightness() {
        let gray = |datatype, values: &[f32], labels: &[&str]| {
            pixels(datatype, vec![1, values.len()], values, labels).remove(0).1
        };
        assert_eq!(gray(Datatype::Fp32, &[-1.0, 0.0, 0.5, 1.0, 9.0, f32::NAN], &[]), [0, 0, 128, 255, 255, 0]);
        assert_eq!(gray(Datatype::Uint8, &[0.0, 1.0, 255.0], &[]), [0, 1, 255]);
        assert_eq!(gray(Datatype::Bool, &[0.0, 1.0], &[]), [0, 255]);
        assert_eq!(gray(Datatype::Int64, &[-5.0, 3.0, 900.0], &[]), [0, 3, 255]);
        assert_eq!(gray(Datatype::Int32, &[0.0, 1.0, 2.0], &["sky", "sea", "land"]), [0, 128, 255]);
        assert_eq!(gray(Datatype::Uint8, &[0.0, 1.0], &["out", "in"]), [0, 255]);
    }

    #[test]
    fn each_row_becomes_an_image_with_interleaved_channels() {
        let values: Vec<f32> = (0_u8..24).map(f32::from).collect();
        let images = pixels(Datatype::Uint8, vec![2, 3, 2, 2], &values, &[]);
        assert_eq!(images.len(), 2);
        assert_eq!(images[0], (png::ColorType::Rgb, vec![0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]));
        let plain = pixels(Datatype::Uint8, vec![1, 1, 2, 4], &values[..8], &[]);
        assert_eq!(plain[0], (png::ColorType::Rgba, values[..8].iter().map(|&value| value as u8).collect()));
    }

    #[test]
    fn shapes_that_are_not_images_are_rejected() {
        let output = TensorMetadata::new("y", Datatype::Fp32, &[-1]);
        for (shape, message) in [
            (vec![3], "output \"y\" of the shape [3] is not an image"),
            (vec![1, 0, 0], "output \"y\" cannot be encoded as an image: Zero width not allowed"),
        ] {
            let values = vec![0.0; shape.iter().product()];
            let tensor = Tensor::from_f32("y", Datatype::Fp32, shape, &values).unwrap();
            assert_eq!(encode(&tensor, &output).unwrap_err().message, message);
        }
    }
}
