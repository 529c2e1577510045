//! Normalisation of size, stroke width, contrast and position.

use super::histogram::Histogram;
use super::plane::Plane;

/// Minimum stroke width in pixels of the result. Thinner strokes, such as those of a mouse, are dilated to it: downscaling would
/// almost erase them, and MNIST contains no such strokes.
const MIN_STROKE_WIDTH: f32 = 1.6;

/// Scales the digit's box to 20/28 of the shorter side, stretches its contrast, and centres it by mass.
pub(super) fn normalize(crop: Plane, width: usize, height: usize) -> Vec<u8> {
    let side = (width.min(height) * 20 / 28).max(1);
    let scaled = stretch_contrast(scale_to(crop, side));

    let (mut mass, mut sum_x, mut sum_y) = (0_u64, 0, 0);
    for (y, row) in scaled.rows().enumerate() {
        for (x, &ink) in row.iter().enumerate() {
            mass += u64::from(ink);
            sum_x += u64::from(ink) * x as u64;
            sum_y += u64::from(ink) * y as u64;
        }
    }
    // Coordinates refer to the left edge of a pixel, as in MNIST, where the centre of mass is at 14 instead of 13.5.
    let start = |length: usize, inner: usize, sum: u64| {
        let middle =
            if mass > 0 { length as f32 / 2.0 - sum as f32 / mass as f32 } else { (length - inner) as f32 / 2.0 };
        (middle.round().max(0.0) as usize).min(length - inner)
    };
    let left = start(width, scaled.width, sum_x);
    let top = start(height, scaled.height, sum_y);

    let mut pixels = vec![0; width * height];
    for (to, from) in pixels.chunks_exact_mut(width).skip(top).zip(scaled.rows()) {
        to[left..left + from.len()].copy_from_slice(from);
    }
    pixels
}

/// Scales the crop so that its longer side is `side`.
fn scale_to(crop: Plane, side: usize) -> Plane {
    let longest = crop.width.max(crop.height);
    // A crop that fits except for one pixel is already normalised, and resampling would blur it.
    if longest.abs_diff(side) <= 1 && longest <= side {
        return crop;
    }
    let crop = dilate_to(crop, MIN_STROKE_WIDTH * longest as f32 / side as f32);
    let ratio = side as f32 / crop.width.max(crop.height) as f32;
    let length = |length: usize| ((length as f32 * ratio).round() as usize).clamp(1, side);
    let (width, height) = (length(crop.width), length(crop.height));
    crop.resize(width, height)
}

/// Dilates strokes that are thinner than `min_width` pixels, and enlarges the crop accordingly.
fn dilate_to(crop: Plane, min_width: f32) -> Plane {
    let steps = (((min_width - stroke_width(&crop)) / 2.0).round() as usize).min(8);
    if steps == 0 {
        return crop;
    }
    let mut wider = crop.pad(steps);
    for _ in 0..steps {
        for (length, stride) in [(wider.width, 1), (wider.values.len(), wider.width)] {
            dilate_axis(&mut wider.values, length, stride);
        }
    }
    wider
}

/// Dilation along one axis: each value becomes the maximum of itself and its neighbours.
fn dilate_axis(values: &mut [u8], length: usize, stride: usize) {
    for values in values.chunks_exact_mut(length) {
        let before = values.to_vec();
        let larger = |(value, beside): (&mut u8, &u8)| *value = (*value).max(*beside);
        values.iter_mut().skip(stride).zip(&before).for_each(larger);
        values.iter_mut().zip(&before[stride..]).for_each(larger);
    }
}

/// Mean stroke width: twice the area divided by the outline, as for a long thin rectangle.
fn stroke_width(crop: &Plane) -> f32 {
    let sum = |values: &[u8]| values.iter().map(|&value| u32::from(value)).sum::<u32>();
    let steps = |values: &[u8], others: &[u8]| {
        values.iter().zip(others).map(|(&value, &other)| u32::from(value.abs_diff(other))).sum::<u32>()
    };
    let area = sum(&crop.values);
    // The edges of the crop, and all differences between neighbours in both directions.
    let mut outline = sum(&crop.values[..crop.width]) + sum(&crop.values[crop.values.len() - crop.width..]);
    outline += steps(&crop.values, &crop.values[crop.width..]);
    for row in crop.rows() {
        outline += u32::from(row[0]) + u32::from(row[row.len() - 1]) + steps(row, &row[1..]);
    }
    // Along slanted strokes the differences of both axes count, which is 4/π of the true length on average over all angles.
    if outline > 0 { 2.0 * area as f32 / (outline as f32 * std::f32::consts::FRAC_PI_4) } else { 0.0 }
}

/// Stretches the contrast so that a full stroke is 255 again after downscaling.
fn stretch_contrast(mut crop: Plane) -> Plane {
    let levels: Vec<u8> = crop.values.iter().copied().filter(|&ink| ink >= MIN_LEVEL).collect();
    let full = Histogram::of(&levels).quantile(0.9);
    if full > 0 {
        let level: [u8; 256] = std::array::from_fn(|ink| ((ink as f32 * 255.0 / f32::from(full)) + 0.5) as u8);
        crop.values.iter_mut().for_each(|ink| *ink = level[usize::from(*ink)]);
    }
    crop
}

/// Levels below this, a twentieth of a full stroke, do not count.
const MIN_LEVEL: u8 = 13;
