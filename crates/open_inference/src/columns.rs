use std::collections::HashSet;

use bytes::Bytes;

use crate::check::{duplicate, find, shown, validate_inputs};
use crate::content::{self, Decoding};
use crate::rounding::{to_bf16, to_f16};
use crate::understand::{Room, read_tensor};
use crate::{
    ContentType, Datatype, Element, Error, ModelMetadata, Parameters, Tensor, TensorMetadata, WireData, WireInput,
    with_element,
};

/// Whether the inputs are columns of a table: the request says `pd`, or each of them does.
pub(crate) fn is_table(request: &Parameters, inputs: &[WireInput]) -> Result<bool, Error> {
    if content::read_word(request)? == Some(ContentType::Pd) {
        return Ok(true);
    }
    for input in inputs {
        if content::read_word(&input.parameters)? != Some(ContentType::Pd) {
            return Ok(false);
        }
    }
    Ok(!inputs.is_empty())
}

/// Reads columns of a table, `[N]` or `[N, 1]` each.
///
/// A model with an input for each column gets them there, as `[N, 1]` where it wants that, and in its own datatypes: a table
/// has 64-bit numbers where models have 32. A model with one input of rank 2 gets them side by side in the request's order,
/// as scikit-learn's exports want it.
pub(crate) fn read(
    inputs: Vec<WireInput>,
    request: &Parameters,
    model: &ModelMetadata,
    room: &mut Room<'_>,
) -> Result<Vec<Tensor>, Error> {
    let is_an_input = |name: &str| model.inputs.iter().any(|input| input.name == name);
    let side_by_side = one_matrix(model).filter(|_| inputs.iter().all(|input| !is_an_input(&input.name)));
    let mut seen = HashSet::new();
    let mut columns: Vec<Tensor> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let wanted = match side_by_side {
            Some(_) if !seen.insert(input.name.clone()) => return Err(duplicate(&input.name)),
            Some(matrix) => matrix,
            None => find(&input.name, model)?,
        };
        let is_json = matches!(input.data, WireData::Json(_));
        let decoding = Decoding::of(content::said(&input.parameters, request)?, is_json, wanted);
        let column = content::decode(read_tensor(input, room)?, decoding, wanted, room)?;
        let column = convert(column, wanted.datatype, room)?;
        columns.push(if side_by_side.is_none() { fit_rank(column, wanted) } else { column });
    }
    match side_by_side {
        Some(matrix) => Ok(vec![join(&columns, matrix, model, room)?]),
        None => Ok(columns),
    }
}

fn one_matrix(model: &ModelMetadata) -> Option<&TensorMetadata> {
    model.only_input().filter(|input| input.shape.len() == 2)
}

/// A column is `[N]` or `[N, 1]`, as the model wants it.
pub(crate) fn fit_rank(column: Tensor, wanted: &TensorMetadata) -> Tensor {
    match (&column.shape[..], wanted.shape.len()) {
        (&[rows], 2) => Tensor { shape: vec![rows, 1], ..column },
        (&[rows, 1], 1) => Tensor { shape: vec![rows], ..column },
        _ => column,
    }
}

/// Columns of one datatype side by side: row by row, an element of each.
fn join(
    columns: &[Tensor],
    matrix: &TensorMetadata,
    model: &ModelMetadata,
    room: &mut Room<'_>,
) -> Result<Tensor, Error> {
    let rows = columns.first().map_or(0, Tensor::len);
    for column in columns {
        if !matches!(column.shape[..], [length] | [length, 1] if length == rows) {
            let (name, shape) = (shown(&column.name), &column.shape);
            return Err(Error::unprocessable(format!(
                "column {name} has the shape {shape:?}, where the first has {rows} rows"
            )));
        }
    }
    room.reserve(columns.iter().map(|column| column.data.len()).sum())?;
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
    let joined = Tensor { name: matrix.name.clone(), datatype: matrix.datatype, shape, data };
    validate_inputs(std::slice::from_ref(&joined), model)?;
    Ok(joined)
}

/// The same numbers in another datatype, rounded to its precision, but never cut.
fn convert(column: Tensor, to: Datatype, room: &mut Room<'_>) -> Result<Tensor, Error> {
    if column.datatype == to || column.datatype == Datatype::Bytes || to == Datatype::Bytes {
        return if column.datatype == to { Ok(column) } else { Err(no_number(&column, to)) };
    }
    let size = to.size().unwrap_or_default();
    room.take(column.len() * size)?;
    room.reserve(column.len() * size)?;
    let mut data = Vec::with_capacity(column.len() * size);
    with_element!(column.datatype, From => {
        with_element!(to, To => {
            for (index, element) in column.elements::<From>().enumerate() {
                let number = Cell::to_number(element);
                let element = <To as Cell>::from_number(number).ok_or_else(|| {
                    let name = shown(&column.name);
                    Error::unprocessable(format!("column {name}: element {index}: {} is no {to}", number.shown()))
                })?;
                element.write(&mut data);
            }
        }, bytes => return Err(no_number(&column, to)));
    }, bytes => return Err(no_number(&column, to)));
    Ok(Tensor { datatype: to, data: data.into(), ..column })
}

fn no_number(column: &Tensor, to: Datatype) -> Error {
    Error::unprocessable(format!("column {} is {}, which does not become {to}", shown(&column.name), column.datatype))
}

/// A table's cell: whole numbers of every width, exactly; or a float.
#[derive(Clone, Copy)]
enum Value {
    Whole(i128),
    Float(f64),
}

impl Value {
    fn shown(self) -> String {
        match self {
            Self::Whole(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
        }
    }
}

trait Cell: Element {
    fn to_number(self) -> Value;
    fn from_number(number: Value) -> Option<Self>;
}

macro_rules! whole {
    ($($number:ty)*) => {$(
        impl Cell for $number {
            fn to_number(self) -> Value {
                Value::Whole(i128::from(self))
            }

            fn from_number(number: Value) -> Option<Self> {
                match number {
                    Value::Whole(number) => number.try_into().ok(),
                    // Beyond the range the cast stops at its end, and that is another number.
                    Value::Float(number) if number.fract() == 0.0 => (number as i128).try_into().ok(),
                    Value::Float(_) => None,
                }
            }
        }
    )*};
}
whole!(u8 u16 u32 u64 i8 i16 i32 i64);

macro_rules! float {
    ($($number:ty, $element:ident => $to:expr, $value:ident => $from:expr;)*) => {$(
        impl Cell for $number {
            fn to_number(self) -> Value {
                let $element = self;
                Value::Float($to)
            }

            fn from_number(number: Value) -> Option<Self> {
                let $value = match number {
                    Value::Whole(number) => number as f64,
                    Value::Float(number) => number,
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

impl Cell for bool {
    fn to_number(self) -> Value {
        Value::Whole(self.into())
    }

    fn from_number(number: Value) -> Option<Self> {
        u8::from_number(number).filter(|&number| number < 2).map(|number| number == 1)
    }
}
