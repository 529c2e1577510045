use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The Open Inference Protocol's name of an element type. Those whose elements have a fixed size of whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp32,
    Fp64,
}

/// Evaluates an expression with `$T` standing for the Rust type of a [`Datatype`].
macro_rules! with_element {
    ($datatype:expr, $T:ident => $body:expr) => {{
        use $crate::session::Datatype;
        match $datatype {
            Datatype::Bool => with_element!(@ $T = bool => $body),
            Datatype::Uint8 => with_element!(@ $T = u8 => $body),
            Datatype::Uint16 => with_element!(@ $T = u16 => $body),
            Datatype::Uint32 => with_element!(@ $T = u32 => $body),
            Datatype::Uint64 => with_element!(@ $T = u64 => $body),
            Datatype::Int8 => with_element!(@ $T = i8 => $body),
            Datatype::Int16 => with_element!(@ $T = i16 => $body),
            Datatype::Int32 => with_element!(@ $T = i32 => $body),
            Datatype::Int64 => with_element!(@ $T = i64 => $body),
            Datatype::Fp32 => with_element!(@ $T = f32 => $body),
            Datatype::Fp64 => with_element!(@ $T = f64 => $body),
        }
    }};
    (@ $T:ident = $rust:ty => $body:expr) => {{
        type $T = $rust;
        $body
    }};
}
pub(super) use with_element;

/// A named tensor with its elements as raw little-endian bytes in row-major order: as it travels to a session and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The graph's name for it.
    pub name: String,
    /// What its elements are.
    pub datatype: Datatype,
    /// Its lengths; `data` holds their product times the element's size.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Bytes,
}

/// A number that the datatype cannot hold, such as 0.5 for `INT64`.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{value} is no {datatype}")]
pub struct NotRepresentable {
    value: f32,
    datatype: Datatype,
}

impl Datatype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        with_element!(self, T => size_of::<T>())
    }
}

impl std::fmt::Display for Datatype {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        })
    }
}

impl Tensor {
    /// A tensor of `datatype` with these values, each of which must survive the change of type.
    pub fn from_f32(
        name: &str,
        datatype: Datatype,
        shape: Vec<usize>,
        values: &[f32],
    ) -> Result<Self, NotRepresentable> {
        let mut data = vec![0; values.len() * datatype.size()];
        with_element!(datatype, T => {
            for (bytes, &value) in data.chunks_exact_mut(datatype.size()).zip(values) {
                let element = T::from_f32(value).ok_or(NotRepresentable { value, datatype })?;
                element.write(bytes);
            }
        });
        Ok(Self { name: name.to_owned(), datatype, shape, data: data.into() })
    }

    /// All elements, as exactly as an `f32` can hold them.
    pub fn to_f32(&self) -> Vec<f32> {
        with_element!(self.datatype, T => self.elements().map(T::to_f32).collect())
    }

    pub(super) fn elements<T: Element>(&self) -> impl Iterator<Item = T> {
        self.data.chunks_exact(size_of::<T>()).map(T::read)
    }
}

/// The bytes of `shape` elements of `size` each; `None` where no memory could hold them.
pub(super) fn byte_length(shape: &[usize], size: usize) -> Option<usize> {
    shape.iter().try_fold(size, |product, &length| product.checked_mul(length))
}

/// A Rust type that is a [`Datatype`].
pub(super) trait Element: Copy {
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn from_f32(value: f32) -> Option<Self>;
    fn to_f32(self) -> f32;
}

macro_rules! number {
    ($($number:ty)*; $value:ident => $from_f32:expr) => {$(
        impl Element for $number {
            fn read(bytes: &[u8]) -> Self {
                let mut element = [0; size_of::<Self>()];
                element.copy_from_slice(bytes);
                Self::from_le_bytes(element)
            }

            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            #[allow(clippy::cast_lossless, clippy::float_cmp, reason = "one body for several types; exact is what is asked")]
            fn from_f32($value: f32) -> Option<Self> {
                $from_f32
            }

            #[allow(clippy::cast_lossless, reason = "one body for several types")]
            fn to_f32(self) -> f32 {
                self as f32
            }
        }
    )*};
}
number!(f32 f64; value => Some(value as Self));
number!(u8 u16 u32 u64 i8 i16 i32 i64; value => (value as Self as f32 == value).then_some(value as Self));

impl Element for bool {
    fn read(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }

    fn write(self, bytes: &mut [u8]) {
        bytes[0] = self.into();
    }

    fn from_f32(value: f32) -> Option<Self> {
        u8::from_f32(value).filter(|&value| value < 2).map(|value| value == 1)
    }

    fn to_f32(self) -> f32 {
        u8::from(self).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_way_there_and_back_in_every_datatype() {
        for datatype in [Datatype::Uint8, Datatype::Int64, Datatype::Fp32, Datatype::Fp64, Datatype::Bool] {
            let tensor = Tensor::from_f32("x", datatype, vec![3], &[0.0, 1.0, 1.0]).unwrap();
            assert_eq!(tensor.data.len(), 3 * datatype.size());
            assert_eq!(tensor.to_f32(), [0.0, 1.0, 1.0], "{datatype}");
        }
    }

    #[test]
    fn a_number_that_would_change_is_refused() {
        let no_number = (f32::NAN, Datatype::Int32);
        for (value, datatype) in [(0.5, Datatype::Int64), (-1.0, Datatype::Uint8), (2.0, Datatype::Bool), no_number] {
            let error = Tensor::from_f32("x", datatype, vec![1], &[value]).unwrap_err();
            assert_eq!(error.to_string(), format!("{value} is no {datatype}"));
        }
    }

    #[test]
    fn lengths_whose_product_no_memory_holds_are_noticed() {
        assert_eq!(byte_length(&[2, 3], 4), Some(24));
        assert_eq!(byte_length(&[], 4), Some(4));
        assert_eq!(byte_length(&[usize::MAX, 2], 4), None);
    }
}
