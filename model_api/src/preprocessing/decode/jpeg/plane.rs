//! Decoded data of one channel.

use super::frame::Frame;

/// Which place of an 8×8 block the coefficients come for, in the order in which they come.
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Where a coefficient that is not kept would be.
pub(super) const DROPPED: u8 = 255;

/// What is kept of one channel.
pub(super) struct Plane {
    /// Pixels a block has on each side; 0 where nothing of the channel is wanted.
    pub size: usize,
    /// For each coefficient in zigzag order its place in a kept block, or [`DROPPED`].
    pub places: [u8; 64],
    /// Pixels, `width` in a row.
    pub pixels: Vec<u8>,
    pub width: usize,
    /// Of a progressive image: coefficients, `size`² for each block.
    pub coefficients: Vec<i16>,
    /// Of a progressive image: which coefficients are other than 0, in zigzag order from the lowest bit on.
    pub history: Vec<u64>,
    /// The last block's first coefficient.
    pub prediction: i32,
}

impl Plane {
    /// `size` pixels a side and block.
    pub(super) fn new(frame: &Frame, component: usize, size: usize) -> Self {
        let (across, down) = frame.components[component].padded;
        let place = |zigzag: usize| {
            let (x, y) = (usize::from(ZIGZAG[zigzag] % 8), usize::from(ZIGZAG[zigzag] / 8));
            if x < size && y < size { (y * size + x) as u8 } else { DROPPED }
        };
        let blocks = if frame.progressive { across * down } else { 0 };
        Self {
            size,
            places: std::array::from_fn(place),
            pixels: vec![0; across * down * size * size],
            width: across * size,
            coefficients: vec![0; blocks * size * size],
            history: vec![0; blocks],
            prediction: 0,
        }
    }

    /// Bytes that [`Plane::new`] takes.
    pub(super) fn memory(frame: &Frame, component: usize, size: usize) -> u64 {
        let (across, down) = frame.components[component].padded;
        let block = size * size * if frame.progressive { 3 } else { 1 } + if frame.progressive { 8 } else { 0 };
        (across * down * block) as u64
    }
}
