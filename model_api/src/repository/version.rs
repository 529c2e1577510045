//! Order of version names.

use std::cmp::Ordering;

/// A version name, in natural order. Numbers within a name are compared as numbers, and whole numbers are larger than all other
/// names: `v9` < `v10` < `2` < `10`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version(pub String);

impl Version {
    fn is_whole_number(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let whole = self.is_whole_number().cmp(&other.is_whole_number());
        // `1` and `01` are different folders, so they must not be equal.
        whole.then_with(|| natural_order(&self.0, &other.0)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn natural_order(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() && !right.is_empty() {
        let (ours, theirs);
        (ours, left) = split_first_run(left);
        (theirs, right) = split_first_run(right);
        let order = match (significant_digits(ours), significant_digits(theirs)) {
            // Compared as digit strings, so that numbers of any length work.
            (Some(ours), Some(theirs)) => ours.len().cmp(&theirs.len()).then_with(|| ours.cmp(theirs)),
            _ => ours.cmp(theirs),
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// Splits off the leading run of digits or of other characters.
fn split_first_run(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    text.split_at(text.find(|next: char| next.is_ascii_digit() != digits).unwrap_or(text.len()))
}

/// The digits of a number without leading zeros; `None` for other text.
fn significant_digits(run: &str) -> Option<&str> {
    run.starts_with(|first: char| first.is_ascii_digit()).then(|| run.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_whole_numbers_are_the_largest() {
        let ordered = "1.9.1 1.10 2024-06 2024-11 beta v1 v2 v2-b v10 0 2 010 10 184467440737095516160";
        let mut versions: Vec<_> = ordered.split(' ').rev().map(|name| Version(name.to_owned())).collect();
        versions.sort();
        assert_eq!(versions.iter().map(|version| &*version.0).collect::<Vec<_>>().join(" "), ordered);
    }
}
