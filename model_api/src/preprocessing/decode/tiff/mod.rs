//! TIFF and `BigTIFF`: gray, palette, RGB, CMYK and `YCbCr` with 1 to 64 bits, integers or floats, in strips, tiles or planes.
//!
//! The `tiff` crate decompresses strips and tiles. The meaning of their samples is decided here, because the `image` crate
//! rejects palettes, floats of one channel and all signed samples. Only one row of strips or tiles is in memory at a time, so
//! that a large image can be reduced while it is decoded.

use image::DynamicImage;
use image::metadata::Orientation;
use tiff::decoder::{ChunkType, Decoder, Limits};
use tiff::tags::Tag;

use super::box_filter::{BoxFilter, image_of};
use super::raw_image::{MAX_FULL_SCALE_PIXELS, RawImage};
use crate::preprocessing::error::ImageError;
use crate::preprocessing::limits::ImageLimits;
use crate::preprocessing::settings::ImageSpec;
use convert::{Converter, numbers};
use directory::Directory;
use error::{failed, undecodable};
use layout::{Format, Layout};
use photometric_override::PhotometricOverride;

mod convert;
mod directory;
mod error;
mod layout;
mod photometric_override;
mod zstd;

#[cfg(test)]
mod tests;

/// Maximum size of a tag's value.
const TAG_BYTES: usize = 8 << 20;

const IMAGE_WIDTH: u16 = 256;
const IMAGE_LENGTH: u16 = 257;
const SAMPLES_PER_PIXEL: u16 = 277;
const MAX_SAMPLES: u64 = 64;

/// Decodes the first image of a file.
pub(super) fn decode(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<RawImage, ImageError> {
    match zstd::decompress(bytes, limits.decode_bytes) {
        Some(Ok(copy)) => {
            // The decompressed copy is held in addition to everything else.
            let left = ImageLimits { decode_bytes: limits.decode_bytes.saturating_sub(copy.len() as u64), ..*limits };
            decode_uncompressed(&copy, spec, &left)
        }
        Some(Err(zstd::Failed::Damaged)) => Err(undecodable("it is damaged or truncated")),
        Some(Err(zstd::Failed::TooLarge(found))) => {
            limits.check_memory(found)?;
            Err(undecodable("it is damaged or truncated"))
        }
        None => decode_uncompressed(bytes, spec, limits),
    }
}

fn decode_uncompressed(bytes: &[u8], spec: &ImageSpec, limits: &ImageLimits) -> Result<RawImage, ImageError> {
    check_sizes(bytes, limits)?;
    let patched = PhotometricOverride::new(bytes);
    let photometric = patched.photometric;
    let mut decoder_limits = Limits::default();
    decoder_limits.decoding_buffer_size = usize::try_from(limits.decode_bytes).unwrap_or(usize::MAX);
    decoder_limits.intermediate_buffer_size = bytes.len();
    decoder_limits.ifd_value_size = TAG_BYTES.min(bytes.len());
    let mut decoder = Decoder::new(patched).map_err(|error| failed(&error))?.with_limits(decoder_limits);
    let (width, height) = decoder.dimensions().map_err(|error| failed(&error))?;
    limits.check_size(width, height)?;
    let layout = Layout::read(&mut decoder, photometric)?;
    let mut chunks = Chunks::new(decoder, &layout, bytes)?;
    let divisor = chunks.divisor(limits)?;
    let range = chunks.range(spec.range())?;
    let image = chunks.decode(&Converter::new(&layout, range), divisor)?;
    let orientation = Orientation::from_exif(layout.orientation).unwrap_or(Orientation::NoTransforms);
    Ok(RawImage { image, orientation })
}

/// Checks the numbers that the decoder multiplies without overflow checks.
fn check_sizes(bytes: &[u8], limits: &ImageLimits) -> Result<(), ImageError> {
    let Some(directory) = Directory::find(bytes) else { return Ok(()) };
    let largest = |tag| directory.numbers(tag).and_then(|numbers| numbers.into_iter().max());
    if largest(SAMPLES_PER_PIXEL).is_some_and(|samples| samples > MAX_SAMPLES) {
        return Err(undecodable("more than 64 samples per pixel are not supported; save it as gray or RGB"));
    }
    let side = |tag| largest(tag).map_or(1, |side| u32::try_from(side).unwrap_or(u32::MAX));
    limits.check_size(side(IMAGE_WIDTH), side(IMAGE_LENGTH))
}

/// Reader of the strips or tiles of an image.
struct Chunks<'a> {
    decoder: Decoder<PhotometricOverride<'a>>,
    layout: &'a Layout,
    /// Size of a chunk; those at the right and at the bottom may be smaller.
    width: u32,
    height: u32,
    /// Number of chunks horizontally and vertically.
    across: u32,
    down: u32,
}

