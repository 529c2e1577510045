//! Two bytes are a shape, the rest are strings, each with its length before it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use open_inference::{Datatype, Tensor};

fuzz_target!(|input: &[u8]| {
    let Some((&[rows, columns], data)) = input.split_first_chunk() else { return };
    let shape = [rows.into(), columns.into()];
    let Ok(tensor) = Tensor::new("x", Datatype::Bytes, &shape, data.to_vec().into()) else { return };
    let strings: Vec<_> = tensor.strings().collect();
    assert_eq!(strings.len(), tensor.len());
    let lengths = tensor.shape.clone();
    assert_eq!(Tensor::from_strings("x", lengths, strings.iter().map(|string| &string[..])), tensor);
    let split = tensor.split_rows();
    if !split.is_empty() {
        assert_eq!(Tensor::concat_rows(&split.iter().collect::<Vec<_>>()), Some(tensor));
    }
});
