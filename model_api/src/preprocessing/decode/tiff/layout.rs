//! Sample layout of a TIFF file's first image, from its tags.

use tiff::decoder::Decoder;
use tiff::decoder::ifd::Value;
use tiff::tags::Tag;

use super::error::undecodable;
use super::photometric_override::PhotometricOverride;
use crate::preprocessing::error::ImageError;

/// Colour space of a pixel's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

/// Kind of alpha channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpha {
    /// Premultiplied colours.
    Associated,
    Unassociated,
}

/// Number format of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Unsigned,
    Signed,
    Float,
}

/// Sample layout of the first image.
pub(super) struct Layout {
    pub width: u32,
    pub height: u32,
    pub photometric: Photometric,
    pub alpha: Option<Alpha>,
    pub format: Format,
    pub bits: u8,
    /// Samples per pixel in the file, including those that are ignored.
    pub samples: usize,
    /// Whether each sample has its own strips or tiles.
    pub is_planar: bool,
    pub compression: u16,
    /// Red, green and blue of each index.
    pub palette: Vec<[u8; 3]>,
    /// The lowest and the highest sample, from the tags.
    pub range: Option<[f64; 2]>,
    pub orientation: u8,
}

impl Layout {
    pub(super) fn read(
        decoder: &mut Decoder<PhotometricOverride>,
        photometric: Option<u16>,
    ) -> Result<Self, ImageError> {
        let (width, height) = decoder.dimensions().map_err(|_| damaged())?;
        let photometric = photometric_of(photometric)?;
        let numbers = |decoder: &mut Decoder<PhotometricOverride>, tag| -> Result<Vec<f64>, ImageError> {
            Ok(decoder.find_tag(tag).map_err(|_| damaged())?.map(numbers).unwrap_or_default())
        };
        let mut number = |tag, default: u16| -> Result<u16, ImageError> {
            Ok(numbers(decoder, tag)?.first().map_or(default, |&number| number as u16))
        };
        let bits = u8::try_from(number(Tag::BitsPerSample, 1)?).map_err(|_| damaged())?;
        let samples = usize::from(number(Tag::SamplesPerPixel, 1)?);
        let compression = number(Tag::Compression, 1)?;
        let is_planar = number(Tag::PlanarConfiguration, 1)? == 2 && samples > 1;
        let orientation = number(Tag::Orientation, 1)? as u8;
        let format = match number(Tag::SampleFormat, 1)? {
            2 => Format::Signed,
            3 => Format::Float,
            1 | 4 => Format::Unsigned,
            _ => return Err(undecodable("TIFF with complex samples is not supported; save it as integers or floats")),
        };
        let extra = numbers(decoder, Tag::ExtraSamples)?.first().copied();
        let alpha = match (photometric, extra) {
            (_, Some(1.0)) => Some(Alpha::Associated),
            (_, Some(2.0)) => Some(Alpha::Unassociated),
            // Writers that omit the tag use a fourth channel as alpha.
            (Photometric::Rgb, None) if samples == 4 => Some(Alpha::Unassociated),
            _ => None,
        };
        let palette = if photometric == Photometric::Palette {
            palette(&numbers(decoder, Tag::ColorMap)?, bits)?
        } else {
            Vec::new()
        };
        let range = range(
            [&numbers(decoder, Tag::SMinSampleValue)?, &numbers(decoder, Tag::SMaxSampleValue)?],
            [&numbers(decoder, Tag::MinSampleValue)?, &numbers(decoder, Tag::MaxSampleValue)?],
        );
        let subsampling = numbers(decoder, Tag::ChromaSubsampling)?;
        let layout = Self {
            width,
            height,
            photometric,
            alpha,
            format,
            bits,
            samples,
            is_planar,
            compression,
            palette,
            range,
            orientation,
        };
        layout.check(&subsampling)?;
        Ok(layout)
    }

    /// Colour samples per pixel, without alpha.
    pub(super) fn color_samples(&self) -> usize {
        match self.photometric {
            Photometric::WhiteIsZero | Photometric::BlackIsZero | Photometric::Palette => 1,
            Photometric::Rgb | Photometric::YCbCr => 3,
            Photometric::Cmyk => 4,
        }
    }

    /// Channels of the result, 1 to 4.
    pub(super) fn channels(&self) -> usize {
        let colors = match self.photometric {
            Photometric::WhiteIsZero | Photometric::BlackIsZero => 1,
            _ => 3,
        };
        colors + usize::from(self.alpha.is_some())
    }

