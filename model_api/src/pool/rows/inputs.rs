//! Input rows of the probe: rows that differ in scale, sign, spread, constancy and length.

use std::collections::BTreeMap;

use open_inference::{Datatype, Tensor, TensorMetadata};

use crate::session::{Hello, known_shape};

/// Lengths of axes that graph and settings leave open, beside the first. Where a model takes none of the short ones, as one
/// that halves an image several times, the others are tried.
pub const LENGTHS: [usize; 3] = [1, 3, 5];
pub const LONGER: [usize; 2] = [32, 96];

/// Elements of all inputs of one batch.
pub const MAX_ELEMENTS: usize = 16 << 20;

/// What sets a row apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Floats spread evenly over 0..1, integers 1 and 2.
    Plain,
    /// A thousand times as large; integers up to 100.
    Large,
    /// A thousandth.
    Small,
    /// Of both signs; integers up to 9, as models with a vocabulary or small table still take them.
    Signed,
    /// Another one like [`Self::Plain`], with integers up to 3.
    Other,
    /// One value throughout.
    Constant,
    /// Zero throughout; integers end in zeros, as padding does.
    Zero,
    /// From a thousandth to a thousand.
    Spread,
}

impl Kind {
    /// Those that differ most come first: a slow model is probed with few of them.
    pub const ALL: [Self; 8] =
        [Self::Plain, Self::Large, Self::Small, Self::Signed, Self::Other, Self::Constant, Self::Zero, Self::Spread];
}

/// One row for each of `inputs`, whose first axis is open: shape `[1, …]`, with `length` wherever else graph and settings
/// leave a length open. `None` where a row cannot be made: it has too many elements to count.
pub fn row(
    inputs: &[&TensorMetadata],
    shapes: &BTreeMap<String, Vec<i64>>,
    kind: Kind,
    length: usize,
) -> Option<Vec<Tensor>> {
    inputs.iter().map(|input| tensor(input, known_shape(input, shapes), kind, length)).collect()
}

/// A row that the probe runs first, for what only measures time. `None` for a model without a batch axis.
pub fn plain_row(hello: &Hello, shapes: &BTreeMap<String, Vec<i64>>) -> Option<Vec<Tensor>> {
    let inputs: Vec<_> = hello.required_inputs().collect();
    let is_open = inputs.iter().all(|input| known_shape(input, shapes).first() == Some(&-1));
    let fits = elements(&inputs, shapes, 1).is_some_and(|count| count <= MAX_ELEMENTS);
    if is_open && fits { row(&inputs, shapes, Kind::Plain, 1) } else { None }
}

/// Every row that the probe makes for the input of a model that has one: what a test double must not count as a request.
pub fn probe_rows(input: &TensorMetadata, shapes: &BTreeMap<String, Vec<i64>>) -> Vec<Tensor> {
    let rows = |length| Kind::ALL.map(|kind| row(&[input], shapes, kind, length));
    LENGTHS.into_iter().chain(LONGER).flat_map(rows).flatten().flatten().collect()
}

/// Elements of a row of all `inputs` together.
pub fn elements(inputs: &[&TensorMetadata], shapes: &BTreeMap<String, Vec<i64>>, length: usize) -> Option<usize> {
    let count = |input: &&TensorMetadata| {
        row_shape(known_shape(input, shapes), length).iter().try_fold(1_usize, |count, &axis| count.checked_mul(axis))
    };
    inputs.iter().map(count).try_fold(0_usize, |sum, count| sum.checked_add(count?))
}

fn row_shape(shape: &[i64], length: usize) -> Vec<usize> {
    let axis = |(place, &axis): (usize, &i64)| usize::try_from(axis).unwrap_or(if place == 0 { 1 } else { length });
    shape.iter().enumerate().map(axis).collect()
}

fn tensor(input: &TensorMetadata, shape: &[i64], kind: Kind, length: usize) -> Option<Tensor> {
    let shape = row_shape(shape, length);
    let count: usize = shape.iter().product();
    let name = &input.name;
    if input.datatype == Datatype::Bytes {
        let strings: Vec<String> = (0..count).map(|place| string(kind, place)).collect();
        return Some(Tensor::from_strings(name, shape, strings));
    }
    let values: Vec<f32> = match input.datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            (0..count).map(|place| float(kind, place)).collect()
        }
        Datatype::Bool => (0..count).map(|place| boolean(kind, place)).collect(),
        datatype => {
            let most = if matches!(datatype, Datatype::Int8 | Datatype::Uint8) { 100.0 } else { 1000.0 };
            (0..count).map(|place| integer(kind, place, count, most)).collect()
        }
    };
    Tensor::from_f32(name, input.datatype, shape, &values).ok()
}

