//! Serializer for requests and responses in JSON with binary tensor data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use serde::Serialize;

use crate::codec::base64::encode_tensor;
use crate::codec::{binary, content_type};
use crate::error::Error;
use crate::truncate::quoted;
use crate::types::{ContentType, Datatype, Element, Parameter, Tensor, WireOutput, WireResponse};
use crate::with_element;

/// A serialized response: the JSON, and the binary data of the outputs that are not in the JSON.
#[derive(Clone, Debug)]
pub struct JsonResponse {
    /// The JSON document.
    pub json: Bytes,
    /// Binary data in the order of the outputs; `None` where all outputs are in the JSON.
    pub tail: Option<Vec<Bytes>>,
}

/// Serializes a response. Numbers round-trip bit for bit. NaN and infinities become the strings `"NaN"`, `"Infinity"`
/// and `"-Infinity"`, because JSON has no numbers for them.
pub fn response_to_json(response: &WireResponse) -> Result<JsonResponse, Error> {
    let in_json = |output: &&WireOutput| !output.binary;
    let size: usize = response.outputs.iter().filter(in_json).map(|output| output.tensor.data.len() * 3).sum();
    let mut json = Vec::with_capacity(512 + size);
    write_field(&mut json, "{\"model_name\":", &response.model_name);
    write_field(&mut json, ",\"model_version\":", &response.model_version);
    write_field(&mut json, ",\"id\":", &response.id);
    if !response.parameters.is_empty() {
        write_field(&mut json, ",\"parameters\":", &response.parameters);
    }
    json.extend_from_slice(b",\"outputs\":[");
    for (index, output) in response.outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_output(&mut json, output)?;
    }
    json.extend_from_slice(b"]}");
    let tail: Vec<_> =
        response.outputs.iter().filter(|output| output.binary).map(|output| output.tensor.data.clone()).collect();
    Ok(JsonResponse { json: json.into(), tail: (!tail.is_empty()).then_some(tail) })
}

/// Serializes decoded tensors as a request without binary data, for consumers that read only JSON.
pub fn request_to_json(inputs: &[Tensor]) -> Result<Bytes, Error> {
    let mut json = b"{\"inputs\":[".to_vec();
    for (index, tensor) in inputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let is_text =
            tensor.datatype != Datatype::Bytes || tensor.strings().all(|text| std::str::from_utf8(&text).is_ok());
        let (tensor, content_type) =
            if is_text { (tensor.clone(), None) } else { (encode_tensor(tensor), Some(ContentType::Base64)) };
        let parameters = content_type.map(content_type::content_type_parameters).unwrap_or_default();
        write_output(&mut json, &WireOutput { tensor, parameters, binary: false })?;
    }
    json.extend_from_slice(b"]}");
    Ok(json.into())
}

pub(crate) fn write_output(json: &mut Vec<u8>, output: &WireOutput) -> Result<(), Error> {
    let WireOutput { tensor, parameters, binary } = output;
    write_field(json, "{\"name\":", &tensor.name);
    write_field(json, ",\"datatype\":", &tensor.datatype);
    write_field(json, ",\"shape\":", &tensor.shape);
    if *binary {
        let mut parameters = parameters.clone();
        parameters.insert(binary::BINARY_DATA_SIZE.to_owned(), Parameter::Int(tensor.data.len().cast_signed() as i64));
        write_field(json, ",\"parameters\":", &parameters);
    } else {
        if !parameters.is_empty() {
            write_field(json, ",\"parameters\":", parameters);
        }
        json.extend_from_slice(b",\"data\":[");
        let as_base64 = parameters.get("content_type").and_then(Parameter::as_str) == Some("image");
        write_elements(json, tensor, as_base64)?;
        json.push(b']');
    }
    json.push(b'}');
    Ok(())
}

fn write_field(json: &mut Vec<u8>, key: &str, value: &(impl Serialize + ?Sized)) {
    json.extend_from_slice(key.as_bytes());
    write_value(json, value);
}

fn write_value(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(json, value)
        .expect("names, numbers and strings are always serializable, and a Vec accepts any length");
}

fn write_elements(json: &mut Vec<u8>, tensor: &Tensor, as_base64: bool) -> Result<(), Error> {
    let mut first = true;
    let mut separate = |json: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            json.push(b',');
        }
    };
    with_element!(tensor.datatype, T => {
        for element in tensor.elements::<T>() {
            separate(json);
            element.write_json(json);
        }
    }, bytes => {
        for (index, string) in tensor.strings().enumerate() {
            separate(json);
            if as_base64 {
                write_value(json, &STANDARD.encode(&string));
            } else {
                let text = std::str::from_utf8(&string).map_err(|_| not_utf8(&tensor.name, index))?;
                write_value(json, text);
            }
        }
    });
    Ok(())
}

