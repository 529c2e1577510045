//! Checks of a file before a decoder reads it: its format, and the sizes that a decoder would trust.

use image::ImageFormat;

use crate::preprocessing::error::ImageError;

/// Detects the format by its magic. File names and media types are not trusted.
pub(super) fn format(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    match image::guess_format(bytes) {
        _ if is_tiff(bytes) => Ok(ImageFormat::Tiff),
        Ok(
            format @ (ImageFormat::Png
            | ImageFormat::Jpeg
            | ImageFormat::Bmp
            | ImageFormat::Gif
            | ImageFormat::WebP
            | ImageFormat::Tiff
            | ImageFormat::Pnm),
        ) => Ok(format),
        _ => Err(ImageError::UnknownFormat { hint: hint(bytes) }),
    }
}

/// TIFF, or `BigTIFF`, whose magic the `image` crate does not recognise.
fn is_tiff(bytes: &[u8]) -> bool {
    matches!(bytes, [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..])
}

/// Names the likely format of unsupported bytes, to help the client.
fn hint(bytes: &[u8]) -> &'static str {
    let start = &bytes[..bytes.len().min(256)];
    match start {
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => "; this looks like AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "; this looks like HEIC or a video",
        [b'%', b'P', b'D', b'F', ..] => "; this looks like PDF",
        [0, 0, 1, 0, ..] => "; this looks like an icon file",
        _ if start.trim_ascii_start().starts_with(b"<") => "; this looks like SVG, XML or HTML",
        _ if start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) => "; this looks like text",
        _ => "",
    }
}

/// Number of channels in the first scan of a JPEG; the others follow in further scans. `None` for a progressive JPEG, for which
/// the decoder keeps all coefficients.
pub(super) fn jpeg_scan(bytes: &[u8]) -> Option<u8> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    // A segment is FF, a marker, and a length that includes itself. The frame header precedes the first scan.
    while let [0xFF, marker, tail @ ..] = rest {
        match (marker, tail) {
            (0xFF, _) => rest = &rest[1..],
            (0x01 | 0xD0..=0xD7, _) => rest = tail,
            (0xC2 | 0xC6 | 0xCA | 0xCE, _) => return None,
            (0xDA, [_, _, channels, ..]) => return Some(*channels),
            (0xD9 | 0xDA, _) => return Some(0),
            (_, [high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = tail.get(length..).unwrap_or_default();
            }
            _ => return Some(0),
        }
    }
    // Malformed: assume the kind that needs more memory.
    None
}

/// Walks the chunks of a WebP file and calls `allow` with the size in each frame header.
///
/// The decoder allocates memory by the frame's own header, which need not agree with the file's header, and for a metadata chunk
/// by its declared length. A chunk that declares more than the file contains is therefore rejected.
pub(super) fn webp_frames(bytes: &[u8], allow: impl Fn(u32, u32) -> Result<(), ImageError>) -> Result<(), ImageError> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let [name @ .., b0, b1, b2, b3] = rest.get(..8).unwrap_or_default() {
        let length = u32::from_le_bytes([*b0, *b1, *b2, *b3]) as usize;
        let Some(body) = rest.get(8..8 + length) else {
            // A truncated image can be decoded up to the truncation; other chunks cannot.
            return match name {
                b"VP8 " | b"VP8L" => frame(name, &rest[8..], &allow),
                _ => Err(ImageError::Undecodable { format: "WebP", reason: "a chunk ends after the file".into() }),
            };
        };
        match (name, body) {
            (b"ANMF", [_, _, _, _, _, _, w0, w1, w2, h0, h1, h2, _, _, _, _, inner @ ..]) => {
                let side = |bytes: [&u8; 3]| u32::from_le_bytes([*bytes[0], *bytes[1], *bytes[2], 0]) + 1;
                allow(side([w0, w1, w2]), side([h0, h1, h2]))?;
                // An animation's chunk contains a single frame, after its transparency.
                let mut inner = inner;
                while let [name @ .., b0, b1, b2, b3] = inner.get(..8).unwrap_or_default() {
                    frame(name, &inner[8..], &allow)?;
                    let length = u32::from_le_bytes([*b0, *b1, *b2, *b3]) as usize;
                    inner = inner.get(8 + length + length % 2..).unwrap_or_default();
                }
            }
            _ => frame(name, body, &allow)?,
        }
        rest = rest.get(8 + length + length % 2..).unwrap_or_default();
    }
    Ok(())
}

