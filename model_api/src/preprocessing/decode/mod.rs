//! Image decoding, within limits of size and memory.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::error::{ImageError, format_name};
use super::limits::ImageLimits;
use super::settings::{Color, ImageSpec};
use jpeg::Ending;
use png::CHUNK_BYTES;
use raw_image::MAX_FULL_SCALE_PIXELS;
pub(super) use raw_image::RawImage;

mod box_filter;
mod headers;
mod jpeg;
mod png;
mod raw_image;
mod samples;
mod tiff;

#[cfg(test)]
mod tests;

/// Detects the format by its magic, checks the header against the limits, then decodes. Of an animation or a file with several
/// pages, it decodes the first image.
///
/// An image of more than 32 Mi pixels, or whose pixels would need more memory than `limits` allows, is decoded at a reduced scale
/// where the format supports it. For a `spec` with gray pixels, some formats return gray directly.
pub(super) fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<RawImage, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    limits.check_bytes(bytes.len())?;
    let format = headers::format(bytes)?;
    // The decoders are fuzzed, but they parse untrusted bytes in thousands of lines. A panic costs one request.
    catch_unwind(AssertUnwindSafe(|| decode_format(format, bytes, spec, limits))).unwrap_or_else(|_| {
        Err(ImageError::Undecodable { format: format_name(format), reason: "it makes the decoder panic".into() })
    })
}

/// Ignores whatever follows the image in the file.
fn decode_format(
    format: ImageFormat,
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
) -> Result<RawImage, ImageError> {
    match format {
        ImageFormat::Tiff => tiff::decode(bytes, spec, limits),
        ImageFormat::Jpeg => match jpeg::find_end(bytes)? {
            Ending::Marker(bytes) => decode_pixels(format, bytes, spec, limits),
            // Decoders treat a file without an end marker as truncated.
            Ending::NoMarker => decode_pixels(format, &[bytes, &jpeg::END].concat(), spec, limits),
        },
        ImageFormat::WebP => {
            let bytes = headers::webp_image(bytes);
            headers::webp_frames(bytes, |width, height| limits.check_size(width, height))?;
            decode_pixels(format, bytes, spec, limits)
        }
        _ => decode_pixels(format, bytes, spec, limits),
    }
}

/// The decoders were chosen by benchmark: see `docs/DECODING.md`.
fn decode_pixels(
    format: ImageFormat,
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
) -> Result<RawImage, ImageError> {
    let undecodable = |error: image::ImageError| ImageError::undecodable(format, &error);
    let mut decoder_limits = Limits::no_limits();
    decoder_limits.max_alloc = Some(match format {
        ImageFormat::Png => limits.decode_bytes.min(CHUNK_BYTES),
        _ => limits.decode_bytes,
    });
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(decoder_limits);
    let mut decoder = reader.into_decoder().map_err(undecodable)?;

    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let memory = peak_memory(format, bytes, &decoder);
    if u64::from(width) * u64::from(height) > MAX_FULL_SCALE_PIXELS || memory > limits.decode_bytes {
        if let Some(image) = decode_scaled(format, bytes, spec, limits)? {
            return Ok(RawImage { image, orientation });
        }
        limits.check_memory(memory)?;
    }
    if format == ImageFormat::Jpeg
        && let Some(reader) = jpeg::needs_own_decoder(bytes, spec.color())
    {
        limits.check_memory(reader.memory(1))?;
        let image = reader.decode(1).map_err(|_| ImageError::damaged(format))?;
        return Ok(RawImage { image, orientation });
    }
    let gray = if (format, spec.color()) == (ImageFormat::Jpeg, Color::Gray) { jpeg::decode_luma(bytes) } else { None };
    let image = match gray {
        Some(gray) => gray.into(),
        None => DynamicImage::from_decoder(decoder).map_err(undecodable)?,
    };
    Ok(RawImage { image: samples::apply_range(image, spec.range()), orientation })
}

/// The image at the largest scale of 1/2, 1/4 and 1/8 within the limits; `None` for a format without scaled decoding.
fn decode_scaled(
    format: ImageFormat,
    bytes: &[u8],
    spec: &ImageSpec,
    limits: &ImageLimits,
) -> Result<Option<DynamicImage>, ImageError> {
    match format {
        ImageFormat::Jpeg => {
            let damaged = |_: jpeg::Damaged| ImageError::damaged(format);
            let reduced = jpeg::ScaledJpeg::new(bytes, spec.color()).map_err(damaged)?;
            let divisor = limits.scale_divisor(|divisor| reduced.memory(divisor))?;
            reduced.decode(divisor).map(Some).map_err(damaged)
        }
        ImageFormat::Png => match png::PngReader::new(bytes) {
            Some(rows) => {
                let divisor = limits.scale_divisor(|divisor| rows.memory(divisor))?;
                rows.decode(divisor, spec.range()).map(Some)
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Peak memory of decoding at full scale: the pixels, the decoder's buffers, and the copy that flattening makes.
fn peak_memory(format: ImageFormat, bytes: &[u8], decoder: &impl ImageDecoder) -> u64 {
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    let beside = match format {
        // The 16-bit coefficients of three channels are kept until the last scan.
        ImageFormat::Jpeg if headers::jpeg_scan(bytes).is_none() => pixels * 6,
        // Lossy frames without transparency are kept as luma and chroma; others as four channels.
        ImageFormat::WebP if headers::is_lossy_webp(bytes) => pixels * 2,
        ImageFormat::WebP | ImageFormat::Gif => pixels * 4,
        _ => 0,
    };
    // Flattening copies pixels, except opaque pixels of these formats, which have no orientation.
    let copy = match (format, decoder.color_type()) {
        (ImageFormat::Bmp | ImageFormat::Pnm, ColorType::Rgb8 | ColorType::L8) => pixels,
        _ => pixels * 3,
    };
    decoder.total_bytes().saturating_add(beside).saturating_add(copy)
}
