//! Reader of a TIFF file that overrides one tag.
//!
//! The `tiff` crate returns raw samples of any number of channels for gray images, but rejects palettes and converts other colour
//! spaces in its own way. The tag `PhotometricInterpretation` therefore always reads as gray, and the meaning of the samples is
//! decided here.

use std::io::{Read, Result, Seek, SeekFrom};

use super::directory::Directory;

/// `PhotometricInterpretation`.
const PHOTOMETRIC: u16 = 262;

/// The tag's value for gray images where 0 is black.
const BLACK_IS_ZERO: u8 = 1;

/// The file's bytes, except for the tag.
#[derive(Clone)]
pub(super) struct PhotometricOverride<'a> {
    bytes: &'a [u8],
    at: u64,
    /// Position of the byte that is overridden.
    changed: Option<usize>,
    /// The original value of the tag.
    pub photometric: Option<u16>,
}

impl<'a> PhotometricOverride<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let found = Directory::find(bytes).and_then(|directory| directory.short(PHOTOMETRIC));
        // A number whose high byte is not 0 would need two overridden bytes; such a value has no meaning and is left as it is.
        let (changed, photometric) = found.map_or((None, None), |(low, value)| (Some(low), Some(value)));
        Self { bytes, at: 0, changed: changed.filter(|_| photometric.is_some_and(|value| value < 256)), photometric }
    }
}

impl Read for PhotometricOverride<'_> {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        let start = usize::try_from(self.at).map_or(self.bytes.len(), |at| at.min(self.bytes.len()));
        let from = &self.bytes[start..];
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        if let Some(byte) = self.changed.and_then(|changed| to[..count].get_mut(changed.checked_sub(start)?)) {
            *byte = BLACK_IS_ZERO;
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for PhotometricOverride<'_> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => (self.bytes.len() as u64).checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_overridden_in_both_byte_orders_and_offset_sizes() {
        let little = b"II*\0\x08\0\0\0\x01\0\x06\x01\x03\0\x01\0\0\0\x03\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x06\0\x03\0\0\0\x01\0\x03\0\0";
        let large = [
            &b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x06\x01\x03\0"[..],
            &[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0],
        ]
        .concat();
        for (file, at) in [(&little[..], 18), (&big[..], 19), (&large, 36)] {
            let mut patched = PhotometricOverride::new(file);
            assert_eq!(patched.photometric, Some(3));
            let mut read = Vec::new();
            patched.read_to_end(&mut read).unwrap();
            let mut expected = file.to_vec();
            expected[at] = 1;
            assert_eq!(read, expected);
            patched.seek(SeekFrom::Start(at as u64)).unwrap();
            let mut byte = [0];
            patched.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [1]);
            for length in 0..file.len() {
                PhotometricOverride::new(&file[..length]);
            }
        }
    }
}
