//! Image and segmentation results.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use open_inference::{Activation, Datatype, EncodedImage, Task, encode_class_map, encode_images};
use serde::{Serialize, Serializer};

use super::classes::sigmoid;
use super::error::PredictionError;
use super::output::Output;

/// Size limit of images in JSON. Base64 adds a third.
pub const MAX_JSON_IMAGE_BYTES: usize = 8 << 20;

/// Limit on the values of an image tensor: 16 megapixels of three channels, which take 192 MiB during conversion.
const MAX_IMAGE_VALUES: usize = 48 << 20;

/// An encoded image. In JSON: `image` in base64, `width` and `height`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Png {
    /// PNG file.
    #[serde(rename = "image", serialize_with = "base64")]
    pub file: Bytes,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// Result of an image model: one image per row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Image of row 0. `None` if the result has no rows.
    #[serde(flatten)]
    pub image: Option<Png>,
    /// Images of all rows. `None` if there is exactly one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Png>>,
}

/// Result of a segmentation: a class for each pixel. The colours of the PNG are those of
/// [`open_inference::class_colour`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Segmentation<'a> {
    /// Class map of row 0. `None` if the result has no rows.
    #[serde(flatten)]
    pub image: Option<Png>,
    /// Classes present in row 0, by index.
    pub classes: Vec<ClassShare<'a>>,
    /// Class maps of all rows. `None` if there is exactly one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Png>>,
}

/// Share of an image that a class covers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassShare<'a> {
    /// Class index.
    pub cls: usize,
    /// Label, or the class index if there is none.
    pub label: Cow<'a, str>,
    /// Share of the pixels, greater than 0 and at most 1.
    pub share: f64,
}

/// Class indices of all rows, in row-major order.
struct ClassMaps {
    rows: usize,
    height: usize,
    width: usize,
    classes: Vec<u32>,
    is_binary: bool,
}

fn base64<S: Serializer>(file: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(file))
}

impl<'a> Output<'a> {
    pub(super) fn image(self) -> Result<Image, PredictionError> {
        if self.tensor.datatype == Datatype::Bytes || self.tensor.len() > MAX_IMAGE_VALUES {
            return Err(self.unsupported_shape(Task::Image));
        }
        if self.tensor.rows() == Some(0) {
            return Ok(Image { image: None, rows: Some(Vec::new()) });
        }
        let images = encode_images(self.tensor, self.metadata).map_err(encoding_error)?;
        let (image, rows) = first_or_rows(images);
        Ok(Image { image, rows })
    }

