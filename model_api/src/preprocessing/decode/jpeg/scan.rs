//! JPEG decoder at a reduced scale: reads all coefficients and keeps the lowest frequencies of each block.
//!
//! A photo of 48 megapixels needs 144 MB as colours, and a progressive one of 64 megapixels needs 400 MB of coefficients before
//! the first colour. A model uses a thousandth of that. At a scale of N/8, an 8×8 block is computed from its N×N lowest
//! frequencies alone, as in libjpeg. The memory shrinks with the square of the scale, and the result averages better than
//! subsampling. `zune-jpeg` has no such scale.
//!
//! With nothing kept, the same reader checks whether a file without an end marker is complete.

use super::blocks::BlockReader;
use super::frame::{Component, Frame, Scan, Tables};
use super::huffman::{Bits, Damaged};
use super::idct::Idct;
use super::plane::Plane;
use super::segments;

/// Decoder state between two scans.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    pub frame: Frame,
    pub tables: Tables,
    pub planes: Vec<Plane>,
    /// Position of the next segment or of the next data.
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Reads up to the frame header. Allocates no memory for pixels.
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

    /// Decodes all scans. `sizes` has the pixels per side of a block to keep, for each channel. Fails unless all bits of all
    /// blocks are present.
    pub(super) fn decode(&mut self, sizes: &[usize]) -> Result<(), Damaged> {
        self.planes = sizes.iter().enumerate().map(|(index, &size)| Plane::new(&self.frame, index, size)).collect();
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
                // Ignores what follows the image.
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
            [(index, _, _)] => self.frame.components[index].blocks,
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
            if let [(index, _, _)] = scan.components[..] {
                reader.read(0, &mut self.planes[index], y * self.frame.components[index].padded.0 + x, &mut bits)?;
                continue;
            }
            for (number, &(index, _, _)) in scan.components.iter().enumerate() {
                let component = &self.frame.components[index];
                for block in 0..component.h * component.v {
                    let (x, y) = (x * component.h + block % component.h, y * component.v + block / component.h);
                    reader.read(number, &mut self.planes[index], y * component.padded.0 + x, &mut bits)?;
                }
            }
        }
        bits.check()?;
        self.at = bits.at;
        Ok(())
    }

    /// Computes the pixels of a progressive image from its coefficients.
    fn finish(&mut self) -> Result<(), Damaged> {
        if !self.frame.progressive {
            return Ok(());
        }
        for (plane, component) in self.planes.iter_mut().zip(&self.frame.components) {
            let kept = plane.size * plane.size;
            if kept == 0 {
                continue;
            }
            let inverse = Idct::new(plane.size, &plane.kept_index, self.tables.quantisation[component.table].as_ref())?;
            let coefficients = std::mem::take(&mut plane.coefficients);
            for (block, values) in coefficients.chunks_exact(kept).enumerate() {
                inverse.write(values, &mut plane.pixels, plane.width, block);
            }
        }
        Ok(())
    }
}
