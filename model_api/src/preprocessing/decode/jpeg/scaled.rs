//! Decoding of a JPEG at 1/1, 1/2, 1/4 or 1/8 of its width and height.

use image::{DynamicImage, GrayImage, RgbImage};

use super::super::headers;
use super::frame::Frame;
use super::huffman::Damaged;
use super::plane::Plane;
use super::scan::Decoder;
use crate::preprocessing::settings::Color;

/// A JPEG whose header is read.
pub(in super::super) struct ScaledJpeg<'a> {
    decoder: Decoder<'a>,
    color: Color,
}

impl<'a> ScaledJpeg<'a> {
    /// Reads the header.
    pub(in super::super) fn new(bytes: &'a [u8], color: Color) -> Result<Self, Damaged> {
        let decoder = Decoder::new(bytes)?;
        Ok(Self { decoder, color })
    }

    /// Memory of [`Self::decode`] in bytes, including the image.
    pub(in super::super) fn memory(&self, divisor: u32) -> u64 {
        let frame = &self.decoder.frame;
        let (width, height) = reduced_size(frame, divisor);
        let planes = self.sizes(divisor).into_iter().enumerate().map(|(index, size)| Plane::memory(frame, index, size));
        planes.sum::<u64>() + 3 * (width * height) as u64
    }

    /// Decodes the pixels, each the average of `divisor` × `divisor` pixels; `divisor` is 1, 2, 4 or 8.
    pub(in super::super) fn decode(mut self, divisor: u32) -> Result<DynamicImage, Damaged> {
        let sizes = self.sizes(divisor);
        self.decoder.decode(&sizes)?;
        let (width, height) = reduced_size(&self.decoder.frame, divisor);
        let pixels = self.pixels(width, height);
        let (width, height) = (width as u32, height as u32);
        Ok(match self.channels() {
            1 => GrayImage::from_raw(width, height, pixels).ok_or(Damaged)?.into(),
            _ => RgbImage::from_raw(width, height, pixels).ok_or(Damaged)?.into(),
        })
    }

    /// Channels of the result.
    fn channels(&self) -> usize {
        let is_gray = self.decoder.frame.components.len() < 3;
        if is_gray || (self.color == Color::Gray && self.transform() == Transform::YCbCr) { 1 } else { 3 }
    }

    fn sizes(&self, divisor: u32) -> Vec<usize> {
        let count = self.decoder.frame.components.len();
        let wanted = if self.channels() == 1 { 1 } else { count };
        (0..count).map(|index| if index < wanted { (8 / divisor) as usize } else { 0 }).collect()
    }

    fn transform(&self) -> Transform {
        let (frame, tables) = (&self.decoder.frame, &self.decoder.tables);
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (ids.len(), tables.adobe) {
            (4, Some(2)) => Transform::Ycck,
            (4, _) => Transform::Cmyk,
            (_, Some(0)) => Transform::Rgb,
            (_, None) if !tables.is_jfif && ids == *b"RGB" => Transform::Rgb,
            _ => Transform::YCbCr,
        }
    }

    fn pixels(&self, width: usize, height: usize) -> Vec<u8> {
        let frame = &self.decoder.frame;
        let channels = self.channels();
        let transform = self.transform();
        let mut pixels = Vec::with_capacity(width * height * channels);
        for y in 0..height {
            let row = |index: usize| {
                let (component, plane) = (&frame.components[index], &self.decoder.planes[index]);
                let start = y * component.v / frame.v_max * plane.width;
                (&plane.pixels[start..start + plane.width], component.h)
            };
            if channels == 1 {
                pixels.extend_from_slice(&row(0).0[..width]);
                continue;
            }
            let rows: Vec<_> = (0..frame.components.len()).map(row).collect();
            let level = |index: usize, x: usize| rows.get(index).map_or(255, |(row, h)| row[x * h / frame.h_max]);
            for x in 0..width {
                pixels.extend(transform.rgb([level(0, x), level(1, x), level(2, x), level(3, x)]));
            }
        }
        pixels
    }
}

/// An image that `zune-jpeg` 0.5.15 decodes incorrectly, with errors of up to all levels: channels in scans of their own, some of
/// them subsampled vertically. `None` for all others.
pub(in super::super) fn needs_own_decoder(bytes: &[u8], color: Color) -> Option<ScaledJpeg<'_>> {
    headers::jpeg_scan(bytes).filter(|count| matches!(count, 1 | 2))?;
    let reader = ScaledJpeg::new(bytes, color).ok()?;
    let components = &reader.decoder.frame.components;
    components.iter().any(|component| component.v != components[0].v).then_some(reader)
}

/// Whether a file without an end marker contains its whole image. Keeps no pixels.
pub(in super::super) fn is_complete(bytes: &[u8]) -> bool {
    let complete = |mut decoder: Decoder| decoder.decode(&vec![0; decoder.frame.components.len()]).is_ok();
    Decoder::new(bytes).is_ok_and(complete)
}

/// Width and height in the header.
pub(in super::super) fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let frame = Decoder::new(bytes).ok()?.frame;
    Some((frame.width as u32, frame.height as u32))
}

fn reduced_size(frame: &Frame, divisor: u32) -> (usize, usize) {
    (frame.width.div_ceil(divisor as usize), frame.height.div_ceil(divisor as usize))
}

/// Colour space of the channels.
#[derive(Clone, Copy, PartialEq)]
enum Transform {
    Rgb,
    YCbCr,
    /// Inverted, as Adobe writes it.
    Cmyk,
    Ycck,
}

impl Transform {
    fn rgb(self, [a, b, c, black]: [u8; 4]) -> [u8; 3] {
        let over_black = |level: u8| ((u32::from(level) * u32::from(black) + 127) / 255) as u8;
        match self {
            Self::Rgb => [a, b, c],
            Self::YCbCr => from_ycbcr(a, b, c),
            Self::Cmyk => [a, b, c].map(over_black),
            Self::Ycck => from_ycbcr(a, b, c).map(|level| over_black(255 - level)),
        }
    }
}

/// Colour conversion of JFIF, in fixed point.
pub(in super::super) fn from_ycbcr(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    let (luma, blue, red) = (i32::from(luma) << 16, i32::from(blue) - 128, i32::from(red) - 128);
    [luma + 91_881 * red, luma - 22_554 * blue - 46_802 * red, luma + 116_130 * blue]
        .map(|level| ((level + 0x8000) >> 16).clamp(0, 255) as u8)
}
