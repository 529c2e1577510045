//! PNG row by row at reduced scale, for images whose pixels would not fit in the memory that one decoding may take.

use std::io::Cursor;

use image::DynamicImage;
use png::{BitDepth, ColorType, Decoder, Limits, Reader, Transformations};

use super::box_filter::BoxFilter;
use super::samples::levels_of_16;
use crate::preprocessing::error::ImageError;

/// A PNG's chunks beside the pixels may hold and unpack this much; a colour profile that unpacks to more is left out.
pub(super) const CHUNK_BYTES: u64 = 8 << 20;

/// What the decoder keeps of the compressed data and of what it has unpacked.
const UNPACKING_BYTES: u64 = 256 << 10;

/// A PNG whose header has been read.
pub(super) struct PngReader<'a> {
    reader: Reader<Cursor<&'a [u8]>>,
}

impl<'a> PngReader<'a> {
    /// Reads the header. `None` for an interlaced image, whose rows come in seven passes over all of it, and for what is damaged.
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

    /// Bytes that [`Self::decode`] takes, the image included.
    pub(super) fn memory(&self, divisor: u32) -> u64 {
        let (width, height) = self.reader.info().size();
        // Two rows in the decoder, of 16 bits a sample at the most, and one of 8 here.
        let rows = u64::from(width) * self.channels() as u64 * 5;
        BoxFilter::memory(width, height, self.channels(), divisor) + rows + UNPACKING_BYTES
    }

    /// The pixels, each the average of `divisor` by `divisor`.
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
                // Transparency has no range but its own; its high byte is its level.
                for (pixel, wide) in narrow.chunks_exact_mut(channels).zip(row.data().chunks_exact(2 * channels)) {
                    pixel[channels - 1] = wide[2 * channels - 2];
                }
            }
            filter.push(&narrow);
        }
        filter.finish(height).ok_or_else(damaged)
    }
}
