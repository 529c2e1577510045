//! What the MNIST authors did to a scanned digit, for whatever people send: pencil on paper, a mouse on a canvas,
//! white on a blackboard.
//!
//! ```text
//! look (at most 128 pixels a side) → paper: its shading, and which way round the ink is
//!   → strokes: the connected pieces that are ink and no dust → look closer when they are small
//!   → place: their box to 20 of 28, stroke and level evened, mass in the middle
//! ```
//!
//! A picture that is one of theirs already comes out as it went in.
//!
//! Only the first step meets all of the picture's pixels. What follows has a byte for each of at most 128×128, counts them
//! by their level, and holds each row of a mask in one number of 128 bits.

mod counts;
mod mask;
mod paper;
mod place;
mod plane;
mod shading;
mod strokes;

use image::GrayImage;

use plane::{Plane, Region};
use strokes::Strokes;

/// Strokes are looked for at this many pixels a side at most: enough for a pencil line, few enough to be quick.
const LOOK: usize = mask::WIDEST;

/// Ink whose box is smaller than this is looked at again from nearer, where the picture has more to show.
const NEAR: usize = 48;

/// The ink in a picture: 255 on 0, its box 20/28 of the shorter side, its mass in the middle; all 0 where there is none.
pub(super) fn fit(picture: &GrayImage, width: u32, height: u32) -> Vec<u8> {
    match find(picture) {
        Some(strokes) => place::place(strokes.boxed(), width as usize, height as usize),
        None => vec![0; width as usize * height as usize],
    }
}

fn find(picture: &GrayImage) -> Option<Strokes> {
    let mut region = Region::all(picture);
    let mut found = look(picture, region)?;
    // Each look is at least twice as near as the one before, so a 16,384-pixel picture takes four at most.
    for _ in 0..5 {
        let nearer = found.region_around(region);
        let is_shrunk = region.longest_side() > LOOK as u32;
        if found.longest_side() >= NEAR || nearer.longest_side() * 2 > region.longest_side() || !is_shrunk {
            break;
        }
        match look(picture, nearer) {
            Some(closer) => (found, region) = (closer, nearer),
            None => break,
        }
    }
    Some(found)
}

fn look(picture: &GrayImage, region: Region) -> Option<Strokes> {
    strokes::find(paper::lift(Plane::shrunk(picture, region, LOOK as u32))?)
}

#[cfg(test)]
mod tests;
