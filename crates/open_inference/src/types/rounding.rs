//! Correct rounding of `f64` to half precision.

use half::{bf16, f16};

/// Nearest `f16`. The conversion of the `half` crate from `f64` rounds twice, or drops lower bits before it rounds.
pub(crate) fn to_f16(value: f64) -> f16 {
    f16::from_f32(to_odd(value))
}

/// Nearest `bf16`.
pub(crate) fn to_bf16(value: f64) -> bf16 {
    bf16::from_f32(to_odd(value))
}

/// Rounds to odd: an inexact result gets an odd last bit, so that the second rounding never sees a false tie. Source:
/// Boldo and Melquiond, "When double rounding is odd" (2005).
#[expect(clippy::float_cmp, reason = "exact equality is intended")]
fn to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let bits = nearest.to_bits();
    if f64::from(nearest) == value || nearest.is_nan() || bits & 1 == 1 {
        return nearest;
    }
    f32::from_bits(if f64::from(nearest).abs() < value.abs() { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the conversion is exact")]
mod tests {
    use super::*;

    #[test]
    fn values_next_to_a_tie_round_to_the_nearest_half() {
        let tie = 1.0 + 2_f64.powi(-11);
        let next = 1.0 + 2_f64.powi(-10);
        for (value, half) in [(tie, 1.0), (tie + 2_f64.powi(-50), next), (tie - 2_f64.powi(-50), 1.0)] {
            assert_eq!(to_f16(value).to_f64(), half);
            assert_eq!(to_f16(-value).to_f64(), -half);
        }
        let (tie, next) = (1.0 + 2_f64.powi(-8), 1.0 + 2_f64.powi(-7));
        assert_eq!(to_bf16(tie + 2_f64.powi(-50)).to_f64(), next);
        assert_eq!(to_bf16(tie).to_f64(), 1.0);
    }

    #[test]
    fn limits_of_the_range_are_exact() {
        for value in [0.0, f64::INFINITY, f64::NEG_INFINITY, 65504.0, 2_f64.powi(-24)] {
            assert_eq!(to_f16(value).to_f64(), value);
        }
        assert!(to_f16(f64::NAN).is_nan() && to_bf16(f64::NAN).is_nan());
        for (value, half) in [(1e300, f64::INFINITY), (-1e300, f64::NEG_INFINITY), (65519.9, 65504.0), (1e-300, 0.0)] {
            assert_eq!(to_f16(value).to_f64(), half);
        }
        assert_eq!(to_f16(-0.0).to_bits(), 0x8000);
    }

    #[test]
    fn every_half_round_trips() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(half.is_nan() || to_f16(half.to_f64()).to_bits() == bits);
            assert!(brain.is_nan() || to_bf16(brain.to_f64()).to_bits() == bits);
        }
    }
}
