//! Illumination model of a photograph: the polynomial `a + bx + cy + dx² + exy + fy²`, fitted robustly, then a local mean for the
//! edges of shadows.

use super::background::{
    BACKGROUND_FRACTION, ForegroundMap, MAX_SPECK_AREA, border, foreground_threshold, is_foreground, noise_sigma,
};
use super::plane::Plane;

/// Subtracts a background that is not uniform.
pub(super) fn subtract(image: &Plane, shade: u8) -> Option<ForegroundMap> {
    let mut residual = Illumination::fit(image, shade).subtract_from(image);
    subtract_local_mean(&mut residual);
    let every = (residual.values.len() / 4096).max(1);
    let noise_sigma = noise_sigma(quantile(residual.values.iter().step_by(every).copied(), BACKGROUND_FRACTION));

    let threshold = foreground_threshold(noise_sigma);
    let mass = |sign: f32| -> f32 { residual.values.iter().map(|value| (value * sign - threshold).max(0.0)).sum() };
    let sign = if mass(-1.0) > mass(1.0) { -1.0 } else { 1.0 };
    let mut strongest = [0.0_f32; MAX_SPECK_AREA + 1];
    for &value in &residual.values {
        if value * sign > strongest[MAX_SPECK_AREA] {
            strongest[MAX_SPECK_AREA] = value * sign;
            strongest.sort_unstable_by(|a, b| b.total_cmp(a));
        }
    }
    // With no more pixels than [`MAX_SPECK_AREA`], the strongest counts.
    let full = if residual.values.len() > MAX_SPECK_AREA { strongest[MAX_SPECK_AREA] } else { strongest[0] };
    if !is_foreground(full, noise_sigma) {
        return None;
    }
    // Scales faint strokes to 255, so that a byte has enough precision.
    let factor = 255.0 / full;
    let values = residual.values.iter().map(|value| (value * sign * factor + 0.5) as u8).collect();
    Some(ForegroundMap {
        strength: Plane { width: residual.width, height: residual.height, values },
        full: 255.0,
        noise_sigma: noise_sigma * factor,
    })
}

/// Coefficients of [`terms`].
#[derive(Clone, Copy)]
struct Illumination([f32; 6]);

/// Terms and level of a pixel, padded to eight numbers for vectorisation.
type Sample = [f32; 8];

impl Illumination {
    fn fit(image: &Plane, shade: u8) -> Self {
        let point = |(x, y): (usize, usize)| {
            let [one, x_1, y_1, xx, xy, yy] = terms(x, y, image);
            [one, x_1, y_1, xx, xy, yy, image.values[y * image.width + x].into(), 0.0]
        };
        let border: Vec<Sample> = border(image).map(point).collect();
        let mut illumination = Self([f32::from(shade), 0.0, 0.0, 0.0, 0.0, 0.0]);
        for _ in 0..5 {
            illumination = illumination.refit(&border);
        }
        // The border determines the level of the background. A sample of the whole image then refines how it changes.
        let step = (image.values.len() / 2500).max(1);
        let coordinates = (0..image.values.len()).step_by(step).map(|at| (at % image.width, at / image.width));
        let sample: Vec<Sample> = coordinates.map(point).collect();
        for _ in 0..4 {
            illumination = illumination.refit(&sample);
        }
        illumination
    }

    /// One iteration of iteratively reweighted least squares: pixels far from the background, such as strokes, get little weight.
    fn refit(self, sample: &[Sample]) -> Self {
        let residual = |&[one, x, y, xx, xy, yy, level, _]: &Sample| level - self.at([one, x, y, xx, xy, yy]);
        let residuals: Vec<f32> = sample.iter().map(residual).collect();
        let scale = scale(&residuals);
        let mut sums = [[0.0; 8]; 6];
        for (point, residual) in sample.iter().zip(residuals) {
            let weight = weight(residual, scale);
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

    fn subtract_from(self, image: &Plane) -> Plane<f32> {
        let Plane { width, height, .. } = *image;
        let residual = |(at, &level)| f32::from(level) - self.at(terms(at % width, at / width, image));
        Plane { width, height, values: image.values.iter().enumerate().map(residual).collect() }
    }
}

/// Terms of the polynomial, with x and y from −1 to 1.
fn terms(x: usize, y: usize, image: &Plane) -> [f32; 6] {
    let x = 2.0 * (x as f32 + 0.5) / image.width as f32 - 1.0;
    let y = 2.0 * (y as f32 + 0.5) / image.height as f32 - 1.0;
    [1.0, x, y, x * x, x * y, y * y]
}

/// Scale of the weight function: residuals of twice this scale have almost no weight.
fn scale(residuals: &[f32]) -> f32 {
    (1.5 * quantile(residuals.iter().copied(), 0.5)).max(4.0)
}

fn weight(residual: f32, scale: f32) -> f32 {
    let ratio = residual / scale;
    let base = 1.0 + ratio * ratio;
    1.0 / (base * base)
}

/// Gaussian elimination. A small ridge on the diagonal keeps a single row or column of pixels solvable.
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

/// Subtracts the local mean of the background, for what a polynomial cannot follow: the edge of a shadow.
///
/// Pixels near the mean count as background, so two iterations find it on both sides of the edge. The window is a quarter of the
/// side, which is wider than any stroke.
fn subtract_local_mean(residual: &mut Plane<f32>) {
    let (width, height) = (residual.width, residual.height);
    let reach = (width.max(height) / 8).max(2);
    let scale = scale(&residual.values);
    for _ in 0..2 {
        // Summed-area table: the sum of a window takes four lookups.
        let stride = width + 1;
        let mut sums = vec![(0.0_f64, 0.0_f64); stride * (height + 1)];
        for y in 0..height {
            let mut row = (0.0, 0.0);
            for x in 0..width {
                let value = residual.values[y * width + x];
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
                residual.values[y * width + x] -= (sum / weight.max(1e-9)) as f32;
            }
        }
    }
}

/// Quantile of the absolute values, with a resolution of a sixteenth, from a histogram instead of a sort. 0 without values.
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
