use super::counts::Counts;
use super::plane::Plane;
use super::shading;

/// The ink above the paper, whichever way round it was.
pub(super) struct Ink {
    /// How much each pixel stands out from the paper; 0 on the paper and on what is the other way round.
    pub(super) strength: Plane,
    /// How strong full ink is.
    pub(super) full: f32,
    /// The standard deviation of the paper's grain.
    pub(super) grain: f32,
}

/// Fainter than this is a blank page, not ink.
const FAINTEST: f32 = 10.0;

/// A digit may be a hundredth of the picture; a pixel or two are none, but dust or a dead cell of the camera.
pub(super) const DUST: usize = 3;

/// The frame is taken for even when this share of it is within [`EVEN`] of its median.
const EVEN_SHARE: f32 = 0.7;
const EVEN: u8 = 4;

/// Takes the paper away: finds its shade from the picture's frame, follows the light over it, and keeps what stands
/// out to the side that has more. `None` for a blank page.
pub(super) fn lift(picture: Plane) -> Option<Ink> {
    let frame: Vec<u8> = frame(&picture).map(|(x, y)| picture.values[y * picture.width + x]).collect();
    let frame = Counts::of(&frame);
    let shade = frame.quantile(0.5);
    let near: u32 = frame.each().filter(|(level, _)| level.abs_diff(shade) <= EVEN).map(|(_, count)| count).sum();
    if near as f32 >= EVEN_SHARE * frame.total() as f32 { even(picture, shade) } else { shading::lift(&picture, shade) }
}

/// Paper of one shade: a canvas, a scan.
fn even(mut picture: Plane, shade: u8) -> Option<Ink> {
    let counts = Counts::of(&picture.values);
    let grain = grain(counts.off(shade).quantile(GRAINY).into());
    let certain = certain_ink(grain);
    let (mut light, mut dark) = (0.0, 0.0);
    for (level, count) in counts.each() {
        let off = f32::from(level) - f32::from(shade);
        light += count as f32 * (off - certain).max(0.0);
        dark += count as f32 * (-off - certain).max(0.0);
    }
    let is_dark = dark > light;
    let full = if is_dark {
        shade.saturating_sub(counts.lowest_but(DUST as u32))
    } else {
        counts.highest_but(DUST as u32).saturating_sub(shade)
    };
    let full = f32::from(full);
    if !is_ink(full, grain) {
        return None;
    }
    for value in &mut picture.values {
        *value = if is_dark { shade.saturating_sub(*value) } else { value.saturating_sub(shade) };
    }
    Some(Ink { strength: picture, full, grain })
}

/// So much of the picture is paper at the least: bold ink may cover the rest.
pub(super) const GRAINY: f32 = 0.4;

/// Two fifths of normally distributed grain are within 0.524 deviations.
pub(super) fn grain(within: f32) -> f32 {
    within / 0.524
}

/// What stands out by more than this is no grain.
pub(super) fn certain_ink(grain: f32) -> f32 {
    (4.0 * grain).min(64.0)
}

/// Whether the strongest that there is, dust aside, is no accident.
pub(super) fn is_ink(full: f32, grain: f32) -> bool {
    full >= FAINTEST && full >= 5.0 * grain
}

/// The pixels along the edges, a fortieth of the side deep: column and row.
pub(super) fn frame(picture: &Plane) -> impl Iterator<Item = (usize, usize)> {
    let (width, height) = (picture.width, picture.height);
    let deep = (width.min(height) / 40).max(1);
    let is_inside = move |at: usize, length: usize| at >= deep && at + deep < length;
    (0..height).flat_map(move |y| {
        let row = is_inside(y, height);
        (0..width).filter(move |&x| !(row && is_inside(x, width))).map(move |x| (x, y))
    })
}