impl<'a> Chunks<'a> {
    fn new(
        mut decoder: Decoder<PhotometricOverride<'a>>,
        layout: &'a Layout,
        bytes: &[u8],
    ) -> Result<Self, ImageError> {
        let (width, height) = decoder.chunk_dimensions();
        let (width, height) = (width.min(layout.width), height.min(layout.height));
        if width == 0 || height == 0 {
            return Err(undecodable("it is damaged or truncated"));
        }
        if layout.compression == 7 {
            check_jpegs(&mut decoder, bytes)?;
        }
        let (mut across, mut down) = (1, layout.height.div_ceil(height));
        if decoder.get_chunk_type() == ChunkType::Tile {
            let (tile_width, tile_height) = decoder.chunk_dimensions();
            (across, down) = (layout.width.div_ceil(tile_width), layout.height.div_ceil(tile_height));
        }
        Ok(Self { decoder, layout, width, height, across, down })
    }

    /// Divisor of the scale; 1 for full scale.
    fn divisor(&self, limits: &ImageLimits) -> Result<u32, ImageError> {
        let memory = |divisor| self.memory(divisor);
        let pixels = u64::from(self.layout.width) * u64::from(self.layout.height);
        // Flattening or the orientation copies opaque pixels once.
        if pixels <= MAX_FULL_SCALE_PIXELS && memory(1) + pixels * 3 <= limits.decode_bytes {
            return Ok(1);
        }
        limits.scale_divisor(memory)
    }

    /// Memory of decoding in bytes: samples and levels of one chunk, the pixels of a row of chunks, and the result.
    fn memory(&self, divisor: u32) -> u64 {
        let layout = self.layout;
        let chunk = u64::from(self.width) * u64::from(self.height) * layout.samples as u64;
        let bytes = u64::from(layout.bits.div_ceil(8)) + 1;
        let row = if self.across > 1 || divisor > 1 {
            u64::from(layout.width) * u64::from(self.height) * layout.samples as u64
        } else {
            0
        };
        chunk * bytes + row + BoxFilter::memory(layout.width, layout.height, layout.channels(), divisor)
    }

    /// The samples that become 0 and 255; `None` for all values of their type.
    fn range(&mut self, setting: Option<[f64; 2]>) -> Result<Option<[f64; 2]>, ImageError> {
        let layout = self.layout;
        let is_narrow = layout.format == Format::Unsigned && layout.bits <= 8;
        if is_narrow || setting.is_some() {
            return Ok(setting);
        }
        if let Some([low, high]) = layout.range {
            let [lowest, highest] = self.extremes()?;
            // A tag that the samples contradict is ignored.
            if low <= lowest && highest <= high {
                return Ok(Some([low, high]));
            }
        }
        match (layout.format, layout.bits) {
            (Format::Unsigned, 16) => Ok(None),
            (Format::Float, _) => {
                let [lowest, highest] = self.extremes()?;
                let fits = |high: f64| lowest >= 0.0 && highest <= high;
                let found = [1.0, 255.0].into_iter().find(|&high| fits(high));
                found.map(|high| Some([0.0, high])).ok_or_else(|| {
                    undecodable(&format!(
                        "its samples lie between {lowest} and {highest}, neither within 0 and 1 nor within 0 and 255; \
                         set \"range\" in the model's image settings"
                    ))
                })
            }
            (format, bits) => {
                let sign = if format == Format::Signed { "signed" } else { "unsigned" };
                Err(undecodable(&format!(
                    "it has {sign} samples of {bits} bits and declares no range for them; set \"range\" in the model's image \
                     settings"
                )))
            }
        }
    }

    /// The lowest and the highest colour sample. NaN does not count.
    fn extremes(&mut self) -> Result<[f64; 2], ImageError> {
        let mut found = [f64::INFINITY, f64::NEG_INFINITY];
        let planes = if self.layout.is_planar { self.layout.color_samples() as u32 } else { 1 };
        let step = if self.layout.is_planar { 1 } else { self.layout.samples };
        for chunk in 0..planes * self.across * self.down {
            let samples = self.decoder.read_chunk(chunk).map_err(|error| failed(&error))?;
            let colors = self.layout.color_samples().min(step);
            for (_, sample) in
                numbers(&samples).enumerate().filter(|(at, sample)| at % step < colors && !sample.is_nan())
            {
                found = [found[0].min(sample), found[1].max(sample)];
            }
        }
        Ok(found)
    }

