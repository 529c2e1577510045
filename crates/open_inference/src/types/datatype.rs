//! Datatypes of the protocol and the Rust types of their elements.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Element type of a tensor, as the protocol defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "documented by the names")]
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
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Byte strings. Encoded as the length (u32, little-endian) followed by the bytes.
    Bytes,
}

/// A name that is not a [`Datatype`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a datatype; valid datatypes are: {names}", names = Datatype::ALL.map(Datatype::name).join(", "))]
pub struct UnknownDatatype(pub String);

/// Evaluates an expression with `$T` as the Rust type of a [`Datatype`], or another expression for `BYTES`.
#[macro_export]
macro_rules! with_element {
    ($datatype:expr, $T:ident => $body:expr, bytes => $bytes:expr) => {{
        use $crate::Datatype;
        match $datatype {
            Datatype::Bool => $crate::with_element!(@ $T = bool => $body),
            Datatype::Uint8 => $crate::with_element!(@ $T = u8 => $body),
            Datatype::Uint16 => $crate::with_element!(@ $T = u16 => $body),
            Datatype::Uint32 => $crate::with_element!(@ $T = u32 => $body),
            Datatype::Uint64 => $crate::with_element!(@ $T = u64 => $body),
            Datatype::Int8 => $crate::with_element!(@ $T = i8 => $body),
            Datatype::Int16 => $crate::with_element!(@ $T = i16 => $body),
            Datatype::Int32 => $crate::with_element!(@ $T = i32 => $body),
            Datatype::Int64 => $crate::with_element!(@ $T = i64 => $body),
            Datatype::Fp16 => $crate::with_element!(@ $T = ::half::f16 => $body),
            Datatype::Bf16 => $crate::with_element!(@ $T = ::half::bf16 => $body),
            Datatype::Fp32 => $crate::with_element!(@ $T = f32 => $body),
            Datatype::Fp64 => $crate::with_element!(@ $T = f64 => $body),
            Datatype::Bytes => $bytes,
        }
    }};
    (@ $T:ident = $rust:ty => $body:expr) => {{
        type $T = $rust;
        $body
    }};
}

impl Datatype {
    /// All datatypes.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// Size of an element in bytes. `None` for [`Datatype::Bytes`], whose elements vary in length.
    pub fn size(self) -> Option<usize> {
        with_element!(self, T => Some(size_of::<T>()), bytes => None)
    }

    /// Whether the elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }

    /// Name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datatype {
    type Err = UnknownDatatype;

    fn from_str(name: &str) -> Result<Self, UnknownDatatype> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| UnknownDatatype(name.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.name().parse(), Ok(datatype));
            assert_eq!(serde_json::to_value(datatype).unwrap(), datatype.name());
        }
        let error = "FP33".parse::<Datatype>().unwrap_err().to_string();
        assert!(error.starts_with("\"FP33\" is not a datatype; valid datatypes are: BOOL, UINT8"), "{error}");
    }
}
