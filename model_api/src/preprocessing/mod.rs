//! Image preprocessing: converts an encoded image to the tensor that a model expects, within limits.
//!
//! ```text
//! bytes → decode (format by magic, limits from the header, then pixels)
//!       → flatten (gray or RGB, transparency resolved) → orientation (EXIF) → DecodedImage
//!       → fit (digit | contain | cover | stretch) → ModelImage → values (scale, mean, std, datatype, layout)
//! ```

mod decode;
mod digit;
mod error;
mod flatten;
mod limits;
mod resize;
mod settings;
mod values;

#[cfg(test)]
mod tests;

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, GrayImage, ImageEncoder, RgbImage};

pub use error::ImageError;
pub use limits::ImageLimits;
use open_inference::{Datatype, NotRepresentable};
pub use settings::{Background, Color, Fit, ImageSettings, ImageSpec, Layout};

/// An upright, opaque image of any size, with as many channels as the model takes.
#[derive(Clone, Debug)]
pub enum DecodedImage {
    /// One channel.
    Gray(GrayImage),
    /// Three channels.
    Rgb(RgbImage),
}

/// An image at the model's size: upright and opaque, with values 0 to 255.
#[derive(Clone, Debug)]
pub struct ModelImage {
    /// Rows from the top, pixels from the left, channels interleaved.
    pixels: Vec<u8>,
    spec: ImageSpec,
}

/// Decodes an image and fits it to the model's size.
///
/// Only the bytes are trusted: the magic determines the format, and the sizes in the header are checked against `limits` before
/// memory is allocated. It takes microseconds to a second of CPU time, so call it off the reactor unless the limits are low.
pub fn preprocess(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<ModelImage, ImageError> {
    DecodedImage::decode(bytes, spec, limits)?.fit(spec)
}

impl DecodedImage {
    /// First half of [`preprocess`]: decodes the pixels.
    pub fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Self, ImageError> {
        let decoded = decode::decode(bytes, spec, limits)?;
        let background = spec.background();
        Ok(match (spec.color(), spec.fit()) {
            (Color::Gray, Fit::Digit) => Self::Gray(decoded.flatten_upright(flatten::to_gray_on_contrast)),
            (Color::Gray, _) => Self::Gray(decoded.flatten_upright(|image| flatten::to_gray(image, background))),
            (Color::Rgb, _) => Self::Rgb(decoded.flatten_upright(|image| flatten::to_rgb(image, background))),
        })
    }

    /// Second half of [`preprocess`]: scales to the model's size.
    pub fn fit(self, spec: &ImageSpec) -> Result<ModelImage, ImageError> {
        let pixels = match (self, spec.fit()) {
            (Self::Gray(image), Fit::Digit) => digit::normalize(&image, spec.width(), spec.height()),
            (Self::Gray(image), fit) => resize::gray(image, fit, spec)?,
            (Self::Rgb(image), fit) => resize::rgb(image, fit, spec)?,
        };
        Ok(ModelImage { pixels, spec: spec.clone() })
    }
}

impl ModelImage {
    /// Appends one row of the model's input: `(value × scale − mean) ÷ std` as `datatype`, little-endian, in the model's layout.
    pub fn write_row(&self, datatype: Datatype, data: &mut Vec<u8>) -> Result<(), NotRepresentable> {
        values::write_row(&self.pixels, &self.spec, datatype, data)
    }

    /// The image as PNG, before scale, mean and std, for display.
    pub fn to_png(&self) -> Result<Vec<u8>, ImageError> {
        let color = match self.spec.color() {
            Color::Gray => ExtendedColorType::L8,
            Color::Rgb => ExtendedColorType::Rgb8,
        };
        let mut file = Cursor::new(Vec::new());
        PngEncoder::new(&mut file)
            .write_image(&self.pixels, self.spec.width(), self.spec.height(), color)
            .map_err(|error| ImageError::unencodable(&error))?;
        Ok(file.into_inner())
    }
}
