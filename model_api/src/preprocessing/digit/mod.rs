//! What the MNIST authors did to a scanned digit, for whatever people send: pencil on paper, a mouse on a canvas,
//! white on a blackboard.
//!
//! ```text
//! look (at most 128 pixels a side) → paper: its shading, and which way round the ink is
//!   → strokes: the connected pieces that are ink and no dust → look closer when they are small
//!   → place: their box to 20 of 28, stroke and level evened, mass in the middle
//! ```
//!
//! A image that is one of theirs already comes out as it went in.
//!
//! Only the first step meets all of the image's pixels. What follows has a byte for each of at most 128×128, counts them
//! by their level, and holds each row of a mask in one number of 128 bits.

mod background;
mod components;
mod histogram;
mod illumination;
mod mask;
mod normalize;
mod plane;
mod roi;

use image::GrayImage;

/// The digit of an image at the model's size: 255 on 0, its box 20/28 of the shorter side, centred by mass. All 0 where there is none.
pub(super) fn normalize(image: &GrayImage, width: u32, height: u32) -> Vec<u8> {
    match roi::locate(image) {
        Some(digit) => normalize::normalize(digit.crop(), width as usize, height as usize),
        None => vec![0; width as usize * height as usize],
    }
}

#[cfg(test)]
mod tests;
