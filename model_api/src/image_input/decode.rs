use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel, imageops};

use super::error::{ImageError, format_name};
use super::settings::Color;

mod headers;
mod jpeg;

#[cfg(test)]
mod tests;

/// How large a picture may be. All of it is checked before memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Of the encoded file (`MAX_IMAGE_BYTES`).
    pub bytes: usize,
    /// Of width and of height, in pixels (`MAX_IMAGE_SIDE`).
    pub side: u32,
    /// Of width × height (`MAX_IMAGE_PIXELS`).
    pub pixels: u64,
    /// Of the memory that one decoding takes, and of the tensor that a batch becomes (`MAX_DECODE_BYTES`).
    pub decode_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { bytes: 32 << 20, side: 16_384, pixels: 32 << 20, decode_bytes: 256 << 20 }
    }
}

/// A PNG's chunks beside the pixels may hold and unpack this much; a colour profile that unpacks to more is left out.
const PNG_CHUNK_BYTES: u64 = 8 << 20;

/// The pixels as the file has them, and how they are to be turned.
pub(super) struct Decoded {
    image: DynamicImage,
    orientation: Orientation,
}

/// Tells the format by magic, holds the header against the limits, then decodes. Of an animation, the first frame.
///
/// `color` is what will be made of the pixels: where that is gray, some come gray already.
pub(super) fn decode(bytes: &[u8], color: Color, limits: &ImageLimits) -> Result<Decoded, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    limits.allow_bytes(bytes.len())?;
    let format = headers::format(bytes)?;
    // The decoders are fuzzed, but thousands of lines that read what strangers send: a slip costs one request.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, color, limits))).unwrap_or_else(|_| {
        Err(ImageError::Undecodable { format: format_name(format), reason: "it breaks the decoder".into() })
    })
}

/// The decoders were chosen by measuring: see `docs/DECODING.md`.
fn decode_as(format: ImageFormat, bytes: &[u8], color: Color, limits: &ImageLimits) -> Result<Decoded, ImageError> {
    let undecodable = |error: image::ImageError| ImageError::undecodable(format, &error);
    if format == ImageFormat::WebP {
        headers::webp_frames(bytes, |width, height| limits.allow_size(width, height))?;
    }
    let mut decoder_limits = Limits::no_limits();
    decoder_limits.max_alloc = Some(match format {
        ImageFormat::Png => limits.decode_bytes.min(PNG_CHUNK_BYTES),
        _ => limits.decode_bytes,
    });
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;

    let (width, height) = decoder.dimensions();
    limits.allow_size(width, height)?;
    limits.allow_memory(memory(format, bytes, &decoder))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    // The decoder fills what is missing with gray, and the model would read that with confidence.
    if format == ImageFormat::Jpeg && headers::is_cut_jpeg(bytes) {
        return Err(ImageError::Undecodable { format: "JPEG", reason: "it ends early".into() });
    }
    let gray = if (format, color) == (ImageFormat::Jpeg, Color::Gray) { jpeg::brightness(bytes) } else { None };
    let image = match gray {
        Some(gray) => gray.into(),
        None => DynamicImage::from_decoder(decoder).map_err(undecodable)?,
    };
    Ok(Decoded { image, orientation })
}

/// What decoding will take at its peak: the pixels, what the decoder keeps beside them, and our own copy after.
fn memory(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder) -> u64 {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let beside = match format {
        // All coefficients of three channels, 16 bits each, wait until the last scan has come.
        ImageFormat::Jpeg if headers::jpeg_scan(bytes).is_none() => pixels * 6,
        ImageFormat::WebP | ImageFormat::Gif => pixels * 4,
        ImageFormat::Tiff => decoder.total_bytes(),
        _ => 0,
    };
    decoder.total_bytes().saturating_add(beside).saturating_add(pixels * 3)
}

impl Decoded {
    /// Flattens the pixels to one or three channels, and turns those few bytes rather than the many.
    pub(super) fn upright<P>(self, flatten: fn(DynamicImage) -> ImageBuffer<P, Vec<u8>>) -> ImageBuffer<P, Vec<u8>>
    where
        P: Pixel<Subpixel = u8> + 'static,
    {
        let mut image = flatten(self.image);
        match self.orientation {
            Orientation::NoTransforms => {}
            Orientation::Rotate90 => image = imageops::rotate90(&image),
            Orientation::Rotate180 => imageops::rotate180_in_place(&mut image),
            Orientation::Rotate270 => image = imageops::rotate270(&image),
            Orientation::FlipHorizontal => imageops::flip_horizontal_in_place(&mut image),
            Orientation::FlipVertical => imageops::flip_vertical_in_place(&mut image),
            Orientation::Rotate90FlipH => {
                image = imageops::rotate90(&image);
                imageops::flip_horizontal_in_place(&mut image);
            }
            Orientation::Rotate270FlipH => {
                image = imageops::rotate270(&image);
                imageops::flip_horizontal_in_place(&mut image);
            }
        }
        image
    }
}

impl ImageLimits {
    /// What is within both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            side: self.side.min(other.side),
            pixels: self.pixels.min(other.pixels),
            decode_bytes: self.decode_bytes.min(other.decode_bytes),
        }
    }

    fn allow_bytes(&self, found: usize) -> Result<(), ImageError> {
        allow("bytes", "MAX_IMAGE_BYTES", self.bytes as u64, found as u64)
    }

    fn allow_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        allow("pixels wide", "MAX_IMAGE_SIDE", self.side.into(), width.into())?;
        allow("pixels high", "MAX_IMAGE_SIDE", self.side.into(), height.into())?;
        allow("pixels", "MAX_IMAGE_PIXELS", self.pixels, u64::from(width) * u64::from(height))
    }

    /// Of several pictures together, the tensor that they become.
    pub(crate) fn allow_batch(&self, pictures: usize, found: usize) -> Result<(), ImageError> {
        if pictures > 1 {
            allow("bytes as one tensor", "MAX_DECODE_BYTES", self.decode_bytes, found as u64)
        } else {
            Ok(())
        }
    }

    fn allow_memory(&self, found: u64) -> Result<(), ImageError> {
        allow("bytes of memory to decode", "MAX_DECODE_BYTES", self.decode_bytes, found)
    }
}

fn allow(measure: &'static str, setting: &'static str, limit: u64, found: u64) -> Result<(), ImageError> {
    if found > limit {
        return Err(ImageError::TooLarge { measure, setting, limit, found });
    }
    Ok(())
}