    fn decode(&mut self, converter: &Converter, divisor: u32) -> Result<DynamicImage, ImageError> {
        let (width, height, channels) = (self.layout.width, self.layout.height, self.layout.channels());
        let damaged = || undecodable("it is damaged or truncated");
        if divisor > 1 {
            let mut filter = BoxFilter::new(width, height, channels, divisor);
            for row in 0..self.down {
                let mut pixels = Vec::new();
                self.read_row(converter, row, &mut pixels)?;
                pixels.chunks_exact(width as usize * channels).for_each(|row| filter.push(row));
            }
            return filter.finish(height).ok_or_else(damaged);
        }
        let mut pixels = Vec::with_capacity(width as usize * height as usize * channels);
        for row in 0..self.down {
            self.read_row(converter, row, &mut pixels)?;
        }
        image_of(width, height, channels, pixels).ok_or_else(damaged)
    }

    /// Appends the pixels of one row of strips or tiles.
    fn read_row(&mut self, converter: &Converter, row: u32, pixels: &mut Vec<u8>) -> Result<(), ImageError> {
        let samples = self.layout.samples;
        let is_plain = !self.layout.is_planar && samples == self.layout.channels() && self.layout.is_plain();
        let mut levels = Vec::new();
        let mut rows = 0;
        for column in 0..self.across {
            let (found, width, height) = self.read_chunk(converter, row * self.across + column)?;
            if self.across == 1 {
                levels = found;
            } else {
                levels.resize(self.layout.width as usize * samples * height, 0);
                let left = (column * self.width) as usize * samples;
                let to = levels.chunks_exact_mut(self.layout.width as usize * samples);
                for (to, from) in to.zip(found.chunks_exact(width * samples)) {
                    to[left..left + width * samples].copy_from_slice(from);
                }
            }
            rows = height;
        }
        if levels.len() < self.layout.width as usize * samples * rows {
            return Err(undecodable("it is damaged or truncated"));
        }
        if is_plain {
            pixels.append(&mut levels);
        } else {
            levels.chunks_exact(samples).for_each(|levels| converter.pixel(levels, pixels));
        }
        Ok(())
    }

    /// The levels of a chunk with interleaved samples, its width and its height.
    fn read_chunk(&mut self, converter: &Converter, chunk: u32) -> Result<(Vec<u8>, usize, usize), ImageError> {
        let samples = self.layout.samples;
        let (width, height) = self.decoder.chunk_data_dimensions(chunk);
        let (width, height) = (width as usize, height as usize);
        let read = |decoder: &mut Decoder<PhotometricOverride>, chunk| {
            decoder.read_chunk(chunk).map_err(|error| failed(&error))
        };
        if !self.layout.is_planar {
            let found = read(&mut self.decoder, chunk)?;
            return Ok((converter.levels(found, width * samples, 0, samples), width, height));
        }
        let mut levels = vec![0; width * height * samples];
        for index in 0..samples {
            let found = read(&mut self.decoder, chunk + index as u32 * self.across * self.down)?;
            let found = converter.levels(found, width, index, 1);
            for (pixel, level) in levels.chunks_exact_mut(samples).zip(found) {
                pixel[index] = level;
            }
        }
        Ok((levels, width, height))
    }
}

/// The decoder allocates memory by the header of an embedded JPEG, which need not agree with the size of its strip or tile.
fn check_jpegs(decoder: &mut Decoder<PhotometricOverride>, bytes: &[u8]) -> Result<(), ImageError> {
    let (width, height) = decoder.chunk_dimensions();
    let mut numbers = |strips, tiles| match decoder.get_tag_u64_vec(strips) {
        Ok(numbers) => Ok(numbers),
        Err(_) => decoder.get_tag_u64_vec(tiles).map_err(|error| failed(&error)),
    };
    let starts = numbers(Tag::StripOffsets, Tag::TileOffsets)?;
    let lengths = numbers(Tag::StripByteCounts, Tag::TileByteCounts)?;
    for (start, length) in starts.into_iter().zip(lengths) {
        let part = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
        let part = part.map(|part| &part[..part.len().min(usize::try_from(length).unwrap_or(usize::MAX))]);
        let size = part.and_then(super::jpeg::size);
        if size.is_none_or(|(across, down)| across > width || down > height.max(8).next_multiple_of(8)) {
            return Err(undecodable("a strip or tile is larger than the image says"));
        }
    }
    Ok(())
}
