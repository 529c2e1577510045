//! An encoded picture becomes the tensor a model expects, within limits. Pixels live here and nowhere else.
//!
//! ```text
//! bytes → decode (format by magic, limits from the header, then pixels)
//!       → flatten (gray or RGB, transparency resolved) → upright (EXIF orientation)
//!       → fit (digit | contain | cover | stretch) → Picture → tensor (scale, mean, std, layout)
//! ```

mod decode;
mod digit;
mod error;
mod flatten;
mod resize;
mod settings;

#[cfg(test)]
mod tests;

use std::io::Cursor;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

pub use decode::ImageLimits;
pub use error::ImageError;
pub use settings::{Color, Fit, ImageSettings, ImageSpec, Layout};

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
/// `limits` before memory is taken for it. Takes milliseconds to a second, all on the CPU: call it off the reactor.
pub fn read(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Picture, ImageError> {
    let decoded = decode::decode(bytes, limits)?;
    let pixels = match (spec.color(), spec.fit()) {
        (Color::Gray, Fit::Digit) => digit::fit(&decoded.upright(flatten::ink_on_paper), spec.width(), spec.height()),
        (Color::Gray, fit) => resize::gray(&decoded.upright(flatten::gray_over_black), fit, spec)?,
        (Color::Rgb, fit) => resize::rgb(&decoded.upright(flatten::rgb_over_black), fit, spec)?,
    };
    Ok(Picture { pixels, spec: spec.clone() })
}

impl Picture {
    /// One row of the model's input: `(value × scale − mean) ÷ std`, in the model's layout.
    pub fn tensor(&self) -> Vec<f32> {
        let channels = self.spec.channels();
        let value = |pixel: usize, channel: usize| {
            let (factor, offset) = self.spec.line(channel);
            f32::from(self.pixels[pixel * channels + channel]) * factor + offset
        };
        let pixels = self.pixels.len() / channels;
        match self.spec.layout() {
            Layout::Nhwc => {
                (0..pixels).flat_map(|p| (0..channels).map(move |c| (p, c))).map(|(p, c)| value(p, c)).collect()
            }
            Layout::Nchw => {
                (0..channels).flat_map(|c| (0..pixels).map(move |p| (p, c))).map(|(p, c)| value(p, c)).collect()
            }
        }
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
