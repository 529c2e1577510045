use super::histogram::Histogram;
use super::illumination;
use super::plane::Plane;

/// The ink above the paper, whichever way round it was.
pub(super) struct ForegroundMap {
    /// How much each pixel stands out from the paper; 0 on the paper and on what is the other way round.
    pub(super) strength: Plane,
    /// How strong full ink is.
    pub(super) full: f32,
    /// The standard deviation of the paper's noise_sigma.
    pub(super) noise_sigma: f32,
}

/// Fainter than this is a blank page, not ink.
const MIN_CONTRAST: f32 = 10.0;

/// A digit may be a hundredth of the image; a pixel or two are none, but dust or a dead cell of the camera.
pub(super) const MAX_SPECK_AREA: usize = 3;

/// The border is taken for even when this share of it is within [`UNIFORM_TOLERANCE`] of its median.
const UNIFORM_FRACTION: f32 = 0.7;
const UNIFORM_TOLERANCE: u8 = 4;

/// Takes the paper away: finds its shade from the image's border, follows the light over it, and keeps what stands
/// out to the side that has more. `None` for a blank page.
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

/// Paper of one shade: a canvas, a scan.
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

/// So much of the image is paper at the least: bold ink may cover the rest.
pub(super) const BACKGROUND_FRACTION: f32 = 0.4;

/// Two fifths of normally distributed noise_sigma are within 0.524 deviations.
pub(super) fn noise_sigma(within: f32) -> f32 {
    within / 0.524
}

/// What stands out by more than this is no noise_sigma.
pub(super) fn foreground_threshold(noise_sigma: f32) -> f32 {
    (4.0 * noise_sigma).min(64.0)
}

/// Whether the strongest that there is, dust aside, is no accident.
pub(super) fn is_foreground(full: f32, noise_sigma: f32) -> bool {
    full >= MIN_CONTRAST && full >= 5.0 * noise_sigma
}

/// The pixels along the edges, a fortieth of the side depth: column and row.
pub(super) fn border(image: &Plane) -> impl Iterator<Item = (usize, usize)> {
    let (width, height) = (image.width, image.height);
    let depth = (width.min(height) / 40).max(1);
    let is_inside = move |at: usize, length: usize| at >= depth && at + depth < length;
    (0..height).flat_map(move |y| {
        let row = is_inside(y, height);
        (0..width).filter(move |&x| !(row && is_inside(x, width))).map(move |x| (x, y))
    })
}
