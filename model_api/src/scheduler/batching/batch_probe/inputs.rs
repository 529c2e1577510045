//! Generated input rows of the probe, which differ in scale, sign, spread, constancy and length.

use std::collections::BTreeMap;

use open_inference::{Datatype, Tensor, TensorMetadata};

use crate::session::{SessionInfo, known_shape};

/// Lengths of open axes other than the first. The fallback lengths are for models that accept none of the short ones, such as
/// one that halves an image several times.
pub const LENGTHS: [usize; 3] = [1, 3, 5];
pub const FALLBACK_LENGTHS: [usize; 2] = [32, 96];

/// Maximum number of elements of all inputs of one batch.
pub const MAX_ELEMENTS: usize = 16 << 20;

/// Kind of a generated row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Floats evenly spread over 0..1; integers 1 and 2.
    Plain,
    /// A thousand times as large; integers up to 100.
    Large,
    /// A thousandth.
    Small,
    /// Of both signs; integers up to 9, which models with a small vocabulary or table still accept.
    Signed,
    /// Like [`Self::Plain`] with other values; integers up to 3.
    Other,
    /// One value throughout.
    Constant,
    /// Zero throughout; integers end in zeros, as padding does.
    Zero,
    /// From a thousandth to a thousand.
    Spread,
}

impl RowKind {
    /// The most different kinds come first, because a slow model is probed with few of them.
    pub const ALL: [Self; 8] =
        [Self::Plain, Self::Large, Self::Small, Self::Signed, Self::Other, Self::Constant, Self::Zero, Self::Spread];
}

/// One row for each of `inputs`, whose first axis is open: shape `[1, …]`, with `length` for other open axes. `None` if it has
/// too many elements to count.
pub fn row(
    inputs: &[&TensorMetadata],
    shapes: &BTreeMap<String, Vec<i64>>,
    kind: RowKind,
    length: usize,
) -> Option<Vec<Tensor>> {
    inputs.iter().map(|input| tensor(input, known_shape(input, shapes), kind, length)).collect()
}

/// The row that the probe runs first, for time measurements. `None` for a model without a batch axis.
pub fn plain_row(session_info: &SessionInfo, shapes: &BTreeMap<String, Vec<i64>>) -> Option<Vec<Tensor>> {
    let inputs: Vec<_> = session_info.required_inputs().collect();
    let is_open = inputs.iter().all(|input| known_shape(input, shapes).first() == Some(&-1));
    let fits = elements(&inputs, shapes, 1).is_some_and(|count| count <= MAX_ELEMENTS);
    if is_open && fits { row(&inputs, shapes, RowKind::Plain, 1) } else { None }
}

/// Every row that the probe generates for a model with this single input. Test doubles exclude them from their request counts.
pub fn probe_rows(input: &TensorMetadata, shapes: &BTreeMap<String, Vec<i64>>) -> Vec<Tensor> {
    let rows = |length| RowKind::ALL.map(|kind| row(&[input], shapes, kind, length));
    LENGTHS.into_iter().chain(FALLBACK_LENGTHS).flat_map(rows).flatten().flatten().collect()
}

/// Number of elements of a row of all `inputs`. `None` on overflow.
pub fn elements(inputs: &[&TensorMetadata], shapes: &BTreeMap<String, Vec<i64>>, length: usize) -> Option<usize> {
    let count = |input: &&TensorMetadata| {
        row_shape(known_shape(input, shapes), length).iter().try_fold(1_usize, |count, &axis| count.checked_mul(axis))
    };
    inputs.iter().map(count).try_fold(0_usize, |sum, count| sum.checked_add(count?))
}

fn row_shape(shape: &[i64], length: usize) -> Vec<usize> {
    let axis = |(index, &axis): (usize, &i64)| usize::try_from(axis).unwrap_or(if index == 0 { 1 } else { length });
    shape.iter().enumerate().map(axis).collect()
}

fn tensor(input: &TensorMetadata, shape: &[i64], kind: RowKind, length: usize) -> Option<Tensor> {
    let shape = row_shape(shape, length);
    let count: usize = shape.iter().product();
    let name = &input.name;
    if input.datatype == Datatype::Bytes {
        let strings: Vec<String> = (0..count).map(|index| string(kind, index)).collect();
        return Some(Tensor::from_strings(name, shape, strings));
    }
    let values: Vec<f32> = match input.datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            (0..count).map(|index| float(kind, index)).collect()
        }
        Datatype::Bool => (0..count).map(|index| boolean(kind, index)).collect(),
        datatype => {
            let max = if matches!(datatype, Datatype::Int8 | Datatype::Uint8) { 100.0 } else { 1000.0 };
            (0..count).map(|index| integer(kind, index, count, max)).collect()
        }
    };
    Tensor::from_f32(name, input.datatype, shape, &values).ok()
}

