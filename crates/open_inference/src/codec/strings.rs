//! Element-wise parsing of `BYTES` tensors with errors that name the element.

use std::fmt::Display;

use crate::error::Error;
use crate::truncate::quoted;
use crate::types::Tensor;

/// Parses each element. The error names the first element that is not `expected`.
pub(super) fn map_strings<T>(
    tensor: &Tensor,
    expected: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let elements = tensor.strings().enumerate();
    elements
        .map(|(index, string)| {
            parse(&string).ok_or_else(|| invalid_element(tensor, index, format_args!("is not {expected}")))
        })
        .collect()
}

/// The error of one element: `problem` follows its name.
pub(super) fn invalid_element(tensor: &Tensor, element: usize, problem: impl Display) -> Error {
    Error::malformed(format!("input {}: element {element} {problem}", quoted(&tensor.name)))
}
