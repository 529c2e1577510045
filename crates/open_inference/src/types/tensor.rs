//! Tensor: name, datatype, shape and elements as raw bytes.

use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};

use super::datatype::Datatype;
use crate::with_element;

/// Maximum number of axes.
pub const MAX_RANK: usize = 8;

/// A named tensor. Its elements are little-endian bytes in row-major order, independent of the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name of the input or output.
    pub name: String,
    /// Type of the elements.
    pub datatype: Datatype,
    /// Length of each axis; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements of fixed size are concatenated. Each `BYTES` element follows its length (u32).
    pub data: Bytes,
}

/// Why shape, datatype and data are inconsistent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "documented by the messages")]
pub enum TensorError {
    #[error("shape {0:?} has a negative length")]
    Negative(Vec<i64>),
    #[error("shape has {0} axes, at most {MAX_RANK} are supported")]
    Rank(usize),
    #[error("shape {0:?} has too many elements")]
    Overflow(Vec<i64>),
    #[error("shape {shape:?} of {datatype} takes {expected} bytes, but {found} were sent")]
    Length { shape: Vec<usize>, datatype: Datatype, expected: usize, found: usize },
    #[error("element {element} of BYTES has a length of {length} bytes, but only {left} are left")]
    Element { element: usize, length: usize, left: usize },
    #[error("shape {shape:?} of BYTES has {expected} elements, but {found} were sent")]
    Elements { shape: Vec<usize>, expected: usize, found: String },
}

/// A number that the datatype cannot represent, such as 0.5 for `INT64`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{value} is not a valid {datatype}")]
pub struct NotRepresentable {
    value: f32,
    datatype: Datatype,
}

impl Tensor {
    /// Builds a tensor from untrusted shape and data, and validates them.
    pub fn new(name: &str, datatype: Datatype, shape: &[i64], data: Bytes) -> Result<Self, TensorError> {
        let shape = checked_shape(shape)?;
        let elements: usize = shape.iter().product();
        match datatype.size() {
            Some(size) => {
                let expected = byte_length(&shape, size).ok_or_else(|| overflow(&shape))?;
                if data.len() != expected {
                    return Err(TensorError::Length { shape, datatype, expected, found: data.len() });
                }
            }
            None => validate_strings(&shape, elements, &data)?,
        }
        Ok(Self { name: name.to_owned(), datatype, shape, data })
    }

    /// Builds a `BYTES` tensor. The number of strings must be the product of the shape.
    pub fn from_strings<S>(name: &str, shape: Vec<usize>, strings: impl IntoIterator<Item = S>) -> Self
    where
        S: AsRef<[u8]>,
    {
        let mut data = BytesMut::new();
        for string in strings {
            let string = string.as_ref();
            data.reserve(4 + string.len());
            data.put_u32_le(string.len() as u32);
            data.put_slice(string);
        }
        Self { name: name.to_owned(), datatype: Datatype::Bytes, shape, data: data.freeze() }
    }

    /// Builds a numeric tensor. Each value must be representable in `datatype`.
    pub fn from_f32(
        name: &str,
        datatype: Datatype,
        shape: Vec<usize>,
        values: &[f32],
    ) -> Result<Self, NotRepresentable> {
        let mut data = Vec::with_capacity(values.len() * datatype.size().unwrap_or_default());
        with_element!(datatype, T => {
            for &value in values {
                let element = <T as Element>::from_f32(value).ok_or(NotRepresentable { value, datatype })?;
                element.write(&mut data);
            }
        }, bytes => if let Some(&value) = values.first() { return Err(NotRepresentable { value, datatype }) });
        Ok(Self { name: name.to_owned(), datatype, shape, data: data.into() })
    }

    /// All elements, converted to the nearest `f32`. Empty for `BYTES`.
    pub fn to_f32(&self) -> Vec<f32> {
        with_element!(self.datatype, T => self.elements::<T>().map(Element::to_f32).collect(), bytes => Vec::new())
    }

    /// Elements of a datatype with fixed size.
    pub fn elements<T: Element>(&self) -> impl ExactSizeIterator<Item = T> {
        self.data.chunks_exact(size_of::<T>()).map(T::read)
    }

