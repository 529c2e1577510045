//! Conversion of string tensors, through the C API of ONNX Runtime. ONNX strings are arbitrary bytes, including zeros and invalid
//! UTF-8, but `ort` accepts C strings and returns UTF-8.

use std::ffi::c_char;
use std::ptr;

use open_inference::Tensor;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{DynTensor, DynValue, TensorElementType};

/// Copies `tensor` into memory of ONNX Runtime.
pub fn to_ort(tensor: &Tensor) -> ort::Result<SessionInputValue<'static>> {
    let mut strings = DynTensor::new(&Allocator::default(), TensorElementType::String, tensor.shape.clone())?;
    for (index, string) in tensor.strings().enumerate() {
        set(&mut strings, index, &string)?;
    }
    Ok(strings.into())
}

/// Copies the strings of `value`, a tensor of this shape, into a tensor called `name`.
pub fn from_ort(name: &str, shape: Vec<usize>, value: &DynValue) -> ort::Result<Tensor> {
    let (content, starts) = content(value, shape.iter().product())?;
    let ends = starts.iter().skip(1).copied().chain([content.len()]);
    let strings = starts.iter().zip(ends).map(|(&start, end)| content.get(start..end).unwrap_or_default());
    Ok(Tensor::from_strings(name, shape, strings))
}

#[allow(unsafe_code, reason = "ort's setter for string tensors stops at the first zero byte")]
fn set(strings: &mut DynTensor, index: usize, string: &[u8]) -> ort::Result<()> {
    let mut buffer: *mut c_char = ptr::null_mut();
    // SAFETY: the pointer belongs to a live string tensor, borrowed exclusively. ONNX Runtime checks the index and sets `buffer`
    // to the `string.len()` bytes of that string. Nothing else uses them before they are filled.
    unsafe {
        let resize = ort::api().GetResizedStringTensorElementBuffer;
        ort::Error::result_from_status(resize(strings.ptr_mut(), index, string.len(), &raw mut buffer))?;
        if !string.is_empty() {
            ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len());
        }
    }
    Ok(())
}

/// All strings in one buffer, and the offset of each.
#[allow(unsafe_code, reason = "ort's getter for string tensors rejects invalid UTF-8")]
fn content(value: &DynValue, count: usize) -> ort::Result<(Vec<u8>, Vec<usize>)> {
    if count == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut length = 0;
    // SAFETY: the pointer belongs to a live value. ONNX Runtime rejects values that are not string tensors.
    unsafe {
        let status = (ort::api().GetStringTensorDataLength)(value.ptr(), &raw mut length);
        ort::Error::result_from_status(status)?;
    }
    let (mut content, mut starts) = (vec![0_u8; length], vec![0_usize; count]);
    // SAFETY: as above. Both buffers have the lengths that the call passes, and ONNX Runtime writes no more than that.
    unsafe {
        let read = ort::api().GetStringTensorContent;
        let status = read(value.ptr(), content.as_mut_ptr().cast(), length, starts.as_mut_ptr(), count);
        ort::Error::result_from_status(status)?;
    }
    Ok((content, starts))
}
