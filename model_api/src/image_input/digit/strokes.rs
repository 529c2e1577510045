use super::paper::Ink;
use super::plane::{Plane, Region, quantile};

/// What was found to be the digit.
pub(super) struct Strokes {
    /// The ink, 0–1, and 0 wherever it is none of the strokes'. The whole of what was looked at.
    pub(super) ink: Plane,
    pub(super) bounds: Bounds,
}

/// The box of the strokes, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

/// A stroke begins at this share of full ink …
const CORE: f32 = 0.33;
/// … and its soft edge reaches down to this share, …
const EDGE: f32 = 0.12;
/// … at most so many pixels further.
const EDGE_STEPS: usize = 3;

/// The connected pieces of ink that make the digit. `None` when there are none.
pub(super) fn find(ink: Ink) -> Option<Strokes> {
    let Ink { mut strength, full: strongest, grain } = ink;
    let core = (CORE * strongest).max(4.0 * grain).min(0.7 * strongest);
    let pieces = kept(pieces(&strength, core), &strength);
    // The strongest few pixels told ink from paper; how strong the digit's ink is, only its own strokes tell.
    let mut inked: Vec<f32> = pieces.iter().flat_map(|piece| &piece.pixels).map(|&at| strength.values[at]).collect();
    let full = quantile(&mut inked, 0.8);
    let mut mask = vec![false; strength.values.len()];
    for &index in pieces.iter().flat_map(|piece| &piece.pixels) {
        mask[index] = true;
    }
    grow(&mut mask, &strength, (EDGE * full).max(3.0 * grain), EDGE_STEPS);
    let bounds = Bounds::of(&mask, strength.width)?;

    // Grain is taken off the bottom; a pixel around the strokes is let through, for their faintest edge.
    let floor = (2.0 * grain).min(0.3 * full);
    grow(&mut mask, &strength, 0.0, 1);
    for (value, kept) in strength.values.iter_mut().zip(mask) {
        *value = if kept { ((*value - floor) / (full - floor)).clamp(0.0, 1.0) } else { 0.0 };
    }
    Some(Strokes { ink: strength, bounds })
}

struct Piece {
    pixels: Vec<usize>,
    bounds: Bounds,
    /// All its ink.
    mass: f32,
    /// It reaches the picture's edge.
    cut: bool,
}

/// The pieces above a level that hang together, corners included.
fn pieces(strength: &Plane, level: f32) -> Vec<Piece> {
    let (width, height) = (strength.width, strength.height);
    let mut seen = vec![false; strength.values.len()];
    let mut pieces = Vec::new();
    for start in 0..seen.len() {
        if seen[start] || strength.values[start] <= level {
            continue;
        }
        seen[start] = true;
        let mut pixels = vec![start];
        let mut bounds = Bounds::at(start, width);
        let mut mass = 0.0;
        let mut next = 0;
        while let Some(&index) = pixels.get(next) {
            next += 1;
            mass += strength.values[index];
            bounds.include(index, width);
            for neighbour in around(index, width, height) {
                if !seen[neighbour] && strength.values[neighbour] > level {
                    seen[neighbour] = true;
                    pixels.push(neighbour);
                }
            }
        }
        let cut = bounds.left == 0 || bounds.top == 0 || bounds.right + 1 == width || bounds.bottom + 1 == height;
        pieces.push(Piece { pixels, bounds, mass, cut });
    }
    pieces
}

/// Leaves out the edge of the table, shadows in the corners, dust and specks.
fn kept(mut pieces: Vec<Piece>, strength: &Plane) -> Vec<Piece> {
    let heaviest = |pieces: &[Piece], cut: bool| {
        pieces.iter().filter(|piece| piece.cut == cut).map(|piece| piece.mass).fold(0.0, f32::max)
    };
    if heaviest(&pieces, false) >= 0.15 * heaviest(&pieces, true) && heaviest(&pieces, false) > 0.0 {
        pieces.retain(|piece| !piece.cut);
    }
    let Some(main) = pieces.iter().max_by(|a, b| a.mass.total_cmp(&b.mass)) else { return pieces };
    let (mass, bounds) = (main.mass, main.bounds);
    // A five's roof may stand apart and be light; dust is light and anywhere.
    let near = bounds.longest_side().max(strength.width.min(strength.height) / 20) / 3;
    pieces
        .retain(|piece| piece.mass >= 0.1 * mass || (piece.mass >= 0.02 * mass && piece.bounds.gap_to(bounds) <= near));
    pieces
}