/// The size in a frame header: 14 bits per side, in both codecs of WebP.
fn frame(name: &[u8], body: &[u8], allow: impl Fn(u32, u32) -> Result<(), ImageError>) -> Result<(), ImageError> {
    match (name, body) {
        (b"VP8 ", [_, _, _, _, _, _, w0, w1, h0, h1, ..]) => {
            let side = |low: &u8, high: &u8| u32::from(u16::from_le_bytes([*low, *high]) & 0x3FFF);
            allow(side(w0, w1), side(h0, h1))
        }
        (b"VP8L", [_, b0, b1, b2, b3, ..]) => {
            let bits = u32::from_le_bytes([*b0, *b1, *b2, *b3]);
            allow((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        }
        _ => Ok(()),
    }
}

/// A WebP file without trailing bytes, by its declared length; all of it where that length is invalid.
pub(super) fn webp_image(bytes: &[u8]) -> &[u8] {
    let length =
        bytes.get(4..8).and_then(|length| length.first_chunk()).map_or(0, |length| u32::from_le_bytes(*length));
    let end = (length as usize).saturating_add(8);
    if end > 20 { bytes.get(..end).unwrap_or(bytes) } else { bytes }
}

/// Whether a WebP file is lossy and has no transparency.
pub(super) fn is_lossy_webp(bytes: &[u8]) -> bool {
    let has_alpha = |bytes: &[u8]| bytes.get(20).is_some_and(|flags| flags & 0x12 != 0);
    match bytes.get(12..16) {
        Some(b"VP8 ") => true,
        Some(b"VP8X") => !has_alpha(bytes) && !bytes.windows(4).take(1 << 16).any(|name| name == b"VP8L"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_likely_format() {
        for (bytes, word) in [
            (&b"\0\0\0\x18ftypheic"[..], "HEIC"),
            (b"\0\0\0\x18ftypavif", "AVIF"),
            (b"%PDF-1.7", "PDF"),
            (b"  <svg xmlns=", "SVG"),
            (b"http://169.254.169.254/", "text"),
            (b"\x01\x02\x03", ""),
        ] {
            let error = format(bytes).unwrap_err();
            assert!(matches!(error, ImageError::UnknownFormat { hint } if hint.contains(word)), "{error}");
        }
    }

    #[test]
    fn jpegs_with_several_scans_are_detected() {
        let jpeg = |frame: u8, channels: u8| {
            [0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2, 0xFF, frame, 0, 2, 0xFF, 0xDA, 0, 12, channels, 0, 0, 0]
        };
        assert_eq!(
            [jpeg(0xC0, 3), jpeg(0xC0, 1), jpeg(0xC2, 3)].map(|jpeg| jpeg_scan(&jpeg)),
            [Some(3), Some(1), None]
        );
        assert_eq!(
            [jpeg_scan(&jpeg(0xC0, 3)[..14]), jpeg_scan(&[0xFF, 0xD8, 0x00]), jpeg_scan(&[])],
            [Some(0), None, None]
        );
    }

    #[test]
    fn every_frame_size_in_a_webp_file_is_checked() {
        let chunk = |name: &[u8], body: &[u8]| [name, &(body.len() as u32).to_le_bytes(), body].concat();
        let lossless = chunk(b"VP8L", &[0x2F, 0xFF, 0xFF, 0xFF, 0x0F, 0]);
        let animated = chunk(b"ANMF", &[&[0; 6][..], &[9, 0, 0, 19, 0, 0], &[0; 4], &lossless].concat());
        let seen = std::cell::RefCell::new(Vec::new());
        let allow = |width, height| {
            seen.borrow_mut().push((width, height));
            Ok(())
        };
        webp_frames(&[&[0; 12][..], &lossless, &animated].concat(), allow).unwrap();
        assert_eq!(*seen.borrow(), [(16384, 16384), (10, 20), (16384, 16384)]);
        let endless = [&[0; 12][..], b"EXIF", &[0xF0, 0xFF, 0xFF, 0xFF], &[0; 8]].concat();
        assert!(matches!(webp_frames(&endless, allow), Err(ImageError::Undecodable { .. })));
    }
}
