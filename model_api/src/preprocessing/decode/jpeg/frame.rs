//! A JPEG's frame, tables and scan headers (ITU-T T.81, annex B.2), as the decoder at reduced scale needs them.

use super::huffman::Huffman;
use super::segments::SOS;

/// One channel of the frame.
pub(super) struct Component {
    pub id: u8,
    /// Sampling factors, across and down.
    pub h: usize,
    pub v: usize,
    /// Place of the quantisation table.
    pub table: usize,
    /// Blocks across and down that its own scans have.
    pub blocks: (usize, usize),
    /// Blocks across and down with the padding of scans of several channels.
    pub padded: (usize, usize),
    /// For each of the 64 coefficients in zigzag order the lowest bit that has come; 255 while nothing has.
    pub precision: [u8; 64],
}

impl Component {
    /// Whether all of its coefficients have come, with all of their bits.
    pub(super) fn is_complete(&self) -> bool {
        self.precision == [0; 64]
    }
}

/// The frame's header.
pub(super) struct Frame {
    pub progressive: bool,
    pub width: usize,
    pub height: usize,
    pub h_max: usize,
    pub v_max: usize,
    pub components: Vec<Component>,
}

impl Frame {
    /// From the segment's content; `None` where it makes no sense, or has no or more than four channels.
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

    /// Minimum coded units across and down in scans of several channels.
    pub(super) fn units(&self) -> (usize, usize) {
        (self.width.div_ceil(8 * self.h_max), self.height.div_ceil(8 * self.v_max))
    }
}

/// The tables in force.
#[derive(Default)]
pub(super) struct Tables {
    /// In zigzag order.
    pub quantisation: [Option<[u16; 64]>; 4],
    pub dc: [Option<Huffman>; 4],
    pub ac: [Option<Huffman>; 4],
    /// Units between two restart markers; 0 without.
    pub restart: usize,
    /// The colour transform that Adobe's segment names.
    pub adobe: Option<u8>,
    pub is_jfif: bool,
}

impl Tables {
    /// Takes one segment in; those that are of no use are passed over. `None` where it is damaged.
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

/// A scan's header.
pub(super) struct Scan {
    /// For each channel its place in the frame, and those of its tables.
    pub components: Vec<(usize, usize, usize)>,
    /// The first and the last coefficient, in zigzag order.
    pub start: usize,
    pub end: usize,
    /// The bit that came before, and the one that comes now.
    pub high: u8,
    pub low: u8,
}

impl Scan {
    pub(super) const MARKER: u8 = SOS;

    /// From the segment's content; `None` where it does not fit the frame.
    pub(super) fn parse(body: &[u8], frame: &Frame) -> Option<Self> {
        let (count, rest) = body.split_first()?;
        let count = usize::from(*count);
        let listed = rest.as_chunks::<2>().0.get(..count)?;
        let place = |[id, tables]: &[u8; 2]| {
            let place = frame.components.iter().position(|component| component.id == *id)?;
            Some((place, usize::from(tables >> 4 & 3), usize::from(tables & 3)))
        };
        let components = listed.iter().map(place).collect::<Option<Vec<_>>>()?;
        let &[start, end, bits, ..] = rest.get(2 * count..)? else { return None };
        let scan = if frame.progressive {
            Self { components, start: start.into(), end: end.into(), high: bits >> 4, low: bits & 15 }
        } else {
            Self { components, start: 0, end: 63, high: 0, low: 0 }
        };
        let spectral = scan.start <= scan.end && scan.end < 64 && scan.low < 14;
        // In progressive scans, coefficients other than the first come channel by channel, without the first.
        let alone = !frame.progressive || scan.end == 0 || (scan.start > 0 && count == 1);
        (spectral && alone && !scan.components.is_empty()).then_some(scan)
    }

    /// Notes at the frame's channels what this scan has brought.
    pub(super) fn note(&self, frame: &mut Frame) {
        for &(place, _, _) in &self.components {
            frame.components[place].precision[self.start..=self.end].fill(self.low);
        }
    }
}
