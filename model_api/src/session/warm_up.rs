//! The first run, before any request: ONNX Runtime takes its memory and chooses its kernels then, and CUDA can fail as
//! late as that.

use std::collections::BTreeMap;

use open_inference::{Datatype, MAX_RANK, Tensor, TensorMetadata, byte_length};

use super::frame::Load;

/// An input for the first run: zeros, or empty strings, in the shape that settings or graph give, and 1 where both leave a
/// length open.
pub fn input(spec: &TensorMetadata, load: &Load) -> Result<Tensor, String> {
    let shape: Vec<usize> =
        known_shape(spec, &load.shapes).iter().map(|&length| usize::try_from(length).unwrap_or(1)).collect();
    // An empty string is four bytes of length.
    let bytes = byte_length(&shape, spec.datatype.size().unwrap_or(4))
        .ok_or_else(|| format!("input {:?} is too large: {shape:?}", spec.name))?;
    let mut data = vec![0; bytes];
    if is_integer(spec.datatype) {
        // Ones: an integer that is divided by zero kills the process, while a place that does not exist is only refused.
        data.chunks_exact_mut(spec.datatype.size().unwrap_or(1)).for_each(|element| element[0] = 1);
    }
    Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() })
}

/// Whether the inputs were more of a guess than zeros in a single tensor of a known shape: open lengths, strings, integers,
/// which may well be lengths or places, or a second input, which may say how to treat the first. A model that refuses such
/// a run may answer every real request; of ONNX's own test models one in seventy is like that.
pub fn is_guessed(inputs: &[TensorMetadata], load: &Load) -> bool {
    let known = |spec: &TensorMetadata| {
        let fixed = known_shape(spec, &load.shapes).iter().all(|&length| length >= 0);
        fixed && spec.datatype != Datatype::Bytes && !is_integer(spec.datatype)
    };
    !matches!(inputs, [only] if known(only))
}

/// The shape of an input, as settings narrow what the graph gives.
///
/// Settings that contradict the graph are told by whoever holds them against it, with the field's name; here they would
/// only be a run that fails.
pub fn known_shape<'a>(spec: &'a TensorMetadata, shapes: &'a BTreeMap<String, Vec<i64>>) -> &'a [i64] {
    shapes.get(&spec.name).filter(|shape| narrows(shape, &spec.shape)).unwrap_or(&spec.shape)
}

/// Whether settings may give this shape: they may fix a length that the graph leaves open, and say all where the graph does
/// not even say how many axes there are, and nothing else.
pub fn narrows(settings: &[i64], graph: &[i64]) -> bool {
    let fits = |(&said, &is): (&i64, &i64)| said == is || (is == -1 && said > 0);
    let says_all =
        graph.is_empty() && settings.len() <= MAX_RANK && settings.iter().all(|&said| said == -1 || said > 0);
    says_all || (settings.len() == graph.len() && settings.iter().zip(graph).all(fits))
}

fn is_integer(datatype: Datatype) -> bool {
    !matches!(
        datatype,
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes
    )
}
