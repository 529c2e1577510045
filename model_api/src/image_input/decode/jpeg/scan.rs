//! JPEG decoder at reduced scale: reads all coefficients and keeps the lowest few frequencies of each block.
//!
//! A photo of 48 megapixels takes 144 MB as colours, and a progressive one of 64 takes 400 MB of coefficients before the first colour.
//! A model looks at a thousandth of that. At a scale of N/8, a block of 8×8 pixels is made of its N×N lowest frequencies alone, as
//! libjpeg does it: the memory falls with the square of the scale, and the result is a better average than picking pixels.
//! `zune-jpeg` has no such scale.
//!
//! The same reader, keeping nothing, tells whether a file without an end marker has all of its image.

use super::blocks::BlockReader;
use super::entropy::{Bits, Damaged};
use super::frame::{Component, Frame, Scan, Tables};
use super::inverse::Inverse;
use super::segments;

/// Which place of an 8×8 block the coefficients come for, in the order in which they come.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Where a coefficient that is not kept would be.
pub(super) const DROPPED: u8 = 255;

/// What is kept of one channel.
pub(super) struct Plane {
    /// Pixels a block has on each side; 0 where nothing of the channel is wanted.
    pub size: usize,
    /// For each coefficient in zigzag order its place in a kept block, or [`DROPPED`].
    pub places: [u8; 64],
    /// Pixels, `width` in a row.
    pub pixels: Vec<u8>,
    pub width: usize,
    /// Of a progressive image: coefficients, `size`² for each block.
    pub coefficients: Vec<i16>,
    /// Of a progressive image: which coefficients are other than 0, in zigzag order from the lowest bit on.
    pub history: Vec<u64>,
    /// The last block's first coefficient.
    pub prediction: i32,
}

impl Plane {
    /// `size` pixels a side and block.
    fn new(frame: &Frame, component: usize, size: usize) -> Self {
        let (across, down) = frame.components[component].padded;
        let place = |zigzag: usize| {
            let (x, y) = (usize::from(ZIGZAG[zigzag] % 8), usize::from(ZIGZAG[zigzag] / 8));
            if x < size && y < size { (y * size + x) as u8 } else { DROPPED }
        };
        let blocks = if frame.progressive { across * down } else { 0 };
        Self {
            size,
            places: std::array::from_fn(place),
            pixels: vec![0; across * down * size * size],
            width: across * size,
            coefficients: vec![0; blocks * size * size],
            history: vec![0; blocks],
            prediction: 0,
        }
    }

    /// Bytes that [`Plane::new`] takes.
    pub(super) fn memory(frame: &Frame, component: usize, size: usize) -> u64 {
        let (across, down) = frame.components[component].padded;
        let block = size * size * if frame.progressive { 3 } else { 1 } + if frame.progressive { 8 } else { 0 };
        (across * down * block) as u64
    }
}

/// A decoder between two scans.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    pub frame: Frame,
    pub tables: Tables,
    pub planes: Vec<Plane>,
    /// Of the segment or data that come next.
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Reads up to the frame's header. Takes no memory for pixels.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (mut at, mut tables) = (2, Tables::default());
        while let Some((marker, after)) = segments::next_marker(bytes, at) {
            at = after;
            if matches!(marker, 0x01 | 0xD0..=segments::EOI) {
                continue;
            }
            let body = segments::body(bytes, after).ok_or(Damaged)?;
            at += 2 + body.len();
            if segments::is_frame(marker) {
                let frame = Frame::parse(marker, body).ok_or(Damaged)?;
                return Ok(Self { bytes, frame, tables, planes: Vec::new(), at });
            }
            tables.read(marker, body).ok_or(Damaged)?;
        }
        Err(Damaged)
    }

    /// Decodes all scans, keeping of each channel as many pixels a side and block as `sizes` has for it. Fails unless every block has come
    /// with all of its bits.
    pub(super) fn decode(&mut self, sizes: &[usize]) -> Result<(), Damaged> {
        self.planes = sizes.iter().enumerate().map(|(place, &size)| Plane::new(&self.frame, place, size)).collect();
        while let Some((marker, after)) = segments::next_marker(self.bytes, self.at) {
            self.at = after;
            match marker {
                segments::EOI => break,
                0x01 | 0xD0..=0xD8 => continue,
                _ => {}
            }
            let body = segments::body(self.bytes, after).ok_or(Damaged)?;
            self.at += 2 + body.len();
            if marker == Scan::MARKER {
                let scan = Scan::parse(body, &self.frame).ok_or(Damaged)?;
                self.read_scan(&scan)?;
                scan.note(&mut self.frame);
                // What follows the image is no part of it.
                if self.frame.components.iter().all(Component::is_complete) {
                    return self.finish();
                }
            } else {
                self.tables.read(marker, body).ok_or(Damaged)?;
            }
        }
        Err(Damaged)
    }

    fn read_scan(&mut self, scan: &Scan) -> Result<(), Damaged> {
        let mut bits = Bits::new(self.bytes, self.at);
        let (across, down) = match scan.components[..] {
            [(place, _, _)] => self.frame.components[place].blocks,
            _ => self.frame.units(),
        };
        let mut reader = BlockReader::new(scan, &self.tables, &self.frame, &self.planes)?;
        self.planes.iter_mut().for_each(|plane| plane.prediction = 0);
        for unit in 0..across * down {
            if self.tables.restart > 0 && unit > 0 && unit % self.tables.restart == 0 {
                bits.check()?;
                let Some((0xD0..=0xD7, after)) = segments::next_marker(self.bytes, bits.at) else {
                    return Err(Damaged);
                };
                bits.restart(after);
                reader.restart();
                self.planes.iter_mut().for_each(|plane| plane.prediction = 0);
            }
            let (x, y) = (unit % across, unit / across);
            if let [(place, _, _)] = scan.components[..] {
                reader.read(0, &mut self.planes[place], y * self.frame.components[place].padded.0 + x, &mut bits)?;
                continue;
            }
            for (number, &(place, _, _)) in scan.components.iter().enumerate() {
                let component = &self.frame.components[place];
                for block in 0..component.h * component.v {
                    let (x, y) = (x * component.h + block % component.h, y * component.v + block / component.h);
                    reader.read(number, &mut self.planes[place], y * component.padded.0 + x, &mut bits)?;
                }
            }
        }
        bits.check()?;
        self.at = bits.at;
        Ok(())
    }

    /// Of a progressive image, pixels of its coefficients.
    fn finish(&mut self) -> Result<(), Damaged> {
        if !self.frame.progressive {
            return Ok(());
        }
        for (plane, component) in self.planes.iter_mut().zip(&self.frame.components) {
            let kept = plane.size * plane.size;
            if kept == 0 {
                continue;
            }
            let inverse = Inverse::new(plane.size, &plane.places, self.tables.quantisation[component.table].as_ref())?;
            let coefficients = std::mem::take(&mut plane.coefficients);
            for (block, values) in coefficients.chunks_exact(kept).enumerate() {
                inverse.write(values, &mut plane.pixels, plane.width, block);
            }
        }
        Ok(())
    }
}
