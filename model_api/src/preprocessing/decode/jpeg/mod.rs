//! JPEG: luma alone, the end of the image, and decoding at a reduced scale.

use image::GrayImage;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::headers;

mod blocks;
mod frame;
mod huffman;
mod idct;
mod plane;
mod scaled;
mod scan;
mod segments;

#[cfg(test)]
mod tests;

pub(super) use huffman::Damaged;
pub(super) use scaled::{ScaledJpeg, from_ycbcr, needs_own_decoder, size};

use crate::preprocessing::error::ImageError;

/// The end marker.
pub(super) const END: [u8; 2] = [0xFF, segments::EOI];

/// How a complete file ends.
pub(super) enum Ending<'a> {
    /// With an end marker. The bytes are the image, without what follows it.
    Marker(&'a [u8]),
    /// With the last bit of the last scan.
    NoMarker,
}

/// Finds the end of the image. Fails for a truncated file, since decoders fill the missing part with gray and a model would
/// classify it confidently, and for a coding that is not supported.
pub(super) fn find_end(bytes: &[u8]) -> Result<Ending<'_>, ImageError> {
    let undecodable = |reason: &str| ImageError::Undecodable { format: "JPEG", reason: reason.into() };
    let markers = segments::scan_markers(bytes);
    if let Some(reason) = markers.frame.and_then(segments::unsupported) {
        return Err(undecodable(reason));
    }
    match markers.end {
        Some(end) => Ok(Ending::Marker(&bytes[..end])),
        None if scaled::is_complete(bytes) => Ok(Ending::NoMarker),
        None => Err(undecodable("it ends early")),
    }
}

/// The luma of a JPEG in colour: it is one of the three channels, so the others need not be decoded.
///
/// It uses the decoder of the `image` crate, which has no option for this. `None` for a file without such a channel, for one that
/// is decoded incorrectly without the others, and for a damaged one: `image` reports its error.
pub(super) fn decode_luma(bytes: &[u8]) -> Option<GrayImage> {
    // With several scans, or chroma that is subsampled vertically, `zune-jpeg` 0.5.15 returns wrong luma.
    if headers::jpeg_scan(bytes) != Some(3) {
        return None;
    }
    let options = DecoderOptions::default().set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::Luma);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().ok()?;
    if decoder.input_colorspace()? != ColorSpace::YCbCr {
        return None;
    }
    let (width, height) = decoder.dimensions()?;
    let pixels = decoder.decode().ok()?;
    GrayImage::from_raw(width as u32, height as u32, pixels)
}
