//! Regression and embedding results.

use open_inference::{Datatype, Task};
use serde::Serialize;

use super::error::PredictionError;
use super::output::{MAX_JSON_TENSOR_BYTES, Output};

/// Limit on the values of a row.
const MAX_ROW_VALUES: usize = 100_000;

/// A number in the precision of the output's datatype.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    /// `FP16`, `BF16` or `FP32`, with the digits that an `f32` needs.
    F32(f32),
    /// `FP64`.
    F64(f64),
    /// Integers, except `UINT64`.
    Int(i64),
    /// `UINT64`.
    Uint(u64),
}

/// Values of a row: one number, or a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// A row of one value.
    One(Number),
    /// A row of several values.
    Several(Vec<Number>),
}

/// Result of a regression: a number or several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Regression<'a> {
    /// Values of row 0. `None` if the result has no rows.
    pub value: Option<Values>,
    /// Unit, if the settings contain one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'a str>,
    /// Values of all rows. `None` if there is exactly one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Values>>,
}

/// Result of an embedding model: a vector.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Embedding {
    /// Vector of row 0. `None` if the result has no rows.
    pub embedding: Option<Vec<Number>>,
    /// Length of the vector.
    pub dimensions: usize,
    /// Vectors of all rows. `None` if there is exactly one row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<Vec<Number>>>,
}

impl<'a> Output<'a> {
    pub(super) fn regression(self) -> Result<Regression<'a>, PredictionError> {
        let (rows, _) = self.numbers(Task::Regression)?;
        let values = |row: Vec<Number>| match row[..] {
            [one] => Values::One(one),
            _ => Values::Several(row),
        };
        let mut rows: Vec<Values> = rows.into_iter().map(values).collect();
        let unit = self.metadata.parameters.unit.as_deref();
        Ok(match rows.len() {
            1 => Regression { value: rows.pop(), unit, rows: None },
            _ => Regression { value: rows.first().cloned(), unit, rows: Some(rows) },
        })
    }

    pub(super) fn embedding(self) -> Result<Embedding, PredictionError> {
        let (mut rows, dimensions) = self.numbers(Task::Embedding)?;
        Ok(match rows.len() {
            1 => Embedding { embedding: rows.pop(), dimensions, rows: None },
            _ => Embedding { embedding: rows.first().cloned(), dimensions, rows: Some(rows) },
        })
    }

    /// Rows and their length.
    fn numbers(self, task: Task) -> Result<(Vec<Vec<Number>>, usize), PredictionError> {
        if self.tensor.data.len() > MAX_JSON_TENSOR_BYTES {
            let (bytes, max) = (self.tensor.data.len(), MAX_JSON_TENSOR_BYTES);
            return Err(PredictionError::TooLarge { what: "tensors", bytes, max });
        }
        let rows = self.rows(task, MAX_ROW_VALUES)?;
        let numbers: Vec<Number> = match self.tensor.datatype {
            Datatype::Bytes => return Err(self.unsupported_shape(task)),
            Datatype::Fp64 => self.tensor.elements::<f64>().map(Number::F64).collect(),
            Datatype::Int64 => self.tensor.elements::<i64>().map(Number::Int).collect(),
            Datatype::Uint64 => self.tensor.elements::<u64>().map(Number::Uint).collect(),
            Datatype::Int32 => self.tensor.elements::<i32>().map(|value| Number::Int(value.into())).collect(),
            Datatype::Uint32 => self.tensor.elements::<u32>().map(|value| Number::Int(value.into())).collect(),
            // Integers of up to 16 bits and half-precision floats are exact in an `f32`.
            Datatype::Fp32 | Datatype::Fp16 | Datatype::Bf16 => {
                self.tensor.to_f32().into_iter().map(Number::F32).collect()
            }
            _ => self.tensor.to_f32().into_iter().map(|value| Number::Int(value as i64)).collect(),
        };
        let is_finite = |number: &Number| match number {
            Number::F32(value) => value.is_finite(),
            Number::F64(value) => value.is_finite(),
            Number::Int(_) | Number::Uint(_) => true,
        };
        if !numbers.iter().all(is_finite) {
            return Err(PredictionError::NotFinite);
        }
        Ok((numbers.chunks_exact(rows.length).map(<[Number]>::to_vec).collect(), rows.length))
    }
}
