//! Limits of size and memory, checked against a file's header before memory is allocated.

use super::error::ImageError;

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Length of the encoded file (`MAX_IMAGE_BYTES`).
    pub bytes: usize,
    /// Width and height, in pixels (`MAX_IMAGE_SIDE`).
    pub side: u32,
    /// Width × height (`MAX_IMAGE_PIXELS`).
    pub pixels: u64,
    /// Memory of one decoding, and size of the tensor of a batch (`MAX_DECODE_BYTES`).
    pub decode_bytes: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { bytes: 32 << 20, side: 16_384, pixels: 64 << 20, decode_bytes: 256 << 20 }
    }
}

impl ImageLimits {
    /// The stricter of both, limit by limit.
    pub(crate) fn min(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            side: self.side.min(other.side),
            pixels: self.pixels.min(other.pixels),
            decode_bytes: self.decode_bytes.min(other.decode_bytes),
        }
    }

    pub(super) fn check_bytes(&self, found: usize) -> Result<(), ImageError> {
        check("bytes", "MAX_IMAGE_BYTES", self.bytes as u64, found as u64)
    }

    pub(super) fn check_size(&self, width: u32, height: u32) -> Result<(), ImageError> {
        check("pixels wide", "MAX_IMAGE_SIDE", self.side.into(), width.into())?;
        check("pixels high", "MAX_IMAGE_SIDE", self.side.into(), height.into())?;
        check("pixels", "MAX_IMAGE_PIXELS", self.pixels, u64::from(width) * u64::from(height))
    }

    /// Checks the size of the tensor of a batch of images.
    pub(crate) fn check_batch(&self, images: usize, found: usize) -> Result<(), ImageError> {
        if images > 1 {
            check("bytes as one tensor", "MAX_DECODE_BYTES", self.decode_bytes, found as u64)
        } else {
            Ok(())
        }
    }

    pub(super) fn check_memory(&self, found: u64) -> Result<(), ImageError> {
        check("bytes of memory to decode", "MAX_DECODE_BYTES", self.decode_bytes, found)
    }

    /// The first of the divisors 2, 4 and 8 of width and height with which decoding uses at most `decode_bytes`. `memory` returns
    /// the bytes for a divisor.
    pub(super) fn scale_divisor(&self, memory: impl Fn(u32) -> u64) -> Result<u32, ImageError> {
        let fits = |divisor: &u32| memory(*divisor) <= self.decode_bytes;
        [2, 4, 8].into_iter().find(fits).map_or_else(|| self.check_memory(memory(8)).map(|()| 8), Ok)
    }
}

fn check(measure: &'static str, setting: &'static str, limit: u64, found: u64) -> Result<(), ImageError> {
    if found > limit {
        return Err(ImageError::TooLarge { measure, setting, limit, found });
    }
    Ok(())
}