    /// Whether levels are pixels without conversion.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.photometric, Photometric::BlackIsZero | Photometric::Rgb) && self.alpha != Some(Alpha::Associated)
    }

    fn check(&self, subsampling: &[f64]) -> Result<(), ImageError> {
        if self.samples < self.color_samples() + usize::from(self.alpha.is_some()) {
            return Err(damaged());
        }
        let name = match self.compression {
            1 | 5 | 7 | 8 | 32_946 | 32_773 => None,
            4 if self.bits == 1 && self.samples == 1 => None,
            2 => Some("CCITT RLE"),
            3 | 4 => Some("CCITT fax"),
            6 => Some("old-style JPEG"),
            34_712 | 33_003 | 33_005 => Some("JPEG 2000"),
            34_887 => Some("LERC"),
            34_925 => Some("LZMA"),
            50_001 => Some("WebP"),
            50_002 | 52_546 => Some("JPEG XL"),
            _ => Some("an unknown compression"),
        };
        if let Some(name) = name {
            let remedy = "save it with LZW, Deflate or no compression";
            return Err(undecodable(&format!("TIFF with {name} ({}) is not supported; {remedy}", self.compression)));
        }
        if self.photometric == Photometric::YCbCr && self.compression != 7 && subsampling != [1.0, 1.0] {
            return Err(undecodable(
                "TIFF in YCbCr with reduced colours is supported with JPEG compression only; save it as RGB",
            ));
        }
        let is_readable = match (self.format, self.photometric) {
            (Format::Float, _) => matches!(self.bits, 16 | 32 | 64),
            (_, Photometric::Palette) => matches!(self.bits, 1 | 2 | 4 | 8),
            _ => matches!(self.bits, 1 | 2 | 4 | 8 | 16 | 32 | 64),
        };
        if !is_readable {
            let bits = self.bits;
            return Err(undecodable(&format!(
                "TIFF with {bits} bits per sample is not supported; save it with 8, 16, 32 or 64"
            )));
        }
        Ok(())
    }
}

fn damaged() -> ImageError {
    undecodable("it is damaged or truncated")
}

fn photometric_of(number: Option<u16>) -> Result<Photometric, ImageError> {
    let name = match number {
        Some(0) => return Ok(Photometric::WhiteIsZero),
        Some(1) => return Ok(Photometric::BlackIsZero),
        Some(2) => return Ok(Photometric::Rgb),
        Some(3) => return Ok(Photometric::Palette),
        Some(5) => return Ok(Photometric::Cmyk),
        Some(6) => return Ok(Photometric::YCbCr),
        Some(4) => "a transparency mask",
        Some(8..=10) => "L*a*b* colours",
        Some(32_803 | 34_892) => "a camera's raw data",
        Some(32_844 | 32_845) => "LogLuv colours",
        Some(_) => "an unknown photometric interpretation",
        None => return Err(undecodable("it has no photometric interpretation")),
    };
    Err(undecodable(&format!("TIFF with {name} is not supported; save it as gray or RGB")))
}

/// Red of all indices first, then green, then blue, with 16 bits each; some writers use only 8 of them.
fn palette(map: &[f64], bits: u8) -> Result<Vec<[u8; 3]>, ImageError> {
    let count = 1_usize << bits.min(8);
    if map.len() < 3 * count {
        return Err(damaged());
    }
    let is_narrow = map.iter().all(|&value| value < 256.0);
    let level = |value: f64| if is_narrow { value as u8 } else { (value as u32 >> 8) as u8 };
    Ok((0..count).map(|index| [0, 1, 2].map(|channel| level(map[channel * count + index]))).collect())
}

/// The range from the tags `[lowest, highest]`: tags of any type first, then tags of unsigned numbers.
fn range(any: [&[f64]; 2], unsigned: [&[f64]; 2]) -> Option<[f64; 2]> {
    let of = |[low, high]: [&[f64]; 2]| {
        let high = high.iter().copied().reduce(f64::max)?;
        let low = low.iter().copied().reduce(f64::min).unwrap_or(0.0);
        (low < high && low.is_finite() && high.is_finite()).then_some([low, high])
    };
    of(any).or_else(|| of(unsigned))
}

/// All numbers of a tag's value.
fn numbers(value: Value) -> Vec<f64> {
    match value {
        Value::Byte(number) => vec![number.into()],
        Value::Short(number) => vec![number.into()],
        Value::SignedByte(number) => vec![number.into()],
        Value::SignedShort(number) => vec![number.into()],
        Value::Signed(number) => vec![number.into()],
        Value::SignedBig(number) => vec![number as f64],
        Value::Unsigned(number) => vec![number.into()],
        Value::UnsignedBig(number) => vec![number as f64],
        Value::Float(number) => vec![number.into()],
        Value::Double(number) => vec![number],
        Value::List(values) => values.into_iter().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}
