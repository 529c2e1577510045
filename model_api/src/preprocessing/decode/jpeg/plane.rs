//! Decoded data of one channel.

use super::frame::Frame;

/// Position in the 8×8 block of each coefficient, in the order of the file.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Position of a coefficient that is not kept.
pub(super) const DROPPED: u8 = 255;

/// The kept data of one channel.
pub(super) struct Plane {
    /// Pixels per side of a block; 0 where the channel is not needed.
    pub size: usize,
    /// Position in a kept block of each coefficient in zigzag order, or [`DROPPED`].
    pub kept_index: [u8; 64],
    /// Pixels, in rows of `width`.
    pub pixels: Vec<u8>,
    pub width: usize,
    /// Coefficients of a progressive image, `size`² per block.
    pub coefficients: Vec<i16>,
    /// Nonzero coefficients of a progressive image, as a bit mask in zigzag order from the lowest bit.
    pub history: Vec<u64>,
    /// DC coefficient of the previous block.
    pub prediction: i32,
}

impl Plane {
    /// A plane with `size` pixels per side of a block.
    pub(super) fn new(frame: &Frame, component: usize, size: usize) -> Self {
        let (across, down) = frame.components[component].padded;
        let index = |zigzag: usize| {
            let (x, y) = (usize::from(ZIGZAG[zigzag] % 8), usize::from(ZIGZAG[zigzag] / 8));
            if x < size && y < size { (y * size + x) as u8 } else { DROPPED }
        };
        let blocks = if frame.progressive { across * down } else { 0 };
        Self {
            size,
            kept_index: std::array::from_fn(index),
            pixels: vec![0; across * down * size * size],
            width: across * size,
            coefficients: vec![0; blocks * size * size],
            history: vec![0; blocks],
            prediction: 0,
        }
    }

    /// Memory of [`Plane::new`] in bytes.
    pub(super) fn memory(frame: &Frame, component: usize, size: usize) -> u64 {
        let (across, down) = frame.components[component].padded;
        let block = size * size * if frame.progressive { 3 } else { 1 } + if frame.progressive { 8 } else { 0 };
        (across * down * block) as u64
    }
}
