//! An encoded picture becomes the tensor a model expects, within limits. Pixels live here and nowhere else.
//!
//! ```text
//! bytes → decode (format by magic, limits from the header, then pixels)
//!       → flatten (gray or RGB, transparency resolved) → upright (EXIF orientation) → Opened
//!       → fit (digit | contain | cover | stretch) → Picture → values (scale, mean, std, datatype, layout)
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
pub enum Opened {
    /// One channel.
    Gray(GrayImage),
    /// Three.
    Rgb(RgbImage),
}

/// A picture as the model sees it: fitted, upright, opaque, but not yet scaled to the model's range of numbers.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Rows from the top, pixels from the left, channels together.
    pixels: Vec<u8>,
    spec: ImageSpec,
}

/// Reads an encoded picture and fits it to what `spec` asks for.
///
/// Nothing is believed but the bytes: the format is told by its magic, and what the header announces is held against
/// `limits` before memory is taken for it. Takes microseconds to a second, all on the CPU: call it off the reactor, unless the
/// limits are low.
pub fn read(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Picture, ImageError> {
    Opened::decode(bytes, spec, limits)?.fit(spec)
}

impl Opened {
    /// The first half of [`read`]: pixels.
    pub fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Self, ImageError> {
        let decoded = decode::decode(bytes, spec, limits)?;
        let background = spec.background();
        Ok(match (spec.color(), spec.fit()) {
            (Color::Gray, Fit::Digit) => Self::Gray(decoded.upright(flatten::ink_on_paper)),
            (Color::Gray, _) => Self::Gray(decoded.upright(|image| flatten::gray_over(image, background))),
            (Color::Rgb, _) => Self::Rgb(decoded.upright(|image| flatten::rgb_over(image, background))),
        })
    }

    /// The second half of [`read`]: the model's size.
    pub fn fit(self, spec: &ImageSpec) -> Result<Picture, ImageError> {
        let pixels = match (self, spec.fit()) {
            (Self::Gray(image), Fit::Digit) => digit::fit(&image, spec.width(), spec.height()),
            (Self::Gray(image), fit) => resize::gray(image, fit, spec)?,
            (Self::Rgb(image), fit) => resize::rgb(image, fit, spec)?,
        };
        Ok(Picture { pixels, spec: spec.clone() })
    }
}

impl Picture {
    /// Adds one row of the model's input: `(value × scale − mean) ÷ std` as `datatype`, little-endian, in the model's
    /// layout.
    pub fn write(&self, datatype: Datatype, data: &mut Vec<u8>) -> Result<(), NotRepresentable> {
        values::write(&self.pixels, &self.spec, datatype, data)
    }

    /// The picture as PNG, before scale, mean and std: what a person can look at.
    pub fn png(&self) -> Result<Vec<u8>, ImageError> {
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
