//! A photograph's light: it falls off like `a + bx + cy + dx² + exy + fy²`, near enough, and shadows have edges.

use super::paper::{DUST, GRAINY, Ink, certain_ink, frame, grain, is_ink};
use super::plane::Plane;

/// Takes the paper away where it has not one shade, only one at the frame.
pub(super) fn lift(picture: &Plane, shade: u8) -> Option<Ink> {
    let mut off = Light::over(picture, shade).taken_off(picture);
    follow_shadows(&mut off);
    let every = (off.values.len() / 4096).max(1);
    let grain = grain(quantile(off.values.iter().step_by(every).copied(), GRAINY));

    let certain = certain_ink(grain);
    let mass = |sign: f32| -> f32 { off.values.iter().map(|value| (value * sign - certain).max(0.0)).sum() };
    let sign = if mass(-1.0) > mass(1.0) { -1.0 } else { 1.0 };
    let mut strongest = [0.0_f32; DUST + 1];
    for &value in &off.values {
        if value * sign > strongest[DUST] {
            strongest[DUST] = value * sign;
            strongest.sort_unstable_by(|a, b| b.total_cmp(a));
        }
    }
    // Of a picture of fewer pixels the largest counts.
    let full = if off.values.len() > DUST { strongest[DUST] } else { strongest[0] };
    if !is_ink(full, grain) {
        return None;
    }
    // Faint pencil is as strong as 255 from here on, so that a byte holds it well enough.
    let factor = 255.0 / full;
    let values = off.values.iter().map(|value| (value * sign * factor + 0.5) as u8).collect();
    Some(Ink { strength: Plane { width: off.width, height: off.height, values }, full: 255.0, grain: grain * factor })
}

/// The factors of [`terms`].
#[derive(Clone, Copy)]
struct Light([f32; 6]);

/// A pixel's terms and its level. Eight numbers, for that is how many a processor takes at a time.
type Point = [f32; 8];

impl Light {
    fn over(picture: &Plane, shade: u8) -> Self {
        let point = |(x, y): (usize, usize)| {
            let [one, x_1, y_1, xx, xy, yy] = terms(x, y, picture);
            [one, x_1, y_1, xx, xy, yy, picture.values[y * picture.width + x].into(), 0.0]
        };
        let frame: Vec<Point> = frame(picture).map(point).collect();
        let mut light = Self([f32::from(shade), 0.0, 0.0, 0.0, 0.0, 0.0]);
        for _ in 0..5 {
            light = light.refined(&frame);
        }
        // The frame has told which shade is paper; now all of the picture that has it may say how it changes.
        let step = (picture.values.len() / 2500).max(1);
        let places = (0..picture.values.len()).step_by(step).map(|at| (at % picture.width, at / picture.width));
        let sample: Vec<Point> = places.map(point).collect();
        for _ in 0..4 {
            light = light.refined(&sample);
        }
        light
    }

    /// One round of iteratively reweighted least squares: what is far from the paper, as ink is, hardly counts.
    fn refined(self, sample: &[Point]) -> Self {
        let off = |&[one, x, y, xx, xy, yy, level, _]: &Point| level - self.at([one, x, y, xx, xy, yy]);
        let offs: Vec<f32> = sample.iter().map(off).collect();
        let scale = scale(&offs);
        let mut sums = [[0.0; 8]; 6];
        for (point, off) in sample.iter().zip(offs) {
            let weight = weight(off, scale);
            for (row, term) in sums.iter_mut().zip(point) {
                for (cell, other) in row.iter_mut().zip(point) {
                    *cell += weight * term * other;
                }
            }
        }
        let equations = sums.map(|[one, x, y, xx, xy, yy, level, _]| [one, x, y, xx, xy, yy, level].map(f64::from));
        Self(solve(equations).map(|factor| factor as f32))
    }

    fn at(self, terms: [f32; 6]) -> f32 {
        self.0.iter().zip(terms).map(|(factor, term)| factor * term).sum()
    }

    fn taken_off(self, picture: &Plane) -> Plane<f32> {
        let Plane { width, height, .. } = *picture;
        let off = |(at, &level)| f32::from(level) - self.at(terms(at % width, at / width, picture));
        Plane { width, height, values: picture.values.iter().enumerate().map(off).collect() }
    }
}

