//! Frame header, tables and scan headers of a JPEG (ITU-T T.81, annex B.2), as far as decoding at a reduced scale needs them.

use super::huffman::Huffman;
use super::segments::SOS;

/// One channel of the frame.
pub(super) struct Component {
    pub id: u8,
    /// Horizontal and vertical sampling factors.
    pub h: usize,
    pub v: usize,
    /// Index of the quantisation table.
    pub table: usize,
    /// Columns and rows of blocks in a scan of this channel alone.
    pub blocks: (usize, usize),
    /// Columns and rows of blocks with the padding of interleaved scans.
    pub padded: (usize, usize),
    /// The lowest decoded bit of each coefficient, in zigzag order; 255 before any.
    pub precision: [u8; 64],
}

impl Component {
    /// Whether all bits of all coefficients are decoded.
    pub(super) fn is_complete(&self) -> bool {
        self.precision == [0; 64]
    }
}

/// The frame header.
pub(super) struct Frame {
    pub progressive: bool,
    pub width: usize,
    pub height: usize,
    pub h_max: usize,
    pub v_max: usize,
    pub components: Vec<Component>,
}

impl Frame {
    /// Parses the content of the segment; `None` where it is invalid, or has no channel or more than four.
    pub(super) fn parse(marker: u8, body: &[u8]) -> Option<Self> {
        let &[_, y1, y0, x1, x0, count, ref rest @ ..] = body else { return None };
        let (height, width) = (usize::from(u16::from_be_bytes([y1, y0])), usize::from(u16::from_be_bytes([x1, x0])));
        let listed = rest.as_chunks::<3>().0.get(..usize::from(count))?;
        let factors = listed.iter().map(|[_, factors, _]| (usize::from(factors >> 4), usize::from(factors & 15)));
        if width == 0 || height == 0 || !(1..=4).contains(&count) {
            return None;
        }
        if factors.clone().any(|(h, v)| !(1..=4).contains(&h) || !(1..=4).contains(&v)) {
            return None;
        }
        let (h_max, v_max) = (factors.clone().map(|(h, _)| h).max()?, factors.map(|(_, v)| v).max()?);
        let (across, down) = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let component = |&[id, factors, table]: &[u8; 3]| {
            let (h, v) = (usize::from(factors >> 4), usize::from(factors & 15));
            Component {
                id,
                h,
                v,
                table: usize::from(table & 3),
                blocks: ((width * h).div_ceil(h_max).div_ceil(8), (height * v).div_ceil(v_max).div_ceil(8)),
                padded: (across * h, down * v),
                precision: [255; 64],
            }
        };
        let components = listed.iter().map(component).collect();
        Some(Self { progressive: marker == 0xC2, width, height, h_max, v_max, components })
    }

    /// Columns and rows of minimum coded units in interleaved scans.
    pub(super) fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.h_max), self.height.div_ceil(8 * self.v_max))
    }
}

/// The current tables.
#[derive(Default)]
pub(super) struct Tables {
    /// In zigzag order.
    pub quantisation: [Option<[u16; 64]>; 4],
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    /// Units between two restart markers; 0 without.
    pub restart: usize,
    /// The colour transform in Adobe's segment.
    pub adobe: Option<u8>,
    pub is_jfif: bool,
}

impl Tables {
    /// Reads one segment, and ignores segments that are not needed. `None` where it is damaged.
    pub(super) fn read(&mut self, marker: u8, body: &[u8]) -> Option<()> {
        match marker {
            0xC4 => self.read_huffman(body)?,
            0xDB => self.read_quantisation(body)?,
            0xDD => self.restart = u16::from_be_bytes(*body.first_chunk()?).into(),
            0xE0 if body.starts_with(b"JFIF\0") => self.is_jfif = true,
            0xEE if body.starts_with(b"Adobe") => self.adobe = body.get(11).copied(),
            _ => {}
        }
        Some(())
    }

    fn read_huffman(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let counts: &[u8; 16] = rest.first_chunk()?;
            let length = counts.iter().map(|&count| usize::from(count)).sum::<usize>();
            let values = rest.get(16..16 + length)?;
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(kind & 15))? = Some(Huffman::new(counts, values)?);
            body = &rest[16 + length..];
        }
        Some(())
    }

    fn read_quantisation(&mut self, mut body: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = body {
            let width = if kind >> 4 == 0 { 1 } else { 2 };
            let numbers = rest.get(..64 * width)?;
            let number = |at: usize| match width {
                1 => numbers[at].into(),
                _ => u16::from_be_bytes([numbers[2 * at], numbers[2 * at + 1]]),
            };
            *self.quantisation.get_mut(usize::from(kind & 15))? = Some(std::array::from_fn(number));
            body = &rest[64 * width..];
        }
        Some(())
    }
}

/// A scan header.
pub(super) struct Scan {
    /// For each channel, its index in the frame and the indices of its tables.
    pub components: Vec<(usize, usize, usize)>,
    /// The first and the last coefficient, in zigzag order.
    pub start: usize,
    pub end: usize,
    /// The previous and the current bit position (successive approximation).
    pub high: u8,
    pub low: u8,
}

impl Scan {
    pub(super) const MARKER: u8 = SOS;

    /// Parses the content of the segment; `None` where it does not match the frame.
    pub(super) fn parse(body: &[u8], frame: &Frame) -> Option<Self> {
        let (count, rest) = body.split_first()?;
        let count = usize::from(*count);
        let listed = rest.as_chunks::<2>().0.get(..count)?;
        let selected = |[id, tables]: &[u8; 2]| {
            let index = frame.components.iter().position(|component| component.id == *id)?;
            Some((index, usize::from(tables >> 4 & 3), usize::from(tables & 3)))
        };
        let components = listed.iter().map(selected).collect::<Option<Vec<_>>>()?;
        let &[start, end, bits, ..] = rest.get(2 * count..)? else { return None };
        let scan = if frame.progressive {
            Self { components, start: start.into(), end: end.into(), high: bits >> 4, low: bits & 15 }
        } else {
            Self { components, start: 0, end: 63, high: 0, low: 0 }
        };
        let spectral = scan.start <= scan.end && scan.end < 64 && scan.low < 14;
        // In progressive scans, AC coefficients come channel by channel, without the DC coefficient.
        let alone = !frame.progressive || scan.end == 0 || (scan.start > 0 && count == 1);
        (spectral && alone && !scan.components.is_empty()).then_some(scan)
    }

    /// Records in the frame which bits this scan contains.
    pub(super) fn note(&self, frame: &mut Frame) {
        for &(index, _, _) in &self.components {
            frame.components[index].precision[self.start..=self.end].fill(self.low);
        }
    }
}
