//! Conversion of TIFF samples to 8-bit pixels.

use tiff::decoder::DecodingResult;

use super::super::samples::{level, level_of_16, levels_of_16};
use super::layout::{Alpha, Format, Layout, Photometric};

/// Converts samples to levels.
pub(super) struct Converter<'a> {
    layout: &'a Layout,
    range: Option<[f64; 2]>,
    /// Level of each 16-bit unsigned sample.
    levels: Vec<u8>,
}

impl<'a> Converter<'a> {
    /// `range` has the samples that become 0 and 255. Without it, integers use all values of their type.
    pub(super) fn new(layout: &'a Layout, range: Option<[f64; 2]>) -> Self {
        let is_wide = layout.format == Format::Unsigned && layout.bits == 16;
        Self { layout, range, levels: if is_wide { levels_of_16(range) } else { Vec::new() } }
    }

    /// The levels of a strip or tile with rows of `row` samples; the indices for a palette. `first` is the position of the first
    /// sample in its pixel, and `step` the number of samples per pixel.
    pub(super) fn levels(&self, samples: DecodingResult, row: usize, first: usize, step: usize) -> Vec<u8> {
        let layout = self.layout;
        let is_alpha = |at: usize| layout.alpha.is_some() && first + at % step == layout.color_samples();
        match samples {
            DecodingResult::U8(levels) if layout.bits == 8 => levels,
            DecodingResult::U8(bytes) => unpack_bits(&bytes, row, layout.bits, layout.photometric),
            DecodingResult::U16(samples) => {
                let level = |(at, &sample): (usize, &u16)| {
                    if is_alpha(at) { level_of_16(sample, None) } else { self.levels[usize::from(sample)] }
                };
                samples.iter().enumerate().map(level).collect()
            }
            samples => {
                let all = match layout.format {
                    Format::Float => [0.0, 1.0],
                    Format::Unsigned => [0.0, f64::from(layout.bits).exp2() - 1.0],
                    Format::Signed => [0.0, f64::from(layout.bits - 1).exp2() - 1.0],
                };
                let range = self.range.unwrap_or(all);
                let level = |(at, sample)| level(sample, if is_alpha(at) { all } else { range });
                numbers(&samples).enumerate().map(level).collect()
            }
        }
    }

    /// Appends a pixel of [`Layout::channels`] channels to the row. `levels` are its samples.
    pub(super) fn pixel(&self, levels: &[u8], row: &mut Vec<u8>) {
        let layout = self.layout;
        let alpha = layout.alpha.map(|_| levels[layout.color_samples()]);
        let whole = |level: u8| match (layout.alpha, alpha) {
            (Some(Alpha::Associated), Some(alpha)) => unpremultiply(level, alpha),
            _ => level,
        };
        match layout.photometric {
            Photometric::BlackIsZero => row.push(whole(levels[0])),
            Photometric::WhiteIsZero => row.push(255 - whole(levels[0])),
            Photometric::Rgb => row.extend([levels[0], levels[1], levels[2]].map(whole)),
            Photometric::Palette => row.extend(layout.palette.get(usize::from(levels[0])).copied().unwrap_or_default()),
            Photometric::YCbCr => row.extend(super::super::jpeg::from_ycbcr(levels[0], levels[1], levels[2])),
            Photometric::Cmyk => row.extend(from_cmyk([levels[0], levels[1], levels[2], levels[3]])),
        }
        row.extend(alpha);
    }
}

/// All samples as numbers.
pub(super) fn numbers(samples: &DecodingResult) -> Box<dyn Iterator<Item = f64> + '_> {
    match samples {
        DecodingResult::U8(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::U16(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::U32(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::U64(samples) => Box::new(samples.iter().map(|&sample| sample as f64)),
        DecodingResult::I8(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::I16(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::I32(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::I64(samples) => Box::new(samples.iter().map(|&sample| sample as f64)),
        DecodingResult::F16(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::F32(samples) => Box::new(samples.iter().map(|&sample| sample.into())),
        DecodingResult::F64(samples) => Box::new(samples.iter().copied()),
    }
}

/// Reverses premultiplied alpha.
fn unpremultiply(level: u8, alpha: u8) -> u8 {
    let (level, alpha) = (u32::from(level), u32::from(alpha));
    ((level * 255 + alpha / 2).checked_div(alpha).unwrap_or(0)).min(255) as u8
}

/// The conversion of the `image` crate.
fn from_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 1.0 - f32::from(black) / 255.0;
    [cyan, magenta, yellow].map(|ink| ((255.0 - f32::from(ink)) * light) as u8)
}

/// Unpacks samples of fewer than eight bits; each row starts at a byte.
fn unpack_bits(bytes: &[u8], row: usize, bits: u8, photometric: Photometric) -> Vec<u8> {
    let highest = (1_u32 << bits) - 1;
    let per_byte = usize::from(8 / bits);
    let level = |value: u32| match photometric {
        Photometric::Palette => value as u8,
        _ => (value * 255 / highest) as u8,
    };
    let sample = |bytes: &[u8], at: usize| {
        let shift = 8 - usize::from(bits) * (at % per_byte + 1);
        level(u32::from(bytes[at / per_byte]) >> shift & highest)
    };
    let rows = bytes.chunks_exact(row.div_ceil(per_byte).max(1));
    rows.flat_map(|bytes| (0..row).map(move |at| sample(bytes, at))).collect()
}
