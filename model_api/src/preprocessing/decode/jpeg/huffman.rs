//! Huffman-coded bits of a JPEG scan (ITU-T T.81, annex F.2.2), with an exact account of what is missing.

/// The scan's data end before its last block, or no code matches. The image is cut or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Damaged;

/// A code table: the first nine bits by a look-up, longer codes by their ranges.
#[derive(Clone)]
pub(super) struct Huffman {
    /// For each nine bits the value and its length; length 0 where the code is longer.
    short: Vec<(u8, u8)>,
    /// For each length behind the last code, left-aligned in 16 bits, and what leads from a code to its value's place.
    ranges: [(u32, u32); 17],
    values: Vec<u8>,
}

const SHORT_BITS: usize = 9;

impl Huffman {
    /// From the table's segment: how many codes each length from 1 to 16 has, and all values.
    pub(super) fn new(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let mut table = Self { short: vec![(0, 0); 1 << SHORT_BITS], ranges: [(0, 0); 17], values: values.to_vec() };
        let (mut code, mut place) = (0_u32, 0_usize);
        for (length, &count) in (1_usize..).zip(counts) {
            table.ranges[length].1 = (place as u32).wrapping_sub(code);
            for _ in 0..count {
                let value = *values.get(place)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= SHORT_BITS {
                    let first = (code as usize) << (SHORT_BITS - length);
                    table.short[first..first + (1 << (SHORT_BITS - length))].fill((value, length as u8));
                }
                code += 1;
                place += 1;
            }
            table.ranges[length].0 = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The bits of one scan, from the byte behind its header on, to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Of the next byte to take, or of the marker that ends the bits.
    pub at: usize,
    /// The next bits, the first one highest.
    buffer: u64,
    count: u32,
    /// How many of them, at the end, are not in the file.
    missing: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0, missing: 0 }
    }

    /// Goes on behind a restart marker, with whole bytes.
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

    /// Fails where bits were taken that the file does not have. Between two calls at most 64 blocks may be read.
    pub(super) fn check(&self) -> Result<(), Damaged> {
        if self.count < self.missing { Err(Damaged) } else { Ok(()) }
    }

    /// The next value of a table.
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
        let place = (bits >> (16 - length)).wrapping_add(table.ranges[length].1);
        self.skip(length as u32);
        table.values.get(place as usize).copied().ok_or(Damaged)
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
    fn values_and_numbers_follow_each_other() {
        let bytes = [0b0101_1000, 0, 0b0000_1010, 0xFF, 0, 0xFF, 0xD9];
        let mut bits = Bits::new(&bytes, 0);
        assert_eq!([(); 3].map(|()| bits.value(&table())), [Ok(7), Ok(8), Ok(9)]);
        assert_eq!((bits.signed(2), bits.bits(9)), (Ok(-2), Ok(0b0_1011_1111)));
        assert_eq!(bits.at, 5);
    }

    #[test]
    fn bits_that_the_file_lacks_are_not_made_up() {
        let mut bits = Bits::new(&[0b0000_0000, 0xFF, 0xD9], 0);
        let found: Vec<_> = (0..80).map(|_| bits.value(&table())).take_while(Result::is_ok).collect();
        assert!((8..64).contains(&found.len()), "{}", found.len());
        assert_eq!(bits.check(), Err(Damaged));
    }

    #[test]
    fn a_table_with_more_codes_than_there_are_is_refused() {
        assert!(Huffman::new(&[3; 16], &[0; 48]).is_none());
        assert!(Huffman::new(&[1; 16], &[0; 3]).is_none());
    }
}