/// Spread evenly in 0..1: Knuth's multiplicative hash (The Art of Computer Programming, vol. 3, 6.4).
fn spread(kind: Kind, place: usize) -> f32 {
    let number = (place as u32).wrapping_add(kind as u32 * 7919 + 1);
    (number.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32
}

fn float(kind: Kind, place: usize) -> f32 {
    let value = spread(kind, place);
    match kind {
        Kind::Plain | Kind::Other => value,
        Kind::Large => value * 1e3,
        Kind::Small => value * 1e-3,
        Kind::Signed => value * 4.0 - 2.0,
        Kind::Constant => 0.375,
        Kind::Zero => 0.0,
        Kind::Spread => 10_f32.powf(value * 6.0 - 3.0),
    }
}

/// Not zero but for padding behind other values: an integer that is divided by zero can end the process.
fn integer(kind: Kind, place: usize, count: usize, most: f32) -> f32 {
    let up_to = |largest: f32| 1.0 + (spread(kind, place) * largest).floor().min(largest - 1.0);
    match kind {
        Kind::Other => up_to(3.0),
        Kind::Large => up_to(100.0),
        Kind::Small => 1.0 + up_to(2.0),
        Kind::Signed => up_to(9.0),
        Kind::Constant => 1.0,
        Kind::Zero if count == 1 => 3.0,
        Kind::Zero if place > count / 2 => 0.0,
        Kind::Plain | Kind::Zero => up_to(2.0),
        Kind::Spread => up_to(most),
    }
}

fn boolean(kind: Kind, place: usize) -> f32 {
    match kind {
        Kind::Large | Kind::Constant => 1.0,
        Kind::Small | Kind::Zero => 0.0,
        _ => f32::from(u8::from(spread(kind, place) < 0.5)),
    }
}

fn string(kind: Kind, place: usize) -> String {
    match kind {
        Kind::Plain => "a".to_owned(),
        Kind::Other => "bb".to_owned(),
        Kind::Large => "a longer text of several words ".repeat(3),
        Kind::Small => String::new(),
        Kind::Signed => "-1.5".to_owned(),
        Kind::Constant => "1".to_owned(),
        Kind::Zero => "0".to_owned(),
        Kind::Spread => "x".repeat(place % 5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(datatype: Datatype, kind: Kind, length: usize) -> Vec<f32> {
        let input = TensorMetadata::new("x", datatype, &[-1, -1]);
        row(&[&input], &BTreeMap::new(), kind, length).unwrap()[0].to_f32()
    }

    #[test]
    fn rows_differ_in_scale_sign_spread_and_constancy() {
        let most = |kind| values(Datatype::Fp32, kind, 64).into_iter().fold(0.0, f32::max);
        assert!(most(Kind::Large) > 500.0 && most(Kind::Plain) < 1.0 && most(Kind::Small) < 1e-3);
        assert!(values(Datatype::Fp32, Kind::Signed, 64).iter().any(|value| *value < -0.5));
        assert!(values(Datatype::Fp32, Kind::Constant, 64).iter().all(|value| (value - 0.375).abs() < f32::EPSILON));
        assert!(values(Datatype::Fp32, Kind::Zero, 64).iter().all(|value| *value == 0.0));
        let spread = values(Datatype::Fp32, Kind::Spread, 64);
        assert!(spread.iter().any(|value| *value < 0.1) && spread.iter().any(|value| *value > 10.0));
        assert_ne!(values(Datatype::Fp32, Kind::Plain, 64), values(Datatype::Fp32, Kind::Other, 64));
    }

    #[test]
    fn integers_differ_between_rows_and_are_zero_only_as_padding() {
        for kind in Kind::ALL {
            let integers = values(Datatype::Int64, kind, 8);
            let first_zero = integers.iter().position(|value| *value == 0.0).unwrap_or(8);
            assert!(first_zero > 0 && integers[first_zero..].iter().all(|value| *value == 0.0), "{integers:?}");
            assert!(values(Datatype::Int64, kind, 1)[0] > 0.0, "one integer may be a divisor");
            assert!(values(Datatype::Int8, kind, 64).iter().all(|value| *value <= 100.0));
        }
        assert_ne!(values(Datatype::Int64, Kind::Plain, 8), values(Datatype::Int64, Kind::Large, 8));
    }

    #[test]
    fn settings_fix_what_the_graph_leaves_open_and_the_rest_has_the_length() {
        let input = TensorMetadata::new("x", Datatype::Fp32, &[-1, -1, 4, -1]);
        let shapes = BTreeMap::from([("x".to_owned(), vec![-1, 7, 4, -1])]);
        assert_eq!(row(&[&input], &shapes, Kind::Plain, 3).unwrap()[0].shape, [1, 7, 4, 3]);
        assert_eq!(elements(&[&input], &shapes, 3), Some(84));
        let huge = TensorMetadata::new("x", Datatype::Fp32, &[-1, i64::MAX, 16]);
        assert_eq!(elements(&[&huge], &BTreeMap::new(), 1), None);
    }
}
