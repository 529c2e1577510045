//! Numbers and lists as text. `static/results.js` has the same functions for browsers with JavaScript.

use contract::Scale;

/// Maximum number of values of a list.
const MAX_VALUES: usize = 8;

/// The first of `values`, and the number of the others.
pub(super) fn list(values: &[String]) -> String {
    let first = values.iter().take(MAX_VALUES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match values.len().saturating_sub(MAX_VALUES) {
        0 => first,
        more => format!("{first}, … {more} more"),
    }
}

pub(super) fn dimensions(shape: &[u64]) -> String {
    match shape {
        [] => "scalar".to_owned(),
        shape => shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × "),
    }
}

pub(super) fn count(number: usize, singular: &str, plural: &str) -> String {
    format!("{number} {}", if number == 1 { singular } else { plural })
}

/// A value of a class: a probability as a percentage, a score as a number.
pub(super) fn class_value(value: f32, scale: Scale) -> String {
    if scale == Scale::Probability { percentage(value) } else { plain(value) }
}

/// A threshold, without trailing zeros.
pub(super) fn threshold_text(threshold: f64, scale: Scale) -> String {
    let threshold = threshold as f32;
    if scale == Scale::Probability { format!("{} %", plain(threshold * 100.0)) } else { plain(threshold) }
}

/// A probability as a percentage, never rounded to 0 % or 100 %. A value that is not a probability is a plain number.
pub(super) fn percentage(value: f32) -> String {
    match f64::from(value) * 100.0 {
        percent if (99.995..100.0).contains(&percent) => "> 99.99 %".to_owned(),
        percent if percent > 0.0 && percent < 0.005 => "< 0.01 %".to_owned(),
        percent if (-0.01..=100.01).contains(&percent) => format!("{percent:.2} %"),
        _ => plain(value),
    }
}

/// A number with five significant digits.
pub(super) fn plain(value: f32) -> String {
    format!("{value:.4e}").parse().map_or_else(|_| value.to_string(), |rounded: f64| rounded.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_never_rounded_to_certainty() {
        let shown = [1.0, 0.999_99, 0.5, 0.000_01, 0.0, -3.5, f32::NAN].map(percentage);
        assert_eq!(shown, ["100.00 %", "> 99.99 %", "50.00 %", "< 0.01 %", "0.00 %", "-3.5", "NaN"]);
    }

    #[test]
    fn scores_have_five_significant_digits() {
        let shown = [0.5, 12.345_678, -7.0, 1_234_567.0].map(|value| class_value(value, Scale::Score));
        assert_eq!(shown, ["0.5", "12.346", "-7", "1234600"]);
    }
}
