use super::counts::Counts;
use super::mask::{Bounds, Mask, Run};
use super::paper::Ink;
use super::plane::{Plane, Region};

/// What was found to be the digit.
pub(super) struct Strokes {
    /// How strong the ink is. The whole of what was looked at.
    strength: Plane,
    /// The strokes, and a pixel around them.
    kept: Mask,
    /// Of the strokes alone.
    bounds: Bounds,
    /// Ink is none up to here …
    floor: f32,
    /// … and full from here.
    full: f32,
}

/// A stroke begins at this share of full ink …
const CORE: f32 = 0.33;
/// … and its soft edge reaches down to this share, …
const EDGE: f32 = 0.12;
/// … at most so many pixels further.
const EDGE_STEPS: usize = 3;

/// The connected pieces of ink that make the digit. `None` when there are none.
pub(super) fn find(ink: Ink) -> Option<Strokes> {
    let Ink { strength, full: strongest, grain } = ink;
    let core = (CORE * strongest).max(4.0 * grain).min(0.7 * strongest);
    let runs: Vec<Run> = kept(pieces(&strength, core), &strength).into_iter().flat_map(|piece| piece.runs).collect();
    // The strongest few pixels told ink from paper; how strong the digit's ink is, only its own strokes tell.
    let inked: Vec<u8> = runs.iter().flat_map(|run| run.of(&strength)).copied().collect();
    let full = f32::from(Counts::of(&inked).quantile(0.8));
    let mut mask = Mask::none(strength.height);
    for &run in &runs {
        mask.add(run);
    }
    let soft = Mask::above(&strength, (EDGE * full).max(3.0 * grain));
    for _ in 0..EDGE_STEPS {
        mask = mask.grown(&soft);
    }
    let bounds = mask.bounds()?;

    // Grain is taken off the bottom; a pixel around the strokes is let through, for their faintest edge.
    let floor = (2.0 * grain).min(0.3 * full);
    let kept = mask.grown(&Mask::all(strength.height));
    Some(Strokes { strength, kept, bounds, floor, full })
}

struct Piece {
    runs: Vec<Run>,
    bounds: Bounds,
    /// All its ink.
    mass: f32,
    /// It reaches the picture's edge.
    cut: bool,
}

/// The pieces above a level that hang together, corners included, in the order of their first pixels.
fn pieces(strength: &Plane, level: f32) -> Vec<Piece> {
    let runs = Mask::above(strength, level).runs();
    // Each run names an earlier one of its piece, or itself.
    let mut earlier: Vec<usize> = (0..runs.len()).collect();
    let mut first_above = 0;
    for (index, &run) in runs.iter().enumerate() {
        while runs[first_above].row + 1 < run.row {
            first_above += 1;
        }
        // Those above that end left of this one end left of all that come after it in its row.
        while runs[first_above].row + 1 == run.row && runs[first_above].right + 1 < run.left {
            first_above += 1;
        }
        for above in (first_above..index).take_while(|&above| runs[above].touches(run)) {
            let (one, other) = (first(&mut earlier, above), first(&mut earlier, index));
            earlier[one.max(other)] = one.min(other);
        }
    }

    let mut pieces: Vec<Piece> = Vec::new();
    let mut place = vec![0; runs.len()];
    for (index, &run) in runs.iter().enumerate() {
        let first = first(&mut earlier, index);
        if first == index {
            place[index] = pieces.len();
            pieces.push(Piece { runs: Vec::new(), bounds: Bounds::of(run), mass: 0.0, cut: false });
        }
        let piece = &mut pieces[place[first]];
        piece.runs.push(run);
        piece.bounds = piece.bounds.with(Bounds::of(run));
        piece.mass += run.of(strength).iter().map(|&value| u32::from(value)).sum::<u32>() as f32;
    }
    let (right, bottom) = (strength.width - 1, strength.height - 1);
    for Piece { bounds, cut, .. } in &mut pieces {
        *cut = bounds.left == 0 || bounds.top == 0 || bounds.right == right || bounds.bottom == bottom;
    }
    pieces
}

/// The first run of this one's piece. What is passed on the way is brought half of the way nearer to it.
fn first(earlier: &mut [usize], mut index: usize) -> usize {
    while earlier[index] != index {
        earlier[index] = earlier[earlier[index]];
        index = earlier[index];
    }
    index
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

impl Run {
    fn of(self, plane: &Plane) -> &[u8] {
        &plane.values[self.row * plane.width..][self.left..=self.right]
    }
}

impl Strokes {
    pub(super) fn longest_side(&self) -> usize {
        self.bounds.longest_side()
    }

    /// The strokes with as much paper around them again, as a part of the picture that `looked_at` was a part of.
    pub(super) fn region_around(&self, looked_at: Region) -> Region {
        let ratio_x = f64::from(looked_at.width) / self.strength.width as f64;
        let ratio_y = f64::from(looked_at.height) / self.strength.height as f64;
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

    /// The ink within the box, full as 255, and 0 wherever it is none of the strokes'.
    pub(super) fn boxed(&self) -> Plane {
        let slope = 255.0 / (self.full - self.floor);
        let ink: [u8; 256] = std::array::from_fn(|value| ((value as f32 - self.floor) * slope + 0.5) as u8);
        let Bounds { left, top, right, bottom } = self.bounds;
        let mut values = Vec::with_capacity(self.bounds.width() * self.bounds.height());
        for (y, row) in self.strength.rows().enumerate().take(bottom + 1).skip(top) {
            let ink = |x: usize| if self.kept.has(x, y) { ink[usize::from(row[x])] } else { 0 };
            values.extend((left..=right).map(ink));
        }
        Plane { width: self.bounds.width(), height: self.bounds.height(), values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_hangs_together_by_sides_or_corners() {
        let rows = "#..#..#
                    ##.#.#.
                    ..#....
                    .....#.
                    #.#.#.#
                    ###....";
        let values = rows
            .lines()
            .flat_map(|row| row.trim_start().bytes())
            .map(|byte| if byte == b'#' { 9 } else { 0 })
            .collect();
        let found = pieces(&Plane { width: 7, height: 6, values }, 5.0);
        let sizes: Vec<_> = found.iter().map(|piece| piece.mass / 9.0).collect();
        assert_eq!(sizes, [6.0, 2.0, 3.0, 5.0]);
        assert_eq!(found[0].bounds, Bounds { left: 0, top: 0, right: 3, bottom: 2 });
        assert!(found.iter().all(|piece| piece.cut));
    }
}
