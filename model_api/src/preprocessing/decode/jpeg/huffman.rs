//! Huffman decoder of a JPEG scan (ITU-T T.81, annex F.2.2) that detects missing bits exactly.

/// The scan ends before its last block, or no code matches: the image is truncated or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Damaged;

/// Code table: a lookup for the first nine bits, ranges for longer codes.
#[derive(Clone)]
pub(super) struct Huffman {
    /// Value and length for each nine bits; length 0 where the code is longer.
    short: Vec<(u8, u8)>,
    /// Per length: the end of its codes, left-aligned in 16 bits, and the offset from a code to the index of its value.
    ranges: [(u32, u32); 17],
    values: Vec<u8>,
}

const SHORT_BITS: usize = 9;

impl Huffman {
    /// Builds a table from its segment: the number of codes of each length from 1 to 16, and all values.
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let mut table = Self { short: vec![(0, 0); 1 << SHORT_BITS], ranges: [(0, 0); 17], values: values.to_vec() };
        let (mut code, mut index) = (0_u32, 0_usize);
        for (length, &count) in (1_usize..).zip(counts) {
            table.ranges[length].1 = (index as u32).wrapping_sub(code);
            for _ in 0..count {
                let value = *values.get(index)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= SHORT_BITS {
                    let first = (code as usize) << (SHORT_BITS - length);
                    table.short[first..first + (1 << (SHORT_BITS - length))].fill((value, length as u8));
                }
                code += 1;
                index += 1;
            }
            table.ranges[length].0 = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// Bit reader of one scan, from the byte after its header to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Position of the next byte, or of the marker that ends the bits.
    pub at: usize,
    /// The next bits; the first bit is the highest.
    buffer: u64,
    count: u32,
    /// How many of the last bits are not in the file.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, missing: 0 }
    }

    /// Resumes after a restart marker, at a byte boundary.
    pub(super) fn restart(&mut self, at: usize) {
        *self = Self::new(self.bytes, at);
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at..) {
                Some([0xFF, 0, ..]) => {
                    self.at += 2;
                    0xFF
                }
                Some([0xFF, ..] | []) | None => {
                    self.missing += 8;
                    0
                }
                Some([byte, ..]) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Fails where bits were read that the file does not have. Call it at least every 64 blocks.
    pub(super) fn check(&self) -> Result<(), Damaged> {
        if self.count < self.missing { Err(Damaged) } else { Ok(()) }
    }

    /// Decodes the next value with a table.
    pub(super) fn value(&mut self, table: &Huffman) -> Result<u8, Damaged> {
        if self.count < 16 {
            self.fill();
            self.check()?;
        }
        let (value, length) = table.short[(self.buffer >> (64 - SHORT_BITS)) as usize];
        if length > 0 {
            self.skip(length.into());
            return Ok(value);
        }
        let bits = (self.buffer >> 48) as u32;
        let length = (SHORT_BITS + 1..=16).find(|&length| bits < table.ranges[length].0).ok_or(Damaged)?;
        let index = (bits >> (16 - length)).wrapping_add(table.ranges[length].1);
        self.skip(length as u32);
        table.values.get(index as usize).copied().ok_or(Damaged)
    }

    /// The next bits as a number; at most 16.
    pub(super) fn bits(&mut self, count: u8) -> Result<u16, Damaged> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < 16 {
            self.fill();
            self.check()?;
        }
        let bits = (self.buffer >> (64 - u32::from(count))) as u16;
        self.skip(count.into());
        Ok(bits)
    }

    /// The next bits as a difference or coefficient (T.81, EXTEND).
    pub(super) fn signed(&mut self, count: u8) -> Result<i32, Damaged> {
        if count > 15 {
            return Err(Damaged);
        }
        let bits = i32::from(self.bits(count)?);
        Ok(if count > 0 && bits < 1 << (count - 1) { bits - (1 << count) + 1 } else { bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10, and one of 16 bits, 1100000000000000.
    fn table() -> Huffman {
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[15]) = (1, 1, 1);
        Huffman::new(&counts, &[7, 8, 9]).unwrap()
    }

    #[test]
    fn codes_and_raw_bits_alternate() {
        let bytes = [0b0101_1000, 0, 0b0000_1010, 0xFF, 0, 0xFF, 0xD9];
        let mut bits = Bits::new(&bytes, 0);
        assert_eq!([(); 3].map(|()| bits.value(&table())), [Ok(7), Ok(8), Ok(9)]);
        assert_eq!((bits.signed(2), bits.bits(9)), (Ok(-2), Ok(0b0_1011_1111)));
        assert_eq!(bits.at, 5);
    }

    #[test]
    fn missing_bits_are_an_error() {
        let mut bits = Bits::new(&[0b0000_0000, 0xFF, 0xD9], 0);
        let found: Vec<_> = (0..80).map(|_| bits.value(&table())).take_while(Result::is_ok).collect();
        assert!((8..64).contains(&found.len()), "{}", found.len());
        assert_eq!(bits.check(), Err(Damaged));
    }

    #[test]
    fn an_overfull_table_is_rejected() {
        assert!(Huffman::new(&[3; 16], &[0; 48]).is_none());
        assert!(Huffman::new(&[1; 16], &[0; 3]).is_none());
    }
}