    /// Elements of `BYTES`, without a copy.
    pub fn strings(&self) -> impl Iterator<Item = Bytes> {
        let mut rest = self.data.clone();
        std::iter::from_fn(move || {
            let length = u32::from_le_bytes(*rest.first_chunk()?) as usize;
            let _ = rest.split_to(4);
            (rest.len() >= length).then(|| rest.split_to(length))
        })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the first axis; `None` for a scalar.
    pub fn rows(&self) -> Option<usize> {
        self.shape.first().copied()
    }

    /// Splits along the first axis into tensors of one row each, without a copy.
    pub fn split_rows(&self) -> Vec<Self> {
        self.split(&vec![1; self.rows().unwrap_or_default()])
    }

    /// Splits along the first axis into tensors with these numbers of rows, without a copy. Their sum must be the
    /// number of rows of the tensor.
    pub fn split(&self, rows: &[usize]) -> Vec<Self> {
        let row_elements: usize = self.shape.iter().skip(1).product();
        let mut rest = self.data.clone();
        let mut next = |rows: usize| {
            let count = rows * row_elements;
            let end = self.datatype.size().map_or_else(|| strings_end(&rest, count), |size| count * size);
            let shape = std::iter::once(rows).chain(self.shape.iter().skip(1).copied()).collect();
            Self { name: self.name.clone(), datatype: self.datatype, shape, data: rest.split_to(end) }
        };
        rows.iter().map(|&rows| next(rows)).collect()
    }

    /// Concatenates along the first axis. `None` where names, datatypes or other axes differ, or where `parts` is
    /// empty.
    pub fn concat_rows(parts: &[&Self]) -> Option<Self> {
        let (first, rest) = parts.split_first()?;
        let (_, tail) = first.shape.split_first()?;
        let is_compatible = |part: &&&Self| {
            part.name == first.name && part.datatype == first.datatype && part.shape.get(1..) == Some(tail)
        };
        if !rest.iter().all(|part| is_compatible(&part)) {
            return None;
        }
        let mut data = BytesMut::with_capacity(parts.iter().map(|part| part.data.len()).sum());
        for part in parts {
            data.put_slice(&part.data);
        }
        let mut shape = first.shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        Some(Self { shape, data: data.freeze(), ..(*first).clone() })
    }
}

/// Validates an untrusted shape: no negative length, and a product that memory could hold.
pub(crate) fn checked_shape(shape: &[i64]) -> Result<Vec<usize>, TensorError> {
    if shape.len() > MAX_RANK {
        return Err(TensorError::Rank(shape.len()));
    }
    let lengths: Option<Vec<usize>> = shape.iter().map(|&length| usize::try_from(length).ok()).collect();
    let lengths = lengths.ok_or_else(|| TensorError::Negative(shape.to_vec()))?;
    // Zeros count as one: code that multiplies in another order must not overflow either.
    lengths
        .iter()
        .try_fold(1_usize, |product, &length| product.checked_mul(length.max(1)))
        .filter(|&elements| isize::try_from(elements).is_ok())
        .ok_or_else(|| TensorError::Overflow(shape.to_vec()))?;
    Ok(lengths)
}

fn validate_strings(shape: &[usize], expected: usize, data: &[u8]) -> Result<(), TensorError> {
    let elements = |found: String| TensorError::Elements { shape: shape.to_vec(), expected, found };
    let mut rest = data;
    for element in 0..expected {
        let Some((length, after)) = rest.split_first_chunk() else { return Err(elements(element.to_string())) };
        let length = u32::from_le_bytes(*length) as usize;
        rest = after.get(length..).ok_or(TensorError::Element { element, length, left: after.len() })?;
    }
    if rest.is_empty() { Ok(()) } else { Err(elements(format!("{expected} and {} bytes more", rest.len()))) }
}

/// Offset at which the first `count` strings end.
fn strings_end(data: &[u8], count: usize) -> usize {
    (0..count).fold(0, |end, _| {
        let length = data[end..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        end + 4 + length
    })
}

fn overflow(shape: &[usize]) -> TensorError {
    TensorError::Overflow(shape.iter().map(|&length| length.cast_signed() as i64).collect())
}

/// Size in bytes of a tensor with `shape` and elements of `size` bytes; `None` on overflow.
pub fn byte_length(shape: &[usize], size: usize) -> Option<usize> {
    shape.iter().try_fold(size, |product, &length| product.checked_mul(length))
}

/// Rust type of a [`Datatype`].
pub trait Element: Copy {
    /// Reads an element from exactly its size in bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Appends the element, little-endian.
    fn write(self, to: &mut Vec<u8>);
    /// The same number; `None` where it is not representable.
    fn from_f32(value: f32) -> Option<Self>;
    /// The nearest `f32`.
    fn to_f32(self) -> f32;
}

macro_rules! number {
    ($($number:ty)*; $value:ident => $from_f32:expr; $element:ident => $to_f32:expr) => {$(
        impl Element for $number {
            fn read(bytes: &[u8]) -> Self {
                let mut element = [0; size_of::<Self>()];
                element.copy_from_slice(bytes);
                Self::from_le_bytes(element)
            }

            fn write(self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }

            #[allow(clippy::cast_lossless, clippy::float_cmp, reason = "one body for several types; exact equality is intended")]
            fn from_f32($value: f32) -> Option<Self> {
                $from_f32
            }

            #[allow(clippy::cast_lossless, reason = "one body for several types")]
            fn to_f32(self) -> f32 {
                let $element = self;
                $to_f32
            }
        }
    )*};
}
number!(f32 f64; value => Some(value as Self); element => element as f32);
// Image values are not exact in half precision. A half-precision model expects the nearest value.
number!(f16 bf16; value => Some(Self::from_f32(value)); element => f32::from(element));
number!(u8 u16 u32 u64 i8 i16 i32 i64; value => (value as Self as f32 == value).then_some(value as Self); element => element as f32);

impl Element for bool {
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }

    fn write(self, to: &mut Vec<u8>) {
        to.push(self.into());
    }

    fn from_f32(value: f32) -> Option<Self> {
        <u8 as Element>::from_f32(value).filter(|&value| value < 2).map(|value| value == 1)
    }

    fn to_f32(self) -> f32 {
        u8::from(self).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(datatype: Datatype, shape: &[i64], data: &[u8]) -> Result<Tensor, String> {
        Tensor::new("x", datatype, shape, Bytes::copy_from_slice(data)).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_round_trip_in_every_datatype() {
        for datatype in Datatype::ALL.into_iter().filter(|&datatype| datatype != Datatype::Bytes) {
            let tensor = Tensor::from_f32("x", datatype, vec![3], &[0.0, 1.0, 1.0]).unwrap();
            assert_eq!(Some(tensor.data.len()), datatype.size().map(|size| 3 * size));
            assert_eq!(tensor.to_f32(), [0.0, 1.0, 1.0], "{datatype}");
        }
    }

    #[test]
    fn an_unrepresentable_number_is_rejected() {
        let no_number = (f32::NAN, Datatype::Int32);
        let string = (1.0, Datatype::Bytes);
        for (value, datatype) in
            [(0.5, Datatype::Int64), (-1.0, Datatype::Uint8), (2.0, Datatype::Bool), no_number, string]
        {
            let error = Tensor::from_f32("x", datatype, vec![1], &[value]).unwrap_err();
            assert_eq!(error.to_string(), format!("{value} is not a valid {datatype}"));
        }
    }

    #[test]
    fn inconsistent_shape_datatype_or_data_is_rejected() {
        assert_eq!(new(Datatype::Int16, &[], &[1, 2]).unwrap().len(), 1);
        assert!(new(Datatype::Int16, &[2, 0], &[]).unwrap().is_empty());
        for (datatype, shape, data, message) in [
            (Datatype::Fp32, &[2, 2][..], &[0; 15][..], "shape [2, 2] of FP32 takes 16 bytes, but 15 were sent"),
            (Datatype::Fp32, &[-1], &[0; 4], "shape [-1] has a negative length"),
            (Datatype::Uint8, &[1; 9], &[0], "shape has 9 axes, at most 8 are supported"),
            (Datatype::Uint8, &[1 << 62, 4], &[0], "shape [4611686018427387904, 4] has too many elements"),
            (Datatype::Uint8, &[1 << 62, 4, 0], &[], "has too many elements"),
            (Datatype::Fp64, &[1 << 61], &[], "has too many elements"),
            (
                Datatype::Bytes,
                &[1],
                &[5, 0, 0, 0, b'a'],
                "element 0 of BYTES has a length of 5 bytes, but only 1 are left",
            ),
            (Datatype::Bytes, &[2], &[0, 0, 0, 0], "shape [2] of BYTES has 2 elements, but 1 were sent"),
            (Datatype::Bytes, &[0], &[7], "shape [0] of BYTES has 0 elements, but 0 and 1 bytes more were sent"),
        ] {
            let error = new(datatype, shape, data).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn splitting_and_concatenating_rows_round_trips() {
        let numbers = new(Datatype::Int16, &[3, 2], &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]).unwrap();
        let strings = Tensor::from_strings("x", vec![2, 2], [&b"a"[..], b"", b"ccc", b"\0"]);
        for tensor in [numbers.clone(), strings] {
            let rows = tensor.split_rows();
            assert_eq!(rows.len(), tensor.shape[0]);
            assert!(rows.iter().all(|row| row.shape == [1, 2]));
            assert_eq!(Tensor::concat_rows(&rows.iter().collect::<Vec<_>>()), Some(tensor));
        }
        let [two, one] = numbers.split(&[2, 1]).try_into().unwrap();
        assert_eq!((two.shape.as_slice(), &two.data[..]), (&[2, 2][..], &[1, 0, 2, 0, 3, 0, 4, 0][..]));
        assert_eq!(Tensor::concat_rows(&[&two, &one]), Some(numbers));
        assert_eq!(Tensor::concat_rows(&[]), None);
        let x = new(Datatype::Int16, &[1, 2], &[0; 4]).unwrap();
        let others = [
            Tensor { name: "y".to_owned(), ..x.clone() },
            Tensor { datatype: Datatype::Fp16, ..x.clone() },
            Tensor { shape: vec![2, 1], ..x.clone() },
        ];
        assert!(others.iter().all(|other| Tensor::concat_rows(&[&x, other]).is_none()), "they do not go together");
    }

    #[test]
    fn strings_round_trip() {
        let tensor = Tensor::from_strings("x", vec![3], [&b"\xff\0"[..], b"", b"abc"]);
        assert_eq!(tensor.strings().collect::<Vec<_>>(), [&b"\xff\0"[..], b"", b"abc"]);
        assert_eq!(new(Datatype::Bytes, &[3], &tensor.data).unwrap(), tensor);
    }
}
