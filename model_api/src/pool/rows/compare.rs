//! Comparison of a row's results with tolerances for rounding.
//!
//! A difference is measured against the largest value of the row itself. Measured against the whole batch, the differences
//! of a row of small values would vanish beside a row of large ones.

use open_inference::{Datatype, Tensor};

/// Between batches of one size, at one position, as a part of the row's largest value. The same kernel then adds the same
/// numbers in the same order, so results of a row are equal to the last bit on a CPU; on a graphics card some kernels add
/// atomically, in any order. About a hundred last bits of a float.
const SAME_SIZE: f32 = 1e-5;

/// Between batches of different sizes, as a part of the row's largest value. Another size can have another kernel, which
/// rounds differently. In a float model that is some last bits, but a quantised model turns a last bit into a whole step
/// where a value lies between two steps: 0.4 % of the range, several times in a deep model.
const OTHER_SIZE: f32 = 3e-2;

/// Differences below this part of what is usual for an output are rounding in a row whose values are all next to zero.
const NEGLIGIBLE: f32 = 1e-3;

/// Up to which distance results of batches of the same size are equal.
pub fn same_size(datatype: Datatype) -> f32 {
    match datatype {
        // Eight last bits each.
        Datatype::Fp16 => 4e-3,
        Datatype::Bf16 => 3e-2,
        _ => SAME_SIZE,
    }
}

/// Up to which distance results of batches of different sizes are equal.
pub fn other_size(datatype: Datatype) -> f32 {
    if datatype == Datatype::Bf16 { 2.0 * OTHER_SIZE } else { OTHER_SIZE }
}

/// How far results of one row are apart: the largest difference of two elements, as a part of the largest magnitude in
/// either, or of `NEGLIGIBLE * usual` where that is more. Infinite where shapes differ, where only one is a number, and for
/// datatypes that are not rounded.
pub fn distance(a: &Tensor, b: &Tensor, usual: f32) -> f32 {
    if a.shape != b.shape || a.datatype != b.datatype {
        return f32::INFINITY;
    }
    if a.data == b.data {
        return 0.0;
    }
    match a.datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            let (a, b) = (a.to_f32(), b.to_f32());
            let scale = largest(&a).max(largest(&b)).max(NEGLIGIBLE * usual);
            largest_difference(&a, &b) / scale.max(f32::MIN_POSITIVE)
        }
        // The results of a quantised model that ends in integers.
        Datatype::Int8 | Datatype::Uint8 => largest_difference(&a.to_f32(), &b.to_f32()) / 255.0,
        _ => f32::INFINITY,
    }
}

/// The largest magnitude of a number in it; 0 where there is none.
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

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        distance(&tensor(Datatype::Fp32, a), &tensor(Datatype::Fp32, b), 1.0)
    }

    #[test]
    fn a_difference_is_a_part_of_the_rows_own_largest_value() {
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((apart(&[0.002, 0.010], &[0.001, 0.010]) - 0.1).abs() < 1e-3);
        assert!(apart(&[1.0, 2.0], &[1.0, 2.000_001]) < SAME_SIZE);
        assert!(apart(&[1.0, 2.0], &[1.0, 2.1]) > OTHER_SIZE);
        assert!(apart(&[1e-9, 0.0], &[-1e-9, 1e-9]) < SAME_SIZE, "rounding around zero");
        assert!(distance(&tensor(Datatype::Fp32, &[0.0]), &tensor(Datatype::Fp32, &[1e-9]), 0.0) > OTHER_SIZE);
    }

    #[test]
    fn what_is_no_number_must_be_none_on_both_sides() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(apart(&[nan, infinite], &[nan, infinite]), 0.0);
        for other in [[nan, 1.0], [1.0, infinite], [nan, -infinite]] {
            assert_eq!(apart(&[nan, infinite], &other), f32::INFINITY);
        }
    }

    #[test]
    fn integers_and_strings_are_not_rounded_except_small_ones_of_quantised_models() {
        let whole = |datatype, a: f32, b: f32| distance(&tensor(datatype, &[a]), &tensor(datatype, &[b]), 1.0);
        assert_eq!((whole(Datatype::Int64, 3.0, 3.0), whole(Datatype::Int64, 3.0, 4.0)), (0.0, f32::INFINITY));
        assert!(whole(Datatype::Uint8, 100.0, 102.0) < OTHER_SIZE && whole(Datatype::Uint8, 100.0, 102.0) > SAME_SIZE);
        let words = |word: &str| Tensor::from_strings("y", vec![1], [word]);
        assert_eq!(distance(&words("a"), &words("b"), 1.0), f32::INFINITY);
        assert_eq!(apart(&[1.0], &[1.0, 2.0]), f32::INFINITY);
    }
}
