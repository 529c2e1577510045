use std::fmt::Write;

use anyhow::ensure;

use crate::arguments::Arguments;

/// Input values, row by row.
pub(crate) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub row: Vec<f32>,
    pub rows: usize,
}

impl Tensor {
    /// The image in gray, 0 to 1; or the requested zeros.
    pub(crate) fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let (name, rows) = (arguments.input.clone(), arguments.rows);
        if let Some(lengths) = &arguments.shape {
            let elements = lengths.iter().product();
            ensure!(elements >= 3, "a request's number takes three elements");
            return Ok(Self { name, shape: [&[rows], &lengths[..]].concat(), row: vec![0.0; elements], rows });
        }
        let image = image::open(&arguments.image)?.into_luma8();
        let (width, height) = image.dimensions();
        let row = image.into_raw().into_iter().map(|gray| f32::from(gray) / 255.0).collect();
        Ok(Self { name, shape: vec![rows, height as usize, width as usize, 1], row, rows })
    }
}

/// As little-endian bytes.
pub(crate) fn raw(row: &[f32], rows: usize) -> Vec<u8> {
    let row: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    row.repeat(rows)
}

/// A number with room for a part of a request's number.
pub(crate) const NUMBER: &str = "0.00000000000";

/// Writes the last seven digits of a [`NUMBER`].
pub(crate) fn write_number(number: &mut [u8], mut value: u64) {
    for digit in number.iter_mut().rev().take(7) {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// An Open Inference request, and where its rows' first three numbers stand.
pub(crate) fn json(tensor: &Tensor) -> (String, Vec<usize>) {
    let Tensor { name, shape, row, rows } = tensor;
    let mut text = format!(r#"{{"inputs":[{{"name":"{name}","datatype":"FP32","shape":{shape:?},"data":["#);
    let mut places = Vec::new();
    for index in 0..*rows {
        for (element, value) in row.iter().enumerate() {
            let comma = if index + element > 0 { "," } else { "" };
            text.push_str(comma);
            push_number(&mut text, &mut places, element, *value);
        }
    }
    text.push_str("]}]}");
    (text, places)
}

/// The first `MLServe`'s: one image, row by row, each pixel a list of its channels.
pub(crate) fn array(tensor: &Tensor) -> (String, Vec<usize>) {
    let width = tensor.shape.get(2).copied().unwrap_or(1);
    let mut text = String::from(r#"{"image_arr": [["#);
    let mut places = Vec::new();
    for (element, value) in tensor.row.iter().enumerate() {
        text.push_str(match (element, element % width) {
            (0, _) => "[[",
            (_, 0) => "]], [[",
            _ => "], [",
        });
        push_number(&mut text, &mut places, element, *value);
    }
    text.push_str("]]]]}");
    (text, places)
}

fn push_number(text: &mut String, places: &mut Vec<usize>, element: usize, value: f32) {
    if element < 3 {
        places.push(text.len());
        text.push_str(NUMBER);
    } else {
        let _ = write!(text, "{value:?}");
    }
}
