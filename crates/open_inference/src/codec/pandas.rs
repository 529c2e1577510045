//! Pandas codec: conversion of table columns to the model's inputs.

use bytes::Bytes;

use super::byte_budget::ByteBudget;
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::rounding::{to_bf16, to_f16};
use crate::types::{Datatype, Element, Tensor, TensorMetadata};
use crate::with_element;

/// Reshapes a column to `[N]` or `[N, 1]`, whichever matches the model's rank.
pub(crate) fn match_rank(column: Tensor, metadata: &TensorMetadata) -> Tensor {
    match (&column.shape[..], metadata.shape.len()) {
        (&[rows], 2) => Tensor { shape: vec![rows, 1], ..column },
        (&[rows, 1], 1) => Tensor { shape: vec![rows], ..column },
        _ => column,
    }
}

/// Concatenates columns of one datatype into a matrix, row by row.
pub(crate) fn concat_columns(
    columns: &[Tensor],
    matrix: &TensorMetadata,
    budget: &mut ByteBudget<'_>,
) -> Result<Tensor, Error> {
    let rows = columns.first().map_or(0, Tensor::len);
    for column in columns {
        if !matches!(column.shape[..], [length] | [length, 1] if length == rows) {
            let (name, shape) = (quoted(&column.name), &column.shape);
            return Err(Error::unprocessable(format!(
                "column {name} has the shape {shape:?}, where the first has {rows} rows"
            )));
        }
    }
    budget.reserve(columns.iter().map(|column| column.data.len()).sum())?;
    let data: Bytes = if let Some(size) = matrix.datatype.size() {
        let mut data = Vec::with_capacity(rows * columns.len() * size);
        for row in 0..rows {
            for column in columns {
                data.extend_from_slice(&column.data[row * size..(row + 1) * size]);
            }
        }
        data.into()
    } else {
        let mut strings: Vec<_> = columns.iter().map(Tensor::strings).collect();
        let mut data = Vec::with_capacity(columns.iter().map(|column| column.data.len()).sum());
        for _ in 0..rows {
            for string in strings.iter_mut().filter_map(Iterator::next) {
                data.extend_from_slice(&(string.len() as u32).to_le_bytes());
                data.extend_from_slice(&string);
            }
        }
        data.into()
    };
    let shape = vec![rows, columns.len()];
    Ok(Tensor { name: matrix.name.clone(), datatype: matrix.datatype, shape, data })
}

/// Casts a column to another datatype. Floats are rounded; a value out of range is an error.
pub(crate) fn cast(column: Tensor, to: Datatype, budget: &mut ByteBudget<'_>) -> Result<Tensor, Error> {
    if column.datatype == to || column.datatype == Datatype::Bytes || to == Datatype::Bytes {
        return if column.datatype == to { Ok(column) } else { Err(not_convertible(&column, to)) };
    }
    let size = to.size().unwrap_or_default();
    budget.consume(column.len() * size)?;
    budget.reserve(column.len() * size)?;
    let mut data = Vec::with_capacity(column.len() * size);
    with_element!(column.datatype, From => {
        with_element!(to, To => {
            for (index, element) in column.elements::<From>().enumerate() {
                let number = NumericElement::to_number(element);
                let element = <To as NumericElement>::from_number(number).ok_or_else(|| {
                    let name = quoted(&column.name);
                    Error::unprocessable(format!("column {name}: element {index}: {} is not a valid {to}", number.to_text()))
                })?;
                element.write(&mut data);
            }
        }, bytes => return Err(not_convertible(&column, to)));
    }, bytes => return Err(not_convertible(&column, to)));
    Ok(Tensor { datatype: to, data: data.into(), ..column })
}

fn not_convertible(column: &Tensor, to: Datatype) -> Error {
    Error::unprocessable(format!(
        "column {} is {}, which cannot be converted to {to}",
        quoted(&column.name),
        column.datatype
    ))
}

/// A number of any datatype, without loss.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

impl Number {
    fn to_text(self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
        }
    }
}

trait NumericElement: Element {
    fn to_number(self) -> Number;
    fn from_number(number: Number) -> Option<Self>;
}

macro_rules! int {
    ($($number:ty)*) => {$(
        impl NumericElement for $number {
            fn to_number(self) -> Number {
                Number::Int(i128::from(self))
            }

            fn from_number(number: Number) -> Option<Self> {
                match number {
                    Number::Int(number) => number.try_into().ok(),
                    // The cast saturates out of range, and the conversion of the result then fails.
                    Number::Float(number) if number.fract() == 0.0 => (number as i128).try_into().ok(),
                    Number::Float(_) => None,
                }
            }
        }
    )*};
}
int!(u8 u16 u32 u64 i8 i16 i32 i64);

macro_rules! float {
    ($($number:ty, $element:ident => $to:expr, $value:ident => $from:expr;)*) => {$(
        impl NumericElement for $number {
            fn to_number(self) -> Number {
                let $element = self;
                Number::Float($to)
            }

            fn from_number(number: Number) -> Option<Self> {
                let $value = match number {
                    Number::Int(number) => number as f64,
                    Number::Float(number) => number,
                };
                Some($from)
            }
        }
    )*};
}
float! {
    f32, element => f64::from(element), value => value as Self;
    f64, element => element, value => value;
    half::f16, element => f64::from(element), value => to_f16(value);
    half::bf16, element => f64::from(element), value => to_bf16(value);
}

impl NumericElement for bool {
    fn to_number(self) -> Number {
        Number::Int(self.into())
    }

    fn from_number(number: Number) -> Option<Self> {
        u8::from_number(number).filter(|&number| number < 2).map(|number| number == 1)
    }
}
