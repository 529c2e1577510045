use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Limits, Pixel, imageops};

use super::error::{ImageError, format_name};
use super::limits::ImageLimits;
use super::settings::{Color, ImageSpec};
use jpeg::Ended;

mod headers;
mod jpeg;
mod png;
mod reduce;
mod samples;
mod tiff;

#[cfg(test)]
mod tests;

/// A PNG's chunks beside the pixels may hold and unpack this much; a colour profile that unpacks to more is left out.
const PNG_CHUNK_BYTES: u64 = 8 << 20;

/// The pixels as the file has them, and how they are to be turned.
pub(super) struct Decoded {
    image: DynamicImage,
    orientation: Orientation,
}

/// Up to here an image is decoded in full, whatever the model's size.
const FULL_PIXELS: u64 = 32 << 20;

/// Tells the format by magic, holds the header against the limits, then decodes. Of an animation or a file of several pages, the
/// first image.
///
/// An image of more than 32 Mi pixels, or whose pixels would take more memory than `limits` has, is decoded at a reduced scale where
/// its format can be. `spec` says what will be made of the pixels: where that is gray, some come gray already.
pub(super) fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Decoded, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    limits.allow_bytes(bytes.len())?;
    let format = headers::format(bytes)?;
    // The decoders are fuzzed, but thousands of lines that read what strangers send: a slip costs one request.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, spec, limits))).unwrap_or_else(|_| {
        Err(ImageError::Undecodable { format: format_name(format), reason: "it breaks the decoder".into() })
    })
}

/// What follows the image in the file is left out, whatever it is.
fn decode_as(format: ImageFormat, bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<Decoded, ImageError> {
    match format {
        ImageFormat::Tiff => tiff::decode(bytes, spec, limits),
        ImageFormat::Jpeg => match jpeg::image(bytes)? {
            Ended::Whole(bytes) => decode_pixels(format, bytes, spec, limits),
            // Decoders take a file that runs out for one that is cut.
            Ended::WithoutMarker => decode_pixels(format, &[bytes, &jpeg::END].concat(), spec, limits),
        },
        ImageFormat::WebP => {
            let bytes = headers::webp_image(bytes);
            headers::webp_frames(bytes, |width, height| limits.allow_size(width, height))?;
            decode_pixels(format, bytes, spec, limits)
        }
        _ => decode_pixels(format, bytes, spec, limits),
    }
}

/// The decoders were chosen by measuring: see `docs/DECODING.md`.
fn decode_pixels(
    format: ImageFormat,
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
) -> Result<Decoded, ImageError> {
    let undecodable = |error: image::ImageError| ImageError::undecodable(format, &error);
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
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let memory = memory(format, bytes, &decoder);
    if u64::from(width) * u64::from(height) > FULL_PIXELS || memory > limits.decode_bytes {
        if let Some(image) = reduced(format, bytes, spec, limits)? {
            return Ok(Decoded { image, orientation });
        }
        limits.allow_memory(memory)?;
    }
    if format == ImageFormat::Jpeg
        && let Some(reader) = jpeg::misread(bytes, spec.color())
    {
        limits.allow_memory(reader.memory(1))?;
        let image = reader.decode(1).map_err(|_| ImageError::damaged(format))?;
        return Ok(Decoded { image, orientation });
    }
    let gray = if (format, spec.color()) == (ImageFormat::Jpeg, Color::Gray) { jpeg::brightness(bytes) } else { None };
    let image = match gray {
        Some(gray) => gray.into(),
        None => DynamicImage::from_decoder(decoder).map_err(undecodable)?,
    };
    Ok(Decoded { image: samples::ranged(image, spec.range()), orientation })
}

/// The image at the largest scale of 1/2, 1/4 and 1/8 that is within the limits; `None` for a format that is only decoded in full.
fn reduced(
    format: ImageFormat,
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
) -> Result<Option<DynamicImage>, ImageError> {
    match format {
        ImageFormat::Jpeg => {
            let damaged = |_: jpeg::Damaged| ImageError::damaged(format);
            let reduced = jpeg::Reduced::new(bytes, spec.color()).map_err(damaged)?;
            let divisor = limits.divisor(|divisor| reduced.memory(divisor))?;
            reduced.decode(divisor).map(Some).map_err(damaged)
        }
        ImageFormat::Png => match png::PngRows::new(bytes) {
            Some(rows) => {
                let divisor = limits.divisor(|divisor| rows.memory(divisor))?;
                rows.decode(divisor, spec.range()).map(Some)
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// What decoding in full takes at its peak: the pixels, what the decoder keeps beside them, and our own copy after.
fn memory(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder) -> u64 {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let beside = match format {
        // All coefficients of three channels, 16 bits each, wait until the last scan has come.
        ImageFormat::Jpeg if headers::jpeg_scan(bytes).is_none() => pixels * 6,
        // Without transparency, brightness and colours of a frame; with it, a frame of four channels.
        ImageFormat::WebP if headers::is_lossy_webp(bytes) => pixels * 2,
        ImageFormat::WebP | ImageFormat::Gif => pixels * 4,
        _ => 0,
    };
    // Colours become gray, transparency is resolved; opaque colours of these formats, which are never turned, stay as they are.
    let copy = match (format, decoder.color_type()) {
        (ImageFormat::Bmp | ImageFormat::Pnm, ColorType::Rgb8 | ColorType::L8) => pixels,
        _ => pixels * 3,
    };
    decoder.total_bytes().saturating_add(beside).saturating_add(copy)
}

impl Decoded {
    /// Flattens the pixels to one or three channels, and turns those few bytes rather than the many.
    pub(super) fn upright<P>(
        self,
        flatten: impl FnOnce(DynamicImage) -> ImageBuffer<P, Vec<u8>>,
    ) -> ImageBuffer<P, Vec<u8>>
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
