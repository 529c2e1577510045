//! What of JPEG is read here: its brightness alone, its end, and its pixels at reduced scale.

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

/// How a file that has all of its image ends it.
pub(super) enum Ending<'a> {
    /// With an end marker: this is the image, without what follows it.
    Marker(&'a [u8]),
    /// With the last scan's last bit.
    NoMarker,
}

/// Where the image ends. Fails where it is cut, which decoders fill with gray and a model reads with confidence, and where its
/// coding is one that no decoder here reads.
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

/// The brightness of a JPEG in colour: one of the three channels that it has, so the others need not be made.
///
/// By the decoder that the `image` crate uses as well, which cannot be asked for it there. `None` for what has no such channel
/// or is not decoded well without the others, and for what is damaged: `image` will say how.
pub(super) fn decode_luma(bytes: &[u8]) -> Option<GrayImage> {
    // In several scans, and with chroma halved from top to bottom, `zune-jpeg` 0.5.15 gives a wrong brightness alone.
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
