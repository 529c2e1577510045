//! Comparison of results with tolerances for rounding.
//!
//! Differences are relative to the largest value of the row. Relative to the whole batch, differences in a row of small values
//! would vanish beside a row of large values.

use open_inference::{Datatype, Tensor};

/// Tolerance between batches of the same size, at the same position, as a fraction of the largest value of the row: about a
/// hundred units in the last place. The same kernel adds the same numbers in the same order, so results are bit-identical on a
/// CPU. On a GPU, some kernels add atomically in any order.
const SAME_SIZE_TOLERANCE: f32 = 1e-5;

/// Tolerance between batches of different sizes, as a fraction of the largest value of the row. Another size may use another
/// kernel with other rounding. In a float model that changes some last bits. A quantised model turns a last bit into a whole
/// step if a value lies between two steps: 0.4 % of the range, several times in a deep model.
const OTHER_SIZE_TOLERANCE: f32 = 3e-2;

/// In a row of values close to zero, differences below this fraction of the typical magnitude of the output are rounding.
const NEGLIGIBLE: f32 = 1e-3;

/// Maximum distance of equal results in batches of the same size.
pub fn same_size_tolerance(datatype: Datatype) -> f32 {
    match datatype {
        // Eight units in the last place each.
        Datatype::Fp16 => 4e-3,
        Datatype::Bf16 => 3e-2,
        _ => SAME_SIZE_TOLERANCE,
    }
}

/// Maximum distance of equal results in batches of different sizes.
pub fn other_size_tolerance(datatype: Datatype) -> f32 {
    if datatype == Datatype::Bf16 { 2.0 * OTHER_SIZE_TOLERANCE } else { OTHER_SIZE_TOLERANCE }
}

/// Distance of two results of a row: the largest difference of two elements, divided by the largest magnitude in either or by
/// `NEGLIGIBLE * typical`, whichever is larger. Infinite if shapes differ, if only one value is a number, and for unequal
/// values of datatypes without rounding.
pub fn distance(a: &Tensor, b: &Tensor, typical: f32) -> f32 {
    if a.shape != b.shape || a.datatype != b.datatype {
        return f32::INFINITY;
    }
    if a.data == b.data {
        return 0.0;
    }
    match a.datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            let (a, b) = (a.to_f32(), b.to_f32());
            let scale = largest(&a).max(largest(&b)).max(NEGLIGIBLE * typical);
            largest_difference(&a, &b) / scale.max(f32::MIN_POSITIVE)
        }
        // Results of a quantised model with integer outputs.
        Datatype::Int8 | Datatype::Uint8 => largest_difference(&a.to_f32(), &b.to_f32()) / 255.0,
        _ => f32::INFINITY,
    }
}

/// The largest finite magnitude in the tensor, or 0.
pub fn magnitude(tensor: &Tensor) -> f32 {
    if tensor.datatype == Datatype::Bytes { 0.0 } else { largest(&tensor.to_f32()) }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().filter(|value| value.is_finite()).fold(0.0, |largest, value| largest.max(value.abs()))
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let difference = |(a, b): (&f32, &f32)| {
        if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) {
            0.0
        } else if a.is_finite() && b.is_finite() {
            (a - b).abs()
        } else {
            f32::INFINITY
        }
    };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "zero and infinity are exact")]
mod tests {
    use super::*;

    fn tensor(datatype: Datatype, values: &[f32]) -> Tensor {
        Tensor::from_f32("y", datatype, vec![1, values.len()], values).unwrap()
    }

    fn distance_of(a: &[f32], b: &[f32]) -> f32 {
        distance(&tensor(Datatype::Fp32, a), &tensor(Datatype::Fp32, b), 1.0)
    }

    #[test]
    fn distances_are_relative_to_the_largest_value_of_the_row() {
        assert_eq!(distance_of(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((distance_of(&[0.002, 0.010], &[0.001, 0.010]) - 0.1).abs() < 1e-3);
        assert!(distance_of(&[1.0, 2.0], &[1.0, 2.000_001]) < SAME_SIZE_TOLERANCE);
        assert!(distance_of(&[1.0, 2.0], &[1.0, 2.1]) > OTHER_SIZE_TOLERANCE);
        assert!(distance_of(&[1e-9, 0.0], &[-1e-9, 1e-9]) < SAME_SIZE_TOLERANCE, "rounding around zero");
        assert!(
            distance(&tensor(Datatype::Fp32, &[0.0]), &tensor(Datatype::Fp32, &[1e-9]), 0.0) > OTHER_SIZE_TOLERANCE
        );
    }

    #[test]
    fn nan_and_infinity_must_match() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(distance_of(&[nan, infinite], &[nan, infinite]), 0.0);
        for other in [[nan, 1.0], [1.0, infinite], [nan, -infinite]] {
            assert_eq!(distance_of(&[nan, infinite], &other), f32::INFINITY);
        }
    }

    #[test]
    fn only_eight_bit_integers_have_a_tolerance_among_integers_and_strings() {
        let whole = |datatype, a: f32, b: f32| distance(&tensor(datatype, &[a]), &tensor(datatype, &[b]), 1.0);
        assert_eq!((whole(Datatype::Int64, 3.0, 3.0), whole(Datatype::Int64, 3.0, 4.0)), (0.0, f32::INFINITY));
        assert!(
            whole(Datatype::Uint8, 100.0, 102.0) < OTHER_SIZE_TOLERANCE
                && whole(Datatype::Uint8, 100.0, 102.0) > SAME_SIZE_TOLERANCE
        );
        let words = |word: &str| Tensor::from_strings("y", vec![1], [word]);
        assert_eq!(distance(&words("a"), &words("b"), 1.0), f32::INFINITY);
        assert_eq!(distance_of(&[1.0], &[1.0, 2.0]), f32::INFINITY);
    }
}
