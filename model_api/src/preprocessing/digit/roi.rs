//! Region of interest: locates the digit in an image, and zooms in on a small one.

use image::GrayImage;

use super::components::{self, Digit};
use super::plane::{Plane, Region};
use super::{background, mask};

/// Longest side of the image in which strokes are searched: enough for a pencil line, and small enough to be fast.
const MAX_SIDE: usize = mask::MAX_WIDTH;

/// A digit whose box is smaller than this is extracted again from its region, where the image has more detail.
const MIN_DIGIT_SIDE: usize = 48;

/// Zoom steps. Each step at least halves the region, so an image of 16,384 pixels a side takes at most four.
const MAX_ZOOM_STEPS: usize = 5;

/// The digit of an image; `None` for a blank one.
pub(super) fn locate(image: &GrayImage) -> Option<Digit> {
    let mut region = Region::full(image);
    let mut digit = extract(image, region)?;
    for _ in 0..MAX_ZOOM_STEPS {
        let closer = digit.region_around(region);
        let is_downscaled = region.longest_side() > MAX_SIDE as u32;
        if digit.longest_side() >= MIN_DIGIT_SIDE || closer.longest_side() * 2 > region.longest_side() || !is_downscaled
        {
            break;
        }
        match extract(image, closer) {
            Some(larger) => (digit, region) = (larger, closer),
            None => break,
        }
    }
    Some(digit)
}

fn extract(image: &GrayImage, region: Region) -> Option<Digit> {
    components::select(background::subtract(Plane::downscale(image, region, MAX_SIDE as u32))?)
}
