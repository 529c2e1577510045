//! First directory of a TIFF or `BigTIFF` file: positions of its tags, to read and to change them.

/// The first directory.
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    pub is_little: bool,
    /// Whether offsets have 64 bits (`BigTIFF`).
    pub is_big: bool,
    first: usize,
    count: usize,
}

/// Type of unsigned 16-bit numbers.
const SHORT: u64 = 3;

impl<'a> Directory<'a> {
    /// `None` where the header is invalid.
    pub(super) fn find(bytes: &'a [u8]) -> Option<Self> {
        let mut directory = Self { bytes, is_little: bytes.starts_with(b"II"), is_big: false, first: 0, count: 0 };
        directory.is_big = directory.number(2, 2)? == 43;
        let (start, count_length) =
            if directory.is_big { (directory.number(8, 8)?, 8) } else { (directory.number(4, 4)?, 2) };
        let start = usize::try_from(start).ok()?;
        directory.count = directory.number(start, count_length)?.min(4096) as usize;
        directory.first = start.checked_add(count_length)?;
        Some(directory)
    }

    fn number(&self, at: usize, length: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(length)?)?;
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) })
    }

    /// A number in the byte order of the file.
    pub(super) fn written(&self, number: u64, length: usize) -> Vec<u8> {
        if self.is_little {
            number.to_le_bytes()[..length].to_vec()
        } else {
            number.to_be_bytes()[8 - length..].to_vec()
        }
    }

    /// Bytes of an offset.
    pub(super) fn offset_length(&self) -> usize {
        if self.is_big { 8 } else { 4 }
    }

    /// Position of a tag's entry: tag, type, number of values, and the values or their offset.
    pub(super) fn entry(&self, tag: u16) -> Option<usize> {
        let length = 4 + 2 * self.offset_length();
        (0..self.count)
            .map(|index| self.first + index * length)
            .find(|&entry| self.number(entry, 2) == Some(tag.into()))
    }

    /// Position of an entry's values or of their offset.
    pub(super) fn value_at(&self, entry: usize) -> usize {
        entry + 4 + self.offset_length()
    }

    /// Position of the low byte of a tag's single 16-bit number, and the number.
    pub(super) fn short(&self, tag: u16) -> Option<(usize, u16)> {
        let entry = self.entry(tag)?;
        let value = self.value_at(entry);
        let low = if self.is_little { value } else { value + 1 };
        (self.number(entry + 2, 2)? == SHORT).then_some((low, self.number(value, 2)? as u16))
    }

    /// All values of a tag with unsigned numbers.
    pub(super) fn numbers(&self, tag: u16) -> Option<Vec<u64>> {
        let entry = self.entry(tag)?;
        let length = match self.number(entry + 2, 2)? {
            SHORT => 2,
            4 => 4,
            16 => 8,
            _ => return None,
        };
        let count = usize::try_from(self.number(entry + 4, self.offset_length())?).ok()?;
        let bytes = count.checked_mul(length).filter(|&bytes| bytes <= self.bytes.len())?;
        let at = if bytes > self.offset_length() {
            usize::try_from(self.number(self.value_at(entry), self.offset_length())?).ok()?
        } else {
            self.value_at(entry)
        };
        (0..count).map(|index| self.number(at.checked_add(index * length)?, length)).collect()
    }
}
