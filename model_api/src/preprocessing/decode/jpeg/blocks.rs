//! Decoding of coefficient blocks from a scan: sequential (ITU-T T.81, F.2.2) and progressive (G.1.2).

use super::frame::{Frame, Scan, Tables};
use super::huffman::{Bits, Damaged, Huffman};
use super::idct::Idct;
use super::plane::{DROPPED, Plane};

/// Reader of the blocks of one scan.
pub(super) struct BlockReader<'a> {
    scan: &'a Scan,
    progressive: bool,
    channels: Vec<Channel<'a>>,
    /// How many of the next blocks have no further coefficients in this scan (end-of-band run).
    end_of_band: u32,
}

/// Tables of one channel.
struct Channel<'a> {
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
    /// For a sequential image whose pixels are needed.
    inverse: Option<Idct>,
}

impl<'a> BlockReader<'a> {
    pub(super) fn new(scan: &'a Scan, tables: &'a Tables, frame: &Frame, planes: &[Plane]) -> Result<Self, Damaged> {
        let channel = |&(index, dc, ac): &(usize, usize, usize)| {
            let plane = &planes[index];
            let quantisation = tables.quantisation[frame.components[index].table].as_ref();
            let inverse = if frame.progressive || plane.size == 0 {
                None
            } else {
                Some(Idct::new(plane.size, &plane.kept_index, quantisation)?)
            };
            Ok(Channel { dc: tables.dc[dc].as_ref(), ac: tables.ac[ac].as_ref(), inverse })
        };
        let channels = scan.components.iter().map(channel).collect::<Result<_, _>>()?;
        Ok(Self { scan, progressive: frame.progressive, channels, end_of_band: 0 })
    }

    /// Resumes after a restart marker.
    pub(super) fn restart(&mut self) {
        self.end_of_band = 0;
    }

    /// Reads the part of one block that this scan contains. `number` is the index of the channel in the scan.
    pub(super) fn read(
        &mut self,
        number: usize,
        plane: &mut Plane,
        block: usize,
        bits: &mut Bits,
    ) -> Result<(), Damaged> {
        let channel = &self.channels[number];
        match (self.progressive, self.scan.start, self.scan.high) {
            (false, _, _) => sequential(channel, plane, block, bits),
            (true, 0, 0) => {
                let value = first(channel, plane, bits)? << self.scan.low;
                plane.set(block, 0, value);
                Ok(())
            }
            (true, 0, _) => {
                let value = i32::from(bits.bits(1)?) << self.scan.low;
                plane.add(block, 0, value);
                Ok(())
            }
            (true, _, 0) => self.band(channel.ac.ok_or(Damaged)?, plane, block, bits),
            (true, _, _) => self.refined_band(channel.ac.ok_or(Damaged)?, plane, block, bits),
        }
    }

    /// First scan of a band of coefficients.
    fn band(&mut self, table: &Huffman, plane: &mut Plane, block: usize, bits: &mut Bits) -> Result<(), Damaged> {
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            return Ok(());
        }
        let mut at = self.scan.start;
        while at <= self.scan.end {
            let (run, size) = run_and_size(bits.value(table)?);
            if size == 0 && run < 15 {
                self.end_of_band = (1 << run) - 1 + u32::from(bits.bits(run)?);
                break;
            }
            at += usize::from(run);
            if size > 0 {
                let value = bits.signed(size)? << self.scan.low;
                if at > self.scan.end {
                    return Err(Damaged);
                }
                plane.set(block, at, value);
            }
            at += 1;
        }
        Ok(())
    }

    /// Refinement scan of a band: one more bit of each nonzero coefficient, and coefficients that become nonzero with this bit.
    fn refined_band(
        &mut self,
        table: &Huffman,
        plane: &mut Plane,
        block: usize,
        bits: &mut Bits,
    ) -> Result<(), Damaged> {
        let mut at = self.scan.start;
        while at <= self.scan.end && self.end_of_band == 0 {
            let (mut run, size) = run_and_size(bits.value(table)?);
            let mut value = 0;
            if size > 0 {
                value = if bits.bits(1)? == 1 { 1 << self.scan.low } else { -1 << self.scan.low };
            } else if run < 15 {
                self.end_of_band = (1 << run) + u32::from(bits.bits(run)?);
                break;
            }
            while at <= self.scan.end {
                if plane.history[block] >> at & 1 == 1 {
                    self.refine(plane, block, at, bits)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                at += 1;
            }
            if value != 0 {
                if at > self.scan.end {
                    return Err(Damaged);
                }
                plane.set(block, at, value);
            }
            at += 1;
        }
        if self.end_of_band > 0 {
            for at in at..=self.scan.end {
                if plane.history[block] >> at & 1 == 1 {
                    self.refine(plane, block, at, bits)?;
                }
            }
            self.end_of_band -= 1;
        }
        Ok(())
    }

    fn refine(&self, plane: &mut Plane, block: usize, at: usize, bits: &mut Bits) -> Result<(), Damaged> {
        if bits.bits(1)? == 1 {
            let bit = 1 << self.scan.low;
            let value = if plane.get(block, at) < 0 { -bit } else { bit };
            plane.add(block, at, value);
        }
        Ok(())
    }
}

impl Plane {
    fn coefficient_index(&self, block: usize, at: usize) -> Option<usize> {
        match self.kept_index[at] {
            DROPPED => None,
            index => Some(block * self.size * self.size + usize::from(index)),
        }
    }

    fn get(&self, block: usize, at: usize) -> i16 {
        self.coefficient_index(block, at).map_or(0, |index| self.coefficients[index])
    }

    fn set(&mut self, block: usize, at: usize, value: i32) {
        self.history[block] |= 1 << at;
        if let Some(index) = self.coefficient_index(block, at) {
            self.coefficients[index] = value as i16;
        }
    }

    fn add(&mut self, block: usize, at: usize, value: i32) {
        if let Some(index) = self.coefficient_index(block, at) {
            self.coefficients[index] = self.coefficients[index].wrapping_add(value as i16);
        }
    }
}

/// The DC coefficient: its difference from that of the previous block.
fn first(channel: &Channel, plane: &mut Plane, bits: &mut Bits) -> Result<i32, Damaged> {
    let size = bits.value(channel.dc.ok_or(Damaged)?)?;
    plane.prediction = plane.prediction.wrapping_add(bits.signed(size)?);
    Ok(plane.prediction)
}

fn sequential(channel: &Channel, plane: &mut Plane, block: usize, bits: &mut Bits) -> Result<(), Damaged> {
    let table = channel.ac.ok_or(Damaged)?;
    let mut kept = [0; 64];
    kept[0] = first(channel, plane, bits)? as i16;
    let mut at = 1;
    while at < 64 {
        let (run, size) = run_and_size(bits.value(table)?);
        if size == 0 && run < 15 {
            break;
        }
        at += usize::from(run);
        if size > 0 {
            let value = bits.signed(size)?;
            match plane.kept_index.get(at) {
                Some(&DROPPED) => {}
                Some(&kept_at) => kept[usize::from(kept_at)] = value as i16,
                None => return Err(Damaged),
            }
        }
        at += 1;
    }
    if let Some(inverse) = &channel.inverse {
        inverse.write(&kept, &mut plane.pixels, plane.width, block);
    }
    Ok(())
}

fn run_and_size(value: u8) -> (u8, u8) {
    (value >> 4, value & 15)
}
