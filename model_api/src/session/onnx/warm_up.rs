//! Warm-up run before the first request. ONNX Runtime allocates memory and selects kernels then, and CUDA can fail as late as that.

use open_inference::{Datatype, Tensor, TensorMetadata, byte_length};

use crate::session::frame::LoadRequest;
use crate::session::shape::known_shape;

/// An input for the warm-up run: zeros, ones for integers, or empty strings. Open dimensions have length 1.
pub fn input(spec: &TensorMetadata, load: &LoadRequest) -> Result<Tensor, String> {
    let shape: Vec<usize> =
        known_shape(spec, &load.shapes).iter().map(|&length| usize::try_from(length).unwrap_or(1)).collect();
    // An empty string is a length prefix of four bytes.
    let bytes = byte_length(&shape, spec.datatype.size().unwrap_or(4))
        .ok_or_else(|| format!("input {:?} is too large: {shape:?}", spec.name))?;
    let mut data = vec![0; bytes];
    if is_integer(spec.datatype) {
        // Ones: an integer division by zero kills the process, but an index out of range is only rejected.
        data.chunks_exact_mut(spec.datatype.size().unwrap_or(1)).for_each(|element| element[0] = 1);
    }
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
}

/// Whether the generated inputs may be invalid for the model. That is every input but a single float tensor of known shape:
/// integers may be lengths or indices, and a second input may configure the first. Among ONNX's own test models, one in seventy
/// rejects its generated inputs.
pub fn is_guess(inputs: &[TensorMetadata], load: &LoadRequest) -> bool {
    let known = |spec: &TensorMetadata| {
        let fixed = known_shape(spec, &load.shapes).iter().all(|&length| length >= 0);
        fixed && spec.datatype != Datatype::Bytes && !is_integer(spec.datatype)
    };
    !matches!(inputs, [only] if known(only))
}

fn is_integer(datatype: Datatype) -> bool {
    !matches!(
        datatype,
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes
    )
}