fn not_utf8(name: &str, element: usize) -> Error {
    Error::unprocessable(format!(
        "element {element} of output {} is not UTF-8, so JSON cannot hold it: request it with \"content_type\": \"base64\", \
         or as binary data",
        quoted(name)
    ))
}

/// Element that JSON represents without quotes, where it has a representation.
trait WriteJson: Element {
    fn write_json(self, json: &mut Vec<u8>);
}

macro_rules! write_json {
    ($($number:ty)*; $element:ident => $plain:expr; $special:expr) => {$(
        impl WriteJson for $number {
            #[inline]
            fn write_json(self, json: &mut Vec<u8>) {
                let $element = self;
                match $special {
                    None => write_value(json, &$plain),
                    Some(special) => write_value(json, special),
                }
            }
        }
    )*};
}
write_json!(bool u8 u16 u32 u64 i8 i16 i32 i64; element => element; None::<&str>);
write_json!(f32; element => element; non_finite_text(element.into()));
write_json!(f64; element => element; non_finite_text(element));
// Both widen to `f32` exactly. The shortest digits of that `f32` also round-trip to the same half.
write_json!(f16 bf16; element => f32::from(element); non_finite_text(element.into()));

fn non_finite_text(number: f64) -> Option<&'static str> {
    match number {
        number if number.is_finite() => None,
        number if number.is_nan() => Some("NaN"),
        number if number > 0.0 => Some("Infinity"),
        _ => Some("-Infinity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Datatype, Parameters};

    fn response(tensor: Tensor, binary: bool) -> WireResponse {
        WireResponse {
            model_name: "m\"".to_owned(),
            model_version: "1".to_owned(),
            id: "7".to_owned(),
            parameters: Parameters::from([("device".to_owned(), "cpu".into())]),
            outputs: vec![WireOutput { tensor, parameters: Parameters::new(), binary }],
        }
    }

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_f32("y", Datatype::Fp32, vec![values.len()], values).unwrap()
    }

    fn data(tensor: Tensor) -> String {
        let written = response_to_json(&response(tensor, false)).unwrap().json;
        let json: serde_json::Value = serde_json::from_slice(&written).unwrap();
        json["outputs"][0]["data"].to_string()
    }

    #[test]
    fn a_response_is_serialized_in_the_format_of_the_protocol() {
        let written = response_to_json(&response(floats(&[1.0, 0.1]), false)).unwrap();
        assert_eq!(
            std::str::from_utf8(&written.json).unwrap(),
            r#"{"model_name":"m\"","model_version":"1","id":"7","parameters":{"device":"cpu"},"#.to_owned()
                + r#""outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.0,0.1]}]}"#
        );
        assert!(written.tail.is_none());
    }

    #[test]
    fn binary_data_is_not_copied() {
        let tensor = floats(&[1.0]);
        let written = response_to_json(&response(tensor.clone(), true)).unwrap();
        let json = std::str::from_utf8(&written.json).unwrap();
        assert!(json.ends_with(r#""shape":[1],"parameters":{"binary_data_size":4}}]}"#), "{json}");
        assert_eq!(written.tail.unwrap()[0].as_ptr(), tensor.data.as_ptr());
    }

    #[test]
    fn non_finite_numbers_become_strings() {
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        assert_eq!(data(floats(&values)), r#"["NaN","Infinity","-Infinity",-0.0]"#);
        let third = Tensor::from_f32("y", Datatype::Bf16, vec![1], &[1.0 / 3.0]).unwrap();
        assert_eq!(data(third), "[0.33398438]");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_rejected_with_a_remedy() {
        let tensor = Tensor::from_strings("y", vec![2], [&b"ok"[..], b"\xff"]);
        let error = response_to_json(&response(tensor.clone(), false)).unwrap_err();
        assert_eq!(
            error.message,
            "element 1 of output \"y\" is not UTF-8, so JSON cannot hold it: request it with \"content_type\": \"base64\", \
             or as binary data"
        );
        let mut images = response(tensor, false);
        images.outputs[0].parameters.insert("content_type".to_owned(), "image".into());
        let json = response_to_json(&images).unwrap().json;
        assert!(json.ends_with(br#""data":["b2s=","/w=="]}]}"#));
    }
}