/// Adds neighbours above a level to the mask, so many pixels deep.
fn grow(mask: &mut [bool], strength: &Plane, level: f32, steps: usize) {
    let mut edge: Vec<usize> = (0..mask.len()).filter(|&index| mask[index]).collect();
    for _ in 0..steps {
        let mut further = Vec::new();
        for neighbour in edge.into_iter().flat_map(|index| around(index, strength.width, strength.height)) {
            if !mask[neighbour] && strength.values[neighbour] > level {
                mask[neighbour] = true;
                further.push(neighbour);
            }
        }
        edge = further;
    }
}

/// The up to eight neighbours, and the pixel itself.
fn around(index: usize, width: usize, height: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (index % width, index / width);
    let rows = y.saturating_sub(1)..=(y + 1).min(height - 1);
    rows.flat_map(move |y| (x.saturating_sub(1)..=(x + 1).min(width - 1)).map(move |x| y * width + x))
}

impl Strokes {
    pub(super) fn longest_side(&self) -> usize {
        self.bounds.longest_side()
    }

    /// The strokes with as much paper around them again, as a part of the picture that `looked_at` was a part of.
    pub(super) fn region_around(&self, looked_at: Region) -> Region {
        let ratio_x = f64::from(looked_at.width) / self.ink.width as f64;
        let ratio_y = f64::from(looked_at.height) / self.ink.height as f64;
        let margin = 0.6 * self.longest_side() as f64 + 2.0;
        let span = |first: usize, last: usize, ratio: f64, length: u32| {
            let start = ((first as f64 - margin) * ratio).max(0.0) as u32;
            let end = ((last as f64 + 1.0 + margin) * ratio).ceil().min(f64::from(length)) as u32;
            (start, (end - start).max(1))
        };
        let (left, width) = span(self.bounds.left, self.bounds.right, ratio_x, looked_at.width);
        let (top, height) = span(self.bounds.top, self.bounds.bottom, ratio_y, looked_at.height);
        Region { left: looked_at.left + left, top: looked_at.top + top, width, height }
    }

    /// The ink within the box.
    pub(super) fn boxed(&self) -> Plane {
        self.ink.part(self.bounds.left, self.bounds.top, self.bounds.width(), self.bounds.height())
    }
}

impl Bounds {
    fn at(index: usize, width: usize) -> Self {
        let (x, y) = (index % width, index / width);
        Self { left: x, top: y, right: x, bottom: y }
    }

    fn of(mask: &[bool], width: usize) -> Option<Self> {
        let mut all = (0..mask.len()).filter(|&index| mask[index]);
        let mut bounds = Self::at(all.next()?, width);
        all.for_each(|index| bounds.include(index, width));
        Some(bounds)
    }

    fn include(&mut self, index: usize, width: usize) {
        let (x, y) = (index % width, index / width);
        self.left = self.left.min(x);
        self.right = self.right.max(x);
        self.top = self.top.min(y);
        self.bottom = self.bottom.max(y);
    }

    pub(super) fn width(self) -> usize {
        self.right - self.left + 1
    }

    pub(super) fn height(self) -> usize {
        self.bottom - self.top + 1
    }

    fn longest_side(self) -> usize {
        self.width().max(self.height())
    }

    /// How many pixels lie between two boxes, along the axis where they are further apart.
    fn gap_to(self, other: Self) -> usize {
        let between =
            |first: usize, last: usize, from: usize, to: usize| from.saturating_sub(last).max(first.saturating_sub(to));
        between(self.left, self.right, other.left, other.right).max(between(
            self.top,
            self.bottom,
            other.top,
            other.bottom,
        ))
    }
}
