//! Row-by-row PNG decoder at a reduced scale, for images whose pixels exceed the memory limit of one decoding.

use std::io::Cursor;

use image::DynamicImage;
use png::{BitDepth, ColorType, Decoder, Limits, Reader, Transformations};

use super::box_filter::BoxFilter;
use super::samples::levels_of_16;
use crate::preprocessing::error::ImageError;

/// Maximum size of a PNG's chunks beside the pixels, also decompressed; a colour profile that decompresses to more is ignored.
pub(super) const CHUNK_BYTES: u64 = 8 << 20;

/// The decoder's buffers of compressed and decompressed data.
const UNPACKING_BYTES: u64 = 256 << 10;

/// A PNG whose header is read.
pub(super) struct PngReader<'a> {
    reader: Reader<Cursor<&'a [u8]>>,
}

impl<'a> PngReader<'a> {
    /// Reads the header. `None` for a damaged image, and for an interlaced one, whose rows come in seven passes over the whole
    /// image.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CHUNK_BYTES as usize });
        decoder.set_transformations(Transformations::EXPAND);
        let reader = decoder.read_info().ok()?;
        (!reader.info().interlaced).then_some(Self { reader })
    }

    fn channels(&self) -> usize {
        match self.reader.output_color_type().0 {
            ColorType::GrayscaleAlpha => 2,
            ColorType::Rgb => 3,
            ColorType::Rgba => 4,
            _ => 1,
        }
    }

    /// Memory of [`Self::decode`] in bytes, including the image.
    pub(super) fn memory(&self, divisor: u32) -> u64 {
        let (width, height) = self.reader.info().size();
        // Two rows in the decoder with up to 16 bits per sample, and one row of 8 bits here.
        let rows = u64::from(width) * self.channels() as u64 * 5;
        BoxFilter::memory(width, height, self.channels(), divisor) + rows + UNPACKING_BYTES
    }

    /// Decodes the pixels, each the average of `divisor` × `divisor` pixels.
    pub(super) fn decode(mut self, divisor: u32, range: Option<[f64; 2]>) -> Result<DynamicImage, ImageError> {
        let damaged = || ImageError::Undecodable { format: "PNG", reason: "it is damaged or truncated".into() };
        let (width, height) = self.reader.info().size();
        let channels = self.channels();
        let is_wide = self.reader.output_color_type().1 == BitDepth::Sixteen;
        let levels = if is_wide { levels_of_16(range) } else { Vec::new() };
        let mut filter = BoxFilter::new(width, height, channels, divisor);
        let mut narrow = Vec::new();
        while let Some(row) = self.reader.next_row().map_err(|_| damaged())? {
            if !is_wide {
                filter.push(row.data());
                continue;
            }
            narrow.clear();
            narrow.extend(
                row.data().as_chunks::<2>().0.iter().map(|&sample| levels[usize::from(u16::from_be_bytes(sample))]),
            );
            if range.is_some() && channels.is_multiple_of(2) {
                // The range does not apply to alpha: its high byte is its level.
                for (pixel, wide) in narrow.chunks_exact_mut(channels).zip(row.data().chunks_exact(2 * channels)) {
                    pixel[channels - 1] = wide[2 * channels - 2];
                }
            }
            filter.push(&narrow);
        }
        filter.finish(height).ok_or_else(damaged)
    }
}