    pub(super) fn segmentation(self) -> Result<Segmentation<'a>, PredictionError> {
        let maps = self.class_maps()?;
        let plane = (maps.height * maps.width).max(1);
        let encode = |map: &[u32]| encode_class_map(map, maps.width, maps.height).map_err(encoding_error);
        let images: Vec<EncodedImage> = maps.classes.chunks_exact(plane).map(encode).collect::<Result<_, _>>()?;
        let classes = self.shares(maps.classes.get(..plane).unwrap_or_default(), maps.is_binary);
        let (image, rows) = first_or_rows(images);
        debug_assert_eq!(rows.as_ref().map_or(1, Vec::len), maps.rows);
        Ok(Segmentation { image, classes, rows })
    }

    fn shares(&self, map: &[u32], is_binary: bool) -> Vec<ClassShare<'a>> {
        let mut counts = BTreeMap::<u32, usize>::new();
        for &class in map {
            *counts.entry(class).or_default() += 1;
        }
        let share = |(class, count)| {
            let cls = class as usize;
            ClassShare { cls, label: self.label(cls, is_binary), share: count as f64 / map.len() as f64 }
        };
        counts.into_iter().map(share).collect()
    }

    fn class_maps(&self) -> Result<ClassMaps, PredictionError> {
        let unsupported_shape = || self.unsupported_shape(Task::Segmentation);
        if self.tensor.datatype == Datatype::Bytes || self.tensor.len() > MAX_IMAGE_VALUES {
            return Err(unsupported_shape());
        }
        let declared = |axis: usize| self.metadata.shape.get(axis).copied().unwrap_or(-1);
        let labels = self.metadata.parameters.labels.len();
        let (rows, height, width, channels, last) = match self.tensor.shape[..] {
            [height, width] => (1, height, width, 1, false),
            [rows, height, width] => (rows, height, width, 1, false),
            [rows, first, second, third] => {
                let by_labels = labels == third && labels != first;
                let by_shape = labels == 0 && declared(1) < 0 && declared(2) < 0 && declared(3) > 0;
                if by_labels || by_shape {
                    (rows, first, second, third, true)
                } else {
                    (rows, second, third, first, false)
                }
            }
            _ => return Err(unsupported_shape()),
        };
        if rows > 0 && (height == 0 || width == 0 || channels == 0) {
            return Err(unsupported_shape());
        }
        let are_class_numbers = labels > 2 || !self.tensor.datatype.is_float();
        let (classes, is_binary) = match channels {
            1 if are_class_numbers => (self.class_numbers()?, false),
            1 => (self.threshold_mask()?, true),
            _ => (self.argmax_channels(height * width, channels, last)?, false),
        };
        Ok(ClassMaps { rows, height, width, classes, is_binary })
    }

    /// Reads values that are class indices already.
    fn class_numbers(&self) -> Result<Vec<u32>, PredictionError> {
        let number = |value: f32| {
            let is_number = value.fract() == 0.0 && (0.0..=f32::from(u16::MAX)).contains(&value);
            let error =
                || PredictionError::InvalidClassIndex { output: self.tensor.name.clone(), value: value.to_string() };
            is_number.then_some(value as u32).ok_or_else(error)
        };
        self.tensor.to_f32().into_iter().map(number).collect()
    }

    /// Applies the threshold to one value for two classes.
    fn threshold_mask(&self) -> Result<Vec<u32>, PredictionError> {
        let (threshold, activation) = (self.threshold(), self.metadata.parameters.activation);
        let side = |value: f32| {
            let value = if activation == Some(Activation::Sigmoid) { sigmoid(value) } else { value };
            if value.is_nan() { Err(PredictionError::NotFinite) } else { Ok(u32::from(value >= threshold)) }
        };
        self.tensor.to_f32().into_iter().map(side).collect()
    }

    /// Channel with the largest value of each pixel; the first of equal ones. Activations do not change it.
    fn argmax_channels(&self, plane: usize, channels: usize, is_last: bool) -> Result<Vec<u32>, PredictionError> {
        let values = self.tensor.to_f32();
        if values.iter().any(|value| value.is_nan()) {
            return Err(PredictionError::NotFinite);
        }
        let (of_pixel, of_channel) = if is_last { (channels, 1) } else { (1, plane) };
        let argmax = |row: &[f32], pixel: usize| {
            let value = |channel: usize| row[pixel * of_pixel + channel * of_channel];
            (1..channels).fold(0, |best, channel| if value(channel) > value(best) { channel } else { best }) as u32
        };
        let rows = values.chunks_exact((plane * channels).max(1));
        Ok(rows.flat_map(|row| (0..plane).map(move |pixel| argmax(row, pixel))).collect())
    }
}

/// One image stands alone; none or several are listed.
fn first_or_rows(images: Vec<EncodedImage>) -> (Option<Png>, Option<Vec<Png>>) {
    let png = |EncodedImage { file, width, height }| Png { file: file.into(), width, height };
    let mut images: Vec<Png> = images.into_iter().map(png).collect();
    match images.len() {
        1 => (images.pop(), None),
        _ => (images.first().cloned(), Some(images)),
    }
}

fn encoding_error(error: open_inference::Error) -> PredictionError {
    PredictionError::Encoding(error.message)
}
