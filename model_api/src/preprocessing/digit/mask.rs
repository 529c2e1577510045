//! Bit masks, their runs and bounding boxes.

use super::plane::Plane;

/// Maximum width of a mask: a row is one number, whose lowest bit is the leftmost pixel.
pub(super) const MAX_WIDTH: usize = u128::BITS as usize;

/// Bit mask of a plane's pixels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mask {
    rows: Vec<u128>,
}

/// Adjacent pixels of one row, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) row: usize,
    pub(super) left: usize,
    pub(super) right: usize,
}

/// Bounding box, ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) right: usize,
    pub(super) bottom: usize,
}

impl Mask {
    pub(super) fn empty(height: usize) -> Self {
        Self { rows: vec![0; height] }
    }

    pub(super) fn full(height: usize) -> Self {
        Self { rows: vec![u128::MAX; height] }
    }

    /// The pixels above this level, with at most [`MAX_WIDTH`] per row.
    pub(super) fn threshold(plane: &Plane, level: f32) -> Self {
        let level = level.clamp(0.0, 255.0) as u8;
        let row = |row: &[u8]| row.iter().rev().fold(0, |bits, &value| bits << 1 | u128::from(value > level));
        Self { rows: plane.rows().map(row).collect() }
    }

    pub(super) fn insert(&mut self, run: Run) {
        let ones = u128::MAX >> (MAX_WIDTH - 1 - (run.right - run.left));
        self.rows[run.row] |= ones << run.left;
    }

    /// Dilation by the eight neighbours of each pixel, restricted to `within`.
    pub(super) fn dilate(&self, within: &Self) -> Self {
        let wide = |row: u128| row | row << 1 | row >> 1;
        let at = |row: usize| self.rows.get(row).copied().map_or(0, wide);
        let grown = |(row, within): (usize, &u128)| {
            let near = at(row.wrapping_sub(1)) | at(row) | at(row + 1);
            near & within | self.rows[row]
        };
        Self { rows: within.rows.iter().enumerate().map(grown).collect() }
    }

    pub(super) fn contains(&self, x: usize, y: usize) -> bool {
        self.rows[y] >> x & 1 == 1
    }

    /// The runs from the top, and within a row from the left.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for (row, &bits) in self.rows.iter().enumerate() {
            let mut rest = bits;
            while rest != 0 {
                let left = rest.trailing_zeros();
                let length = (rest >> left).trailing_ones();
                let right = left + length - 1;
                runs.push(Run { row, left: left as usize, right: right as usize });
                rest &= u128::MAX.checked_shl(right + 1).unwrap_or(0);
            }
        }
        runs
    }

    /// `None` for an empty mask.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        let top = self.rows.iter().position(|&row| row != 0)?;
        let bottom = self.rows.iter().rposition(|&row| row != 0)?;
        let all = self.rows.iter().fold(0, |all, row| all | row);
        let (left, right) = (all.trailing_zeros() as usize, MAX_WIDTH - 1 - all.leading_zeros() as usize);
        Some(Bounds { left, top, right, bottom })
    }
}

impl Run {
    /// Whether `below` is in the next row and touches this run, corners included.
    pub(super) fn touches(self, below: Self) -> bool {
        self.row + 1 == below.row && self.left <= below.right + 1 && below.left <= self.right + 1
    }
}

impl Bounds {
    pub(super) fn from_run(run: Run) -> Self {
        Self { left: run.left, top: run.row, right: run.right, bottom: run.row }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }

    pub(super) fn width(self) -> usize {
        self.right - self.left + 1
    }

    pub(super) fn height(self) -> usize {
        self.bottom - self.top + 1
    }

    pub(super) fn longest_side(self) -> usize {
        self.width().max(self.height())
    }

    /// Pixels between two boxes, along the axis with the larger gap.
    pub(super) fn gap_to(self, other: Self) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(rows: &[&str]) -> Plane {
        let values = rows.iter().flat_map(|row| row.bytes()).map(|byte| if byte == b'#' { 200 } else { 10 }).collect();
        Plane { width: rows[0].len(), height: rows.len(), values }
    }

    #[test]
    fn runs_and_bounds_cover_the_pixels_above_the_level() {
        let mask = Mask::threshold(&plane(&["..........", "..##...###", "......#..."]), 199.9);
        let runs = [(1, 2, 3), (1, 7, 9), (2, 6, 6)].map(|(row, left, right)| Run { row, left, right });
        assert_eq!(mask.runs(), runs);
        assert_eq!(mask.bounds(), Some(Bounds { left: 2, top: 1, right: 9, bottom: 2 }));
        assert!(runs[1].touches(runs[2]) && !runs[0].touches(runs[2]) && !runs[0].touches(runs[1]));
        assert_eq!(Mask::threshold(&plane(&["##"]), 200.0).bounds(), None);
    }

    #[test]
    fn the_widest_row_has_a_last_pixel() {
        let mask = Mask::threshold(&plane(&[&"#".repeat(MAX_WIDTH)]), 0.0);
        assert_eq!(mask.runs(), [Run { row: 0, left: 0, right: MAX_WIDTH - 1 }]);
        assert!(mask.contains(MAX_WIDTH - 1, 0));
        let mut again = Mask::empty(1);
        again.insert(mask.runs()[0]);
        assert_eq!(again, mask);
    }

    #[test]
    fn a_mask_is_dilated_within_another_mask() {
        let mask = Mask::threshold(&plane(&[".....", ".#...", "....."]), 100.0);
        let within = Mask::threshold(&plane(&["#.###", "..#..", "...#."]), 100.0);
        assert_eq!(mask.dilate(&within), Mask::threshold(&plane(&["#.#..", ".##..", "....."]), 100.0));
    }
}
