use super::plane::{Plane, quantile};
use super::strokes::Strokes;

/// Strokes thinner than this many pixels of the result are thickened to it: a mouse's hairline would all but vanish
/// in the reduction, and what is left of it looks like no pen that MNIST knows.
const THINNEST: f32 = 1.6;

/// Scales the strokes' box to 20/28 of the shorter side, evens their level, and centres them by mass.
pub(super) fn place(strokes: &Strokes, width: usize, height: usize) -> Vec<u8> {
    let side = (width.min(height) * 20 / 28).max(1);
    let boxed = fitted(strokes, side);
    let levelled = levelled(boxed);

    let (mut mass, mut sum_x, mut sum_y) = (0.0_f32, 0.0, 0.0);
    for (index, ink) in levelled.values.iter().enumerate() {
        mass += ink;
        sum_x += ink * (index % levelled.width) as f32;
        sum_y += ink * (index / levelled.width) as f32;
    }
    // A pixel's number is its left edge, as it was for the MNIST authors: their digits' mass lies at 14, not 13.5.
    let start = |length: usize, inner: usize, sum: f32| {
        let start = if mass > 0.0 { length as f32 / 2.0 - sum / mass } else { (length - inner) as f32 / 2.0 };
        (start.round().max(0.0) as usize).min(length - inner)
    };
    let left = start(width, levelled.width, sum_x);
    let top = start(height, levelled.height, sum_y);

    let mut pixels = vec![0; width * height];
    for (y, row) in levelled.values.chunks_exact(levelled.width).enumerate() {
        for (x, ink) in row.iter().enumerate() {
            pixels[(top + y) * width + left + x] = (ink * 255.0).round() as u8;
        }
    }
    pixels
}

/// The strokes' box with its longer side `side` long.
fn fitted(strokes: &Strokes, side: usize) -> Plane {
    let boxed = strokes.boxed();
    let longest = boxed.width.max(boxed.height);
    // A box that fits but for a pixel is a digit that somebody fitted before; another resampling would only blur it.
    if longest.abs_diff(side) <= 1 && longest <= side {
        return boxed;
    }
    let boxed = thickened(boxed, THINNEST * longest as f32 / side as f32);
    let ratio = side as f32 / boxed.width.max(boxed.height) as f32;
    let length = |length: usize| ((length as f32 * ratio).round() as usize).clamp(1, side);
    let mut resized = boxed.resized(length(boxed.width), length(boxed.height));
    for ink in &mut resized.values {
        *ink = ink.clamp(0.0, 1.0);
    }
    resized
}

/// Widens strokes, where they are thinner than `least` pixels, by what they lack, and their box with them.
fn thickened(boxed: Plane, least: f32) -> Plane {
    let steps = (((least - thickness(&boxed)) / 2.0).round() as usize).min(8);
    if steps == 0 {
        return boxed;
    }
    let mut wider = boxed.padded(steps);
    for _ in 0..steps {
        for (length, stride) in [(wider.width, 1), (wider.values.len(), wider.width)] {
            widen(&mut wider.values, length, stride);
        }
    }
    wider
}

/// Each value becomes the largest of itself and its neighbours along one axis.
fn widen(values: &mut [f32], length: usize, stride: usize) {
    let before = values.to_vec();
    for (index, value) in values.iter_mut().enumerate() {
        let along = index % length;
        if along >= stride {
            *value = value.max(before[index - stride]);
        }
        if along + stride < length {
            *value = value.max(before[index + stride]);
        }
    }
}

/// The strokes' mean thickness: twice their area over their outline, as for a long thin rectangle.
fn thickness(boxed: &Plane) -> f32 {
    let area: f32 = boxed.values.iter().sum();
    let at = |x: usize, y: usize| boxed.values[y * boxed.width + x];
    let mut outline = 0.0;
    for y in 0..boxed.height {
        outline += at(0, y) + at(boxed.width - 1, y);
        outline += (1..boxed.width).map(|x| (at(x, y) - at(x - 1, y)).abs()).sum::<f32>();
    }
    for x in 0..boxed.width {
        outline += at(x, 0) + at(x, boxed.height - 1);
        outline += (1..boxed.height).map(|y| (at(x, y) - at(x, y - 1)).abs()).sum::<f32>();
    }
    // Along slanting strokes the steps of both axes are counted: about 4/π of the true length, over all angles.
    if outline > 0.0 { 2.0 * area / (outline * std::f32::consts::FRAC_PI_4) } else { 0.0 }
}

/// Full ink becomes 1 again, after a reduction that thinned it.
fn levelled(mut boxed: Plane) -> Plane {
    let mut inked: Vec<f32> = boxed.values.iter().copied().filter(|ink| *ink > 0.05).collect();
    let full = quantile(&mut inked, 0.9);
    if full > 0.0 {
        for ink in &mut boxed.values {
            *ink = (*ink / full).min(1.0);
        }
    }
    boxed
}
