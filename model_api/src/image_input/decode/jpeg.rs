use image::GrayImage;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::headers;

/// The brightness of a JPEG in colour: one of the three channels that it has, so the others need not be made.
///
/// By the decoder that the `image` crate uses as well, which cannot be asked for it there. `None` for what has no such channel
/// or is not decoded well without the others, and for what is damaged: `image` will say how.
pub(super) fn brightness(bytes: &[u8]) -> Option<GrayImage> {
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
