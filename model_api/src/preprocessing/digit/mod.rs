//! Digit normalisation: the preprocessing of the MNIST authors, for pencil on paper, a mouse on a canvas, or chalk on a blackboard.
//!
//! ```text
//! roi: downscale to at most 128 pixels a side
//!   → background, illumination: subtract the background, normalise the polarity
//!   → components: connected components that form the digit → roi again, closer, when they are small
//!   → normalize: box to 20/28 of the side, stroke width and contrast, centre of mass
//! ```
//!
//! A digit of MNIST is returned unchanged.
//!
//! Only the first step reads all pixels of the image. The later steps have a byte for each of at most 128 × 128 pixels. They work on
//! histograms, and on masks with one 128-bit number per row.

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
