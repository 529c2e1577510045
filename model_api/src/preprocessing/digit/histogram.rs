//! Histogram of 8-bit levels.

/// Histogram of levels. Statistics of many pixels need only its 256 numbers.
pub(super) struct Histogram([u32; 256]);

impl Histogram {
    pub(super) fn of(levels: &[u8]) -> Self {
        let mut counts = [0; 256];
        for &level in levels {
            counts[usize::from(level)] += 1;
        }
        Self(counts)
    }

    /// Histogram of the distances from this level.
    pub(super) fn distances_from(&self, level: u8) -> Self {
        let mut counts = [0; 256];
        self.iter().for_each(|(other, count)| counts[usize::from(other.abs_diff(level))] += count);
        Self(counts)
    }

    /// Each level and its count, from the darkest.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u8, u32)> {
        self.0.iter().enumerate().map(|(level, &count)| (level as u8, count))
    }

    pub(super) fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// The highest level without this many outliers; the highest of all where there are no more pixels than that.
    pub(super) fn max_without(&self, outliers: u32) -> u8 {
        Self::level_at_rank(self.iter().rev(), self.outliers_to_skip(outliers))
    }

    /// The lowest level without this many outliers, with the same exception.
    pub(super) fn min_without(&self, outliers: u32) -> u8 {
        Self::level_at_rank(self.iter(), self.outliers_to_skip(outliers))
    }

    fn outliers_to_skip(&self, outliers: u32) -> u32 {
        if self.total() > outliers { outliers } else { 0 }
    }

    fn level_at_rank(mut levels: impl Iterator<Item = (u8, u32)>, passed: u32) -> u8 {
        let mut seen = 0;
        let found = levels.find(|(_, count)| {
            seen += count;
            seen > passed
        });
        found.map_or(0, |(level, _)| level)
    }

    /// The level at this quantile; 0 for an empty histogram.
    pub(super) fn quantile(&self, share: f32) -> u8 {
        let total = self.total();
        Self::level_at_rank(self.iter(), ((total as f32 * share) as u32).min(total.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_matches_sorting() {
        let levels = [9, 3, 3, 200, 7, 0, 255, 3, 41, 9];
        let mut sorted = levels;
        sorted.sort_unstable();
        for (index, level) in sorted.into_iter().enumerate() {
            assert_eq!(Histogram::of(&levels).quantile(index as f32 / 10.0 + 0.05), level);
        }
        assert_eq!(Histogram::of(&levels).quantile(1.0), 255);
        assert_eq!(Histogram::of(&[]).quantile(0.5), 0);
    }

    #[test]
    fn outliers_are_ignored_where_there_are_more_pixels() {
        let counts = Histogram::of(&[10, 200, 200, 255, 30]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|outliers| counts.max_without(outliers)), [255, 200, 200, 30, 10, 255]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|outliers| counts.min_without(outliers)), [10, 30, 200, 200, 255, 10]);
    }

    #[test]
    fn distances_are_counted_on_both_sides() {
        let distances = Histogram::of(&[10, 12, 8, 255]).distances_from(10);
        let found: Vec<_> = distances.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!((found, distances.total()), (vec![(0, 1), (2, 2), (245, 1)], 4));
    }
}
