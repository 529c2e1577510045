//! Conversion between our tensors and ONNX Runtime's.

use std::fmt::Debug;

use bytemuck::CheckedBitPattern;
use bytes::Bytes;
use open_inference::{Element, MAX_RANK, Tensor, TensorMetadata, byte_length, with_element};
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorRef};

use super::sanitize_error::error_text;
use super::strings;

// Tensors are little-endian on the wire, and ONNX Runtime reads them in place.
const _: () = assert!(cfg!(target_endian = "little"), "ONNX Runtime would read the bytes in the wrong order");

/// A view of `tensor`. Its data is copied only if it is misaligned for the element type, or if it consists of strings.
pub fn to_ort(tensor: &Tensor) -> Result<SessionInputValue<'_>, String> {
    with_element!(tensor.datatype, T => numbers::<T>(tensor), bytes => strings::to_ort(tensor)).map_err(error_text)
}

fn numbers<T>(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>>
where
    T: Element + CheckedBitPattern + PrimitiveTensorElementType + Debug + 'static,
{
    let shape = tensor.shape.clone();
    match bytemuck::checked::try_cast_slice::<u8, T>(&tensor.data) {
        Ok(elements) => TensorRef::from_array_view((shape, elements)).map(Into::into),
        // Misaligned data, or booleans other than 0 and 1.
        Err(_) => ort::value::Tensor::from_array((shape, tensor.elements::<T>().collect::<Vec<_>>())).map(Into::into),
    }
}

/// The size of the output `spec` as a tensor, bytes. A lower bound for strings.
pub fn bytes(spec: &TensorMetadata, value: &DynValue) -> usize {
    let shape: Vec<usize> = match value.dtype().tensor_shape() {
        Some(shape) => shape.iter().map(|&length| usize::try_from(length).unwrap_or(0)).collect(),
        None => return 0,
    };
    // Each string has a length prefix of four bytes.
    byte_length(&shape, spec.datatype.size().unwrap_or(4)).unwrap_or(usize::MAX)
}

/// Copies the output `spec` from memory of ONNX Runtime.
pub fn from_ort(spec: &TensorMetadata, value: &DynValue) -> Result<Tensor, String> {
    let shape = value.dtype().tensor_shape().ok_or_else(|| format!("output {:?} is not a tensor", spec.name))?;
    if shape.len() > MAX_RANK {
        return Err(format!("output {:?} has {} axes; at most {MAX_RANK} are supported", spec.name, shape.len()));
    }
    let shape = shape.iter().map(|&length| length as usize).collect();
    with_element!(spec.datatype, T => {
        let (_, elements) = value.try_extract_tensor::<T>().map_err(error_text)?;
        let data = Bytes::copy_from_slice(bytemuck::cast_slice(elements));
        Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
    }, bytes => strings::from_ort(&spec.name, shape, value).map_err(error_text))
}
