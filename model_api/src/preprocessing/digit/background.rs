//! Background subtraction.

use super::histogram::Histogram;
use super::illumination;
use super::plane::Plane;

/// Foreground of an image, after background subtraction. Its polarity is normalised: strokes are positive.
pub(super) struct ForegroundMap {
    /// How far each pixel stands out from the background; 0 for the background and for the opposite polarity.
    pub(super) strength: Plane,
    /// Strength of a full stroke.
    pub(super) full: f32,
    /// Standard deviation of the background's noise.
    pub(super) noise_sigma: f32,
}

/// Minimum contrast; an image with less is blank.
const MIN_CONTRAST: f32 = 10.0;

/// Specks of at most this many pixels are ignored: a digit may cover a hundredth of the image, and fewer pixels are dust or a
/// dead pixel of the camera.
pub(super) const MAX_SPECK_AREA: usize = 3;

/// The border counts as uniform when this fraction of it is within [`UNIFORM_TOLERANCE`] of its median.
const UNIFORM_FRACTION: f32 = 0.7;
const UNIFORM_TOLERANCE: u8 = 4;

/// Subtracts the background: estimates its level at the image's border, follows its illumination, and keeps the polarity with
/// more mass. `None` for a blank image.
pub(super) fn subtract(image: Plane) -> Option<ForegroundMap> {
    let border: Vec<u8> = border(&image).map(|(x, y)| image.values[y * image.width + x]).collect();
    let border = Histogram::of(&border);
    let shade = border.quantile(0.5);
    let near_shade: u32 =
        border.iter().filter(|(level, _)| level.abs_diff(shade) <= UNIFORM_TOLERANCE).map(|(_, count)| count).sum();
    if near_shade as f32 >= UNIFORM_FRACTION * border.total() as f32 {
        subtract_uniform(image, shade)
    } else {
        illumination::subtract(&image, shade)
    }
}

/// Subtracts a uniform background, as of a canvas or a scan.
fn subtract_uniform(mut image: Plane, shade: u8) -> Option<ForegroundMap> {
    let counts = Histogram::of(&image.values);
    let noise_sigma = noise_sigma(counts.distances_from(shade).quantile(BACKGROUND_FRACTION).into());
    let threshold = foreground_threshold(noise_sigma);
    let (mut light, mut dark) = (0.0, 0.0);
    for (level, count) in counts.iter() {
        let off = f32::from(level) - f32::from(shade);
        light += count as f32 * (off - threshold).max(0.0);
        dark += count as f32 * (-off - threshold).max(0.0);
    }
    let is_dark = dark > light;
    let full = if is_dark {
        shade.saturating_sub(counts.min_without(MAX_SPECK_AREA as u32))
    } else {
        counts.max_without(MAX_SPECK_AREA as u32).saturating_sub(shade)
    };
    let full = f32::from(full);
    if !is_foreground(full, noise_sigma) {
        return None;
    }
    for value in &mut image.values {
        *value = if is_dark { shade.saturating_sub(*value) } else { value.saturating_sub(shade) };
    }
    Some(ForegroundMap { strength: image, full, noise_sigma })
}

/// Fraction of the image that is background at least; bold strokes may cover the rest.
pub(super) const BACKGROUND_FRACTION: f32 = 0.4;

/// Standard deviation from the distance within which two fifths of normally distributed noise lie: 0.524 deviations.
pub(super) fn noise_sigma(within: f32) -> f32 {
    within / 0.524
}

/// Pixels that stand out more than this are not noise.
pub(super) fn foreground_threshold(noise_sigma: f32) -> f32 {
    (4.0 * noise_sigma).min(64.0)
}

/// Whether the strongest contrast, without specks, is above the noise.
pub(super) fn is_foreground(full: f32, noise_sigma: f32) -> bool {
    full >= MIN_CONTRAST && full >= 5.0 * noise_sigma
}

/// Column and row of the pixels along the edges, a fortieth of the side deep.
pub(super) fn border(image: &Plane) -> impl Iterator<Item = (usize, usize)> {
    let (width, height) = (image.width, image.height);
    let depth = (width.min(height) / 40).max(1);
    let is_inside = move |at: usize, length: usize| at >= depth && at + depth < length;
    (0..height).flat_map(move |y| {
        let row = is_inside(y, height);
        (0..width).filter(move |&x| !(row && is_inside(x, width))).map(move |x| (x, y))
    })
}