/// Evenly spread values in 0..1: Knuth's multiplicative hash (The Art of Computer Programming, vol. 3, 6.4).
fn spread(kind: RowKind, index: usize) -> f32 {
    let number = (index as u32).wrapping_add(kind as u32 * 7919 + 1);
    (number.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32
}

fn float(kind: RowKind, index: usize) -> f32 {
    let value = spread(kind, index);
    match kind {
        RowKind::Plain | RowKind::Other => value,
        RowKind::Large => value * 1e3,
        RowKind::Small => value * 1e-3,
        RowKind::Signed => value * 4.0 - 2.0,
        RowKind::Constant => 0.375,
        RowKind::Zero => 0.0,
        RowKind::Spread => 10_f32.powf(value * 6.0 - 3.0),
    }
}

/// Positive except for trailing padding: an integer division by zero can end the process.
fn integer(kind: RowKind, index: usize, count: usize, max: f32) -> f32 {
    let up_to = |largest: f32| 1.0 + (spread(kind, index) * largest).floor().min(largest - 1.0);
    match kind {
        RowKind::Other => up_to(3.0),
        RowKind::Large => up_to(100.0),
        RowKind::Small => 1.0 + up_to(2.0),
        RowKind::Signed => up_to(9.0),
        RowKind::Constant => 1.0,
        RowKind::Zero if count == 1 => 3.0,
        RowKind::Zero if index > count / 2 => 0.0,
        RowKind::Plain | RowKind::Zero => up_to(2.0),
        RowKind::Spread => up_to(max),
    }
}

fn boolean(kind: RowKind, index: usize) -> f32 {
    match kind {
        RowKind::Large | RowKind::Constant => 1.0,
        RowKind::Small | RowKind::Zero => 0.0,
        _ => f32::from(u8::from(spread(kind, index) < 0.5)),
    }
}

fn string(kind: RowKind, index: usize) -> String {
    match kind {
        RowKind::Plain => "a".to_owned(),
        RowKind::Other => "bb".to_owned(),
        RowKind::Large => "a longer text of several words ".repeat(3),
        RowKind::Small => String::new(),
        RowKind::Signed => "-1.5".to_owned(),
        RowKind::Constant => "1".to_owned(),
        RowKind::Zero => "0".to_owned(),
        RowKind::Spread => "x".repeat(index % 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(datatype: Datatype, kind: RowKind, length: usize) -> Vec<f32> {
        let input = TensorMetadata::new("x", datatype, &[-1, -1]);
        row(&[&input], &BTreeMap::new(), kind, length).unwrap()[0].to_f32()
    }

    #[test]
    fn rows_differ_in_scale_sign_spread_and_constancy() {
        let max = |kind| values(Datatype::Fp32, kind, 64).into_iter().fold(0.0, f32::max);
        assert!(max(RowKind::Large) > 500.0 && max(RowKind::Plain) < 1.0 && max(RowKind::Small) < 1e-3);
        assert!(values(Datatype::Fp32, RowKind::Signed, 64).iter().any(|value| *value < -0.5));
        assert!(values(Datatype::Fp32, RowKind::Constant, 64).iter().all(|value| (value - 0.375).abs() < f32::EPSILON));
        assert!(values(Datatype::Fp32, RowKind::Zero, 64).iter().all(|value| *value == 0.0));
        let spread = values(Datatype::Fp32, RowKind::Spread, 64);
        assert!(spread.iter().any(|value| *value < 0.1) && spread.iter().any(|value| *value > 10.0));
        assert_ne!(values(Datatype::Fp32, RowKind::Plain, 64), values(Datatype::Fp32, RowKind::Other, 64));
    }

    #[test]
    fn integers_differ_between_rows_and_are_zero_only_as_trailing_padding() {
        for kind in RowKind::ALL {
            let integers = values(Datatype::Int64, kind, 8);
            let first_zero = integers.iter().position(|value| *value == 0.0).unwrap_or(8);
            assert!(first_zero > 0 && integers[first_zero..].iter().all(|value| *value == 0.0), "{integers:?}");
            assert!(values(Datatype::Int64, kind, 1)[0] > 0.0, "one integer may be a divisor");
            assert!(values(Datatype::Int8, kind, 64).iter().all(|value| *value <= 100.0));
        }
        assert_ne!(values(Datatype::Int64, RowKind::Plain, 8), values(Datatype::Int64, RowKind::Large, 8));
    }

    #[test]
    fn settings_fix_open_axes_and_the_others_have_the_length() {
        let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, -1, 4, -1]);
        let shapes = BTreeMap::from([("x".to_owned(), vec![-1, 7, 4, -1])]);
        assert_eq!(row(&[&input], &shapes, RowKind::Plain, 3).unwrap()[0].shape, [1, 7, 4, 3]);
        assert_eq!(elements(&[&input], &shapes, 3), Some(84));
        let huge = TensorMetadata::new("x", Datatype::Fp32, &[-1, i64::MAX, 16]);
        assert_eq!(elements(&[&huge], &BTreeMap::new(), 1), None);
    }
}
