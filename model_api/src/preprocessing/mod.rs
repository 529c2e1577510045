//! An encoded picture becomes the tensor a model expects, within limits. Pixels live here and nowhere else.
//!
//! ```text
//! bytes → decode (format by magic, limits from the header, then pixels)
//!       → flatten (gray or RGB, transparency resolved) → upright (EXIF orientation) → DecodedImage
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

/// A picture as it was sent: of any size, but upright, opaque, and of as many channels as the model takes.
#[derive(Clone, Debug)]
pub enum DecodedImage {
    /// One channel.
    Gray(GrayImage),
    /// Three.
    Rgb(RgbImage),
}

/// A picture as the model sees it: fitted, upright, opaque, but not yet scaled to the model's range of numbers.
#[derive(Clone, Debug)]
pub struct ModelImage {
    /// Rows from the top, pixels from the left, channels together.
    pixels: Vec<u8>,
    spec: ImageSpec,
}

/// Reads an encoded picture and fits it to what `spec` asks for.
///
/// Nothing is believed but the bytes: the format is told by its magic, and what the header announces is held against
/// `limits` before memory is taken for it. Takes microseconds to a second, all on the CPU: call it off the reactor, unless the
/// limits are low.
pub fn preprocess(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<ModelImage, ImageError> {
    DecodedImage::decode(bytes, spec, limits)?.fit(spec)
}

impl DecodedImage {
    /// The first half of [`preprocess`]: pixels.
    pub fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Self, ImageError> {
        let decoded = decode::decode(bytes, spec, limits)?;
        let background = spec.background();
        Ok(match (spec.color(), spec.fit()) {
            (Color::Gray, Fit::Digit) => Self::Gray(decoded.flatten_upright(flatten::to_gray_on_contrast)),
            (Color::Gray, _) => Self::Gray(decoded.flatten_upright(|image| flatten::to_gray(image, background))),
            (Color::Rgb, _) => Self::Rgb(decoded.flatten_upright(|image| flatten::to_rgb(image, background))),
        })
    }

    /// The second half of [`preprocess`]: the model's size.
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
    /// Adds one row of the model's input: `(value × scale − mean) ÷ std` as `datatype`, little-endian, in the model's
    /// layout.
    pub fn write_row(&self, datatype: Datatype, data: &mut Vec<u8>) -> Result<(), NotRepresentable> {
        values::write_row(&self.pixels, &self.spec, datatype, data)
    }

    /// The picture as PNG, before scale, mean and std: what a person can look at.
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