/// The terms of the polynomial, with x and y from −1 to 1.
fn terms(x: usize, y: usize, picture: &Plane) -> [f32; 6] {
    let x = 2.0 * (x as f32 + 0.5) / picture.width as f32 - 1.0;
    let y = 2.0 * (y as f32 + 0.5) / picture.height as f32 - 1.0;
    [1.0, x, y, x * x, x * y, y * y]
}

/// Twice as far off as most: little is left of a weight there.
fn scale(offs: &[f32]) -> f32 {
    (1.5 * quantile(offs.iter().copied(), 0.5)).max(4.0)
}

fn weight(off: f32, scale: f32) -> f32 {
    let ratio = off / scale;
    let base = 1.0 + ratio * ratio;
    1.0 / (base * base)
}

/// Gauss's elimination. A little on the diagonal (ridge) keeps a line of pixels, which has no second axis, solvable.
fn solve(mut equations: [[f64; 7]; 6]) -> [f64; 6] {
    let ridge = 1e-6 * equations[0][0].max(1e-6);
    for (index, row) in equations.iter_mut().enumerate() {
        row[index] += ridge;
    }
    for pivot in 0..6 {
        let from = equations[pivot];
        for row in equations.iter_mut().skip(pivot + 1) {
            let share = row[pivot] / from[pivot];
            for (cell, above) in row.iter_mut().zip(from) {
                *cell -= share * above;
            }
        }
    }
    let mut solution = [0.0; 6];
    for row in (0..6).rev() {
        let known: f64 = (row + 1..6).map(|column| equations[row][column] * solution[column]).sum();
        solution[row] = (equations[row][6] - known) / equations[row][row];
    }
    solution
}

/// What a polynomial cannot follow, the edge of a hand's shadow: takes away the mean of the paper nearby.
///
/// Paper is what is near the mean already, so two rounds find it on both sides of the edge. The window is a quarter
/// of the side, wider than any stroke.
fn follow_shadows(off: &mut Plane<f32>) {
    let (width, height) = (off.width, off.height);
    let reach = (width.max(height) / 8).max(2);
    let scale = scale(&off.values);
    for _ in 0..2 {
        // Sums over all rows above and columns to the left: a window's sum is then four look-ups.
        let stride = width + 1;
        let mut sums = vec![(0.0_f64, 0.0_f64); stride * (height + 1)];
        for y in 0..height {
            let mut row = (0.0, 0.0);
            for x in 0..width {
                let value = off.values[y * width + x];
                let weight = f64::from(self::weight(value, scale));
                row = (row.0 + weight, row.1 + weight * f64::from(value));
                let above = sums[y * stride + x + 1];
                sums[(y + 1) * stride + x + 1] = (above.0 + row.0, above.1 + row.1);
            }
        }
        for y in 0..height {
            let (top, bottom) = (y.saturating_sub(reach) * stride, (y + reach + 1).min(height) * stride);
            for x in 0..width {
                let (left, right) = (x.saturating_sub(reach), (x + reach + 1).min(width));
                let [a, b, c, d] = [bottom + right, top + right, bottom + left, top + left].map(|at| sums[at]);
                let (weight, sum) = (a.0 - b.0 - c.0 + d.0, a.1 - b.1 - c.1 + d.1);
                off.values[y * width + x] -= (sum / weight.max(1e-9)) as f32;
            }
        }
    }
}

/// What this share of the sizes does not exceed, to a sixteenth: they are counted rather than sorted. 0 of none.
fn quantile(values: impl Iterator<Item = f32>, share: f32) -> f32 {
    const STEPS: f32 = 16.0;
    let mut counts = [0_u32; 4096];
    let mut total = 0;
    for value in values {
        counts[((value.abs() * STEPS) as usize).min(counts.len() - 1)] += 1;
        total += 1;
    }
    let index = (total as f32 * share) as u32;
    let mut below = 0;
    let step = counts.iter().position(|count| {
        below += count;
        below > index
    });
    step.map_or(0.0, |step| (step as f32 + 0.5) / STEPS)
}
