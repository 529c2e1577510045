//! Conversion between typed contents and raw tensor data.

use std::fmt::Display;

use bytes::Bytes;

use crate::grpc::proto::inference::InferTensorContents;
use crate::types::{Datatype, Element, Tensor};

/// Field of a datatype in typed contents; `None` where the protocol has none.
fn contents_field(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("bool_contents"),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some("uint_contents"),
        Datatype::Uint64 => Some("uint64_contents"),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some("int_contents"),
        Datatype::Int64 => Some("int64_contents"),
        Datatype::Fp16 | Datatype::Bf16 => None,
        Datatype::Fp32 => Some("fp32_contents"),
        Datatype::Fp64 => Some("fp64_contents"),
        Datatype::Bytes => Some("bytes_contents"),
    }
}

/// Converts typed contents to raw tensor data. An error describes the inconsistency.
pub fn to_raw(datatype: Datatype, contents: &InferTensorContents) -> Result<Bytes, String> {
    let non_empty = non_empty_fields(contents);
    let field =
        contents_field(datatype).ok_or_else(|| format!("{datatype} has no typed contents; use raw_input_contents"))?;
    if let Some(other) = non_empty.iter().find(|&&name| name != field) {
        return Err(format!("elements of {datatype} belong in {field}, not in {other}"));
    }
    let ints = &contents.int_contents;
    let uints = &contents.uint_contents;
    match datatype {
        Datatype::Bool => Ok(to_le_bytes(&contents.bool_contents)),
        Datatype::Uint8 => narrow::<u8, _>(datatype, uints),
        Datatype::Uint16 => narrow::<u16, _>(datatype, uints),
        Datatype::Uint32 => Ok(to_le_bytes(uints)),
        Datatype::Uint64 => Ok(to_le_bytes(&contents.uint64_contents)),
        Datatype::Int8 => narrow::<i8, _>(datatype, ints),
        Datatype::Int16 => narrow::<i16, _>(datatype, ints),
        Datatype::Int32 => Ok(to_le_bytes(ints)),
        Datatype::Int64 => Ok(to_le_bytes(&contents.int64_contents)),
        Datatype::Fp32 => Ok(to_le_bytes(&contents.fp32_contents)),
        Datatype::Fp64 => Ok(to_le_bytes(&contents.fp64_contents)),
        Datatype::Fp16 | Datatype::Bf16 => Ok(Bytes::new()),
        Datatype::Bytes => Ok(Bytes::copy_from_slice(contents.bytes_contents.raw())),
    }
}

/// Converts a tensor to typed contents; `None` where its datatype has no field.
pub fn from_tensor(tensor: &Tensor) -> Option<InferTensorContents> {
    let mut contents = InferTensorContents::default();
    match tensor.datatype {
        Datatype::Bool => contents.bool_contents = tensor.elements().collect(),
        Datatype::Uint8 => contents.uint_contents = tensor.elements::<u8>().map(u32::from).collect(),
        Datatype::Uint16 => contents.uint_contents = tensor.elements::<u16>().map(u32::from).collect(),
        Datatype::Uint32 => contents.uint_contents = tensor.elements().collect(),
        Datatype::Uint64 => contents.uint64_contents = tensor.elements().collect(),
        Datatype::Int8 => contents.int_contents = tensor.elements::<i8>().map(i32::from).collect(),
        Datatype::Int16 => contents.int_contents = tensor.elements::<i16>().map(i32::from).collect(),
        Datatype::Int32 => contents.int_contents = tensor.elements().collect(),
        Datatype::Int64 => contents.int64_contents = tensor.elements().collect(),
        Datatype::Fp16 | Datatype::Bf16 => return None,
        Datatype::Fp32 => contents.fp32_contents = tensor.elements().collect(),
        Datatype::Fp64 => contents.fp64_contents = tensor.elements().collect(),
        Datatype::Bytes => contents.bytes_contents = tensor.strings().collect(),
    }
    Some(contents)
}

/// Names of the fields that have elements.
pub fn non_empty_fields(contents: &InferTensorContents) -> Vec<&'static str> {
    field_lengths(contents).into_iter().filter(|&(_, elements)| elements > 0).map(|(name, _)| name).collect()
}

/// Approximate size of all elements in bytes.
pub fn content_bytes(contents: &InferTensorContents) -> usize {
    let elements: usize = field_lengths(contents).iter().map(|(_, elements)| elements).sum();
    4 * elements + contents.bytes_contents.raw().len()
}

fn field_lengths(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn to_le_bytes<T: Element>(elements: &[T]) -> Bytes {
    let mut raw = Vec::with_capacity(size_of_val(elements));
    for element in elements {
        element.write(&mut raw);
    }
    raw.into()
}

fn narrow<T: Element + TryFrom<W>, W: Copy + Display>(datatype: Datatype, elements: &[W]) -> Result<Bytes, String> {
    let mut raw = Vec::with_capacity(elements.len() * size_of::<T>());
    for (index, &element) in elements.iter().enumerate() {
        let narrow = T::try_from(element)
            .map_err(|_| format!("element {index} is {element}, which is not a valid {datatype}"))?;
        narrow.write(&mut raw);
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_contents_round_trip_in_every_datatype() {
        for datatype in Datatype::ALL {
            let tensor = match datatype {
                Datatype::Bytes => Tensor::from_strings("x", vec![2], [&b"\xff\0"[..], b""]),
                datatype => Tensor::from_f32("x", datatype, vec![2], &[1.0, 0.0]).unwrap(),
            };
            match from_tensor(&tensor) {
                Some(contents) => assert_eq!(to_raw(datatype, &contents).unwrap(), tensor.data, "{datatype}"),
                None => assert!(matches!(datatype, Datatype::Fp16 | Datatype::Bf16)),
            }
        }
    }

    #[test]
    fn extreme_values_are_exact() {
        let contents = InferTensorContents { int_contents: vec![-128, 127], ..Default::default() };
        assert_eq!(to_raw(Datatype::Int8, &contents).unwrap()[..], [0x80, 0x7f]);
        let contents = InferTensorContents { uint64_contents: vec![u64::MAX], ..Default::default() };
        assert_eq!(to_raw(Datatype::Uint64, &contents).unwrap()[..], [0xff; 8]);
        let nan = f32::from_bits(0x7fc0_1234);
        let contents = InferTensorContents { fp32_contents: vec![nan], ..Default::default() };
        assert_eq!(to_raw(Datatype::Fp32, &contents).unwrap()[..], 0x7fc0_1234_u32.to_le_bytes());
    }

    #[test]
    fn elements_in_the_wrong_field_or_out_of_range_are_rejected() {
        let ints = InferTensorContents { int_contents: vec![1, 300], ..Default::default() };
        for (datatype, message) in [
            (Datatype::Int8, "element 1 is 300, which is not a valid INT8"),
            (Datatype::Fp32, "elements of FP32 belong in fp32_contents, not in int_contents"),
            (Datatype::Int64, "elements of INT64 belong in int64_contents, not in int_contents"),
            (Datatype::Fp16, "FP16 has no typed contents; use raw_input_contents"),
            (Datatype::Bf16, "BF16 has no typed contents; use raw_input_contents"),
        ] {
            assert_eq!(to_raw(datatype, &ints).unwrap_err(), message);
        }
    }
}
