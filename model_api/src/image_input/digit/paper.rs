use super::plane::{Plane, quantile};

/// The ink above the paper, whichever way round it was.
pub(super) struct Ink {
    /// How much each pixel stands out from the paper, 0–255; 0 on the paper and on what is the other way round.
    pub(super) strength: Plane,
    /// How strong full ink is.
    pub(super) full: f32,
    /// The standard deviation of the paper's grain.
    pub(super) grain: f32,
}

/// Fainter than this is a blank page, not ink.
const FAINTEST: f32 = 10.0;

/// The frame is taken for even when this share of it is within [`EVEN`] of its median.
const EVEN_SHARE: f32 = 0.7;
const EVEN: f32 = 4.0;

/// Takes the paper away: finds its shade from the picture's frame, follows the light over it, and keeps what stands
/// out to the side that has more. `None` for a blank page.
pub(super) fn lift(picture: &Plane) -> Option<Ink> {
    let paper = Paper::of(picture);
    let mut strength = picture.clone();
    for (index, value) in strength.values.iter_mut().enumerate() {
        *value -= paper.at(index % picture.width, index / picture.width, picture);
    }
    if let Paper::Shaded(_) = paper {
        follow_shadows(&mut strength);
    }
    let every = (strength.values.len() / 4096).max(1);
    let mut off: Vec<f32> = strength.values.iter().step_by(every).map(|value| value.abs()).collect();
    // Two fifths of normally distributed grain are within 0.524 deviations; bold ink may cover the other three.
    let grain = quantile(&mut off, 0.4) / 0.524;

    let beyond = (4.0 * grain).min(64.0);
    let light: f32 = strength.values.iter().map(|value| (value - beyond).max(0.0)).sum();
    let dark: f32 = strength.values.iter().map(|value| (-value - beyond).max(0.0)).sum();
    let sign = if dark > light { -1.0 } else { 1.0 };
    for value in &mut strength.values {
        *value = (*value * sign).max(0.0);
    }

    // A digit may be a hundredth of the picture; a pixel or two are none, but dust or a dead cell of the camera.
    let full = fourth_largest(&strength.values);
    (full >= FAINTEST && full >= 5.0 * grain).then_some(Ink { strength, full, grain })
}

fn fourth_largest(values: &[f32]) -> f32 {
    let mut largest = [0.0_f32; 4];
    for &value in values {
        if value > largest[3] {
            largest[3] = value;
            largest.sort_unstable_by(|a, b| b.total_cmp(a));
        }
    }
    // Of a picture of fewer pixels the largest counts.
    if values.len() < 4 { largest[0] } else { largest[3] }
}

/// The shade of the paper at each place.
enum Paper {
    /// One shade: a canvas, a scan.
    Even(f32),
    /// A photograph: the light falls off like `a + bx + cy + dx² + exy + fy²`, near enough.
    Shaded([f32; 6]),
}

impl Paper {
    fn of(picture: &Plane) -> Self {
        let frame = frame(picture);
        let mut shades: Vec<f32> = frame.iter().map(|&index| picture.values[index]).collect();
        let shade = quantile(&mut shades, 0.5);
        let even = shades.iter().filter(|value| (*value - shade).abs() <= EVEN).count();
        if even as f32 >= EVEN_SHARE * shades.len() as f32 {
            return Self::Even(shade);
        }
        let mut paper = Self::Even(shade);
        for _ in 0..5 {
            paper = paper.refined(picture, &frame, 1.5);
        }
        // The frame has told which shade is paper; now all of the picture that has it may say how it changes.
        let step = (picture.values.len() / 2500).max(1);
        let sample: Vec<usize> = (0..picture.values.len()).step_by(step).collect();
        for _ in 0..4 {
            paper = paper.refined(picture, &sample, 1.5);
        }
        paper
    }

    fn at(&self, x: usize, y: usize, picture: &Plane) -> f32 {
        match self {
            Self::Even(shade) => *shade,
            Self::Shaded(factors) => factors.iter().zip(terms(x, y, picture)).map(|(factor, term)| factor * term).sum(),
        }
    }

    /// One round of iteratively reweighted least squares: what is far from the paper, as ink is, hardly counts.
    fn refined(&self, picture: &Plane, sample: &[usize], tolerance: f32) -> Self {
        let places = |index: usize| (index % picture.width, index / picture.width);
        let off = |index: usize| {
            let (x, y) = places(index);
            (picture.values[index] - self.at(x, y, picture)).abs()
        };
        let mut offs: Vec<f32> = sample.iter().map(|&index| off(index)).collect();
        let scale = (tolerance * quantile(&mut offs, 0.5)).max(4.0);
        let mut equations = [[0.0; 7]; 6];
        for &index in sample {
            let (x, y) = places(index);
            let weight = 1.0 / (1.0 + (off(index) / scale).powi(2)).powi(2);
            let terms = terms(x, y, picture);
            for (row, term) in equations.iter_mut().zip(terms) {
                for (cell, other) in row.iter_mut().zip(terms) {
                    *cell += f64::from(weight * term * other);
                }
                row[6] += f64::from(weight * term * picture.values[index]);
            }
        }
        Self::Shaded(solve(equations).map(|factor| factor as f32))
    }
}

/// What a polynomial cannot follow, the edge of a hand's shadow: takes away the mean of the paper nearby.
///
/// Paper is what is near the mean already, so two rounds find it on both sides of the edge. The window is a quarter
/// of the side, wider than any stroke.
fn follow_shadows(off: &mut Plane) {
    let (width, height) = (off.width, off.height);
    let reach = (width.max(height) / 8).max(2);
    let mut sizes: Vec<f32> = off.values.iter().map(|value| value.abs()).collect();
    let scale = (1.5 * quantile(&mut sizes, 0.5)).max(4.0);
    for _ in 0..2 {
        // Sums over all rows above and columns to the left: a window's sum is then four look-ups.
        let stride = width + 1;
        let mut sums = vec![(0.0_f64, 0.0_f64); stride * (height + 1)];
        for y in 0..height {
            let mut row = (0.0, 0.0);
            for x in 0..width {
                let value = off.values[y * width + x];
                let weight = f64::from(1.0 / (1.0 + (value / scale).powi(2)).powi(2));
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

/// The pixels along the edges, a fortieth of the side deep.
fn frame(picture: &Plane) -> Vec<usize> {
    let deep = (picture.width.min(picture.height) / 40).max(1);
    let inside = |at: usize, length: usize| at >= deep && at + deep < length;
    (0..picture.values.len())
        .filter(|index| {
            !(inside(index % picture.width, picture.width) && inside(index / picture.width, picture.height))
        })
        .collect()
}

/// The terms of the polynomial, with x and y from −1 to 1.
fn terms(x: usize, y: usize, picture: &Plane) -> [f32; 6] {
    let x = 2.0 * (x as f32 + 0.5) / picture.width as f32 - 1.0;
    let y = 2.0 * (y as f32 + 0.5) / picture.height as f32 - 1.0;
    [1.0, x, y, x * x, x * y, y * y]
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
