//! Inverse discrete cosine transform of the N×N lowest frequencies of an 8×8 block to N×N pixels, for N = 1, 2, 4 or 8.

use std::f32::consts::PI;

use super::huffman::Damaged;
use super::plane::DROPPED;

/// The transform of one channel, with its quantisation.
pub(super) struct Idct {
    size: usize,
    /// Quantisation steps of the kept coefficients, row by row.
    steps: [f32; 64],
    /// Weight of each frequency in each pixel, along one axis.
    basis: [[f32; 8]; 8],
}

impl Idct {
    /// `kept_index` maps coefficients in zigzag order to the index among the kept ones. Fails without a table.
    pub(super) fn new(size: usize, kept_index: &[u8; 64], quantisation: Option<&[u16; 64]>) -> Result<Self, Damaged> {
        let mut steps = [0.0; 64];
        for (&index, &step) in kept_index.iter().zip(quantisation.ok_or(Damaged)?) {
            if index != DROPPED {
                steps[usize::from(index)] = step.into();
            }
        }
        // Orthonormal for N points. A mean of one is 8 in an 8×8 block and N in an N×N block: the factor is N/8, and its root per
        // axis.
        let points = size as f32;
        let frequency = |x: usize, u: usize| {
            let norm = if u == 0 { 1.0 / points } else { 2.0 / points };
            (norm * points / 8.0).sqrt() * ((2 * x + 1) as f32 * u as f32 * PI / (2.0 * points)).cos()
        };
        Ok(Self { size, steps, basis: std::array::from_fn(|x| std::array::from_fn(|u| frequency(x, u))) })
    }

    /// Writes the pixels of this block, counted row by row, into a plane with rows of `width` pixels.
    pub(super) fn write(&self, coefficients: &[i16], pixels: &mut [u8], width: usize, block: usize) {
        let size = self.size;
        let mut rows = [[0.0; 8]; 8];
        for (v, row) in rows.iter_mut().enumerate().take(size) {
            let at = v * size..(v + 1) * size;
            let values: [f32; 8] = std::array::from_fn(|u| {
                if u < size { f32::from(coefficients[at.start + u]) * self.steps[at.start + u] } else { 0.0 }
            });
            if values.iter().any(|&value| value != 0.0) {
                for (pixel, basis) in row.iter_mut().zip(&self.basis).take(size) {
                    *pixel = values.iter().zip(basis).take(size).map(|(value, basis)| value * basis).sum();
                }
            }
        }
        let across = width / size;
        let start = block / across * size * width + block % across * size;
        for (y, basis) in self.basis.iter().enumerate().take(size) {
            let to = &mut pixels[start + y * width..][..size];
            for (x, pixel) in to.iter_mut().enumerate() {
                let level: f32 = (0..size).map(|v| rows[v][x] * basis[v]).sum();
                *pixel = (level + 128.5).clamp(0.0, 255.0) as u8;
            }
        }
    }
}
