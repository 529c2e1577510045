use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use serde::Serialize;

use crate::check::shown;
use crate::content;
use crate::render::base64;
use crate::{ContentType, Datatype, Element, Error, Parameter, Tensor, WireOutput, WireResponse, binary, with_element};

/// An answer, ready to be sent: the JSON, and the elements of those outputs that stand behind it.
#[derive(Clone, Debug)]
pub struct JsonResponse {
    /// The JSON.
    pub json: Bytes,
    /// Raw elements in the outputs' order; `None` where all outputs are in the JSON.
    pub tail: Option<Vec<Bytes>>,
}

/// Writes an answer. Numbers are written so that reading them gives the same bits; NaN and infinities as the texts `"NaN"`,
/// `"Infinity"` and `"-Infinity"`, since JSON has no numbers for them.
pub fn response_to_json(response: &WireResponse) -> Result<JsonResponse, Error> {
    let in_json = |output: &&WireOutput| !output.binary;
    let size: usize = response.outputs.iter().filter(in_json).map(|output| output.tensor.data.len() * 3).sum();
    let mut json = Vec::with_capacity(512 + size);
    field(&mut json, "{\"model_name\":", &response.model_name);
    field(&mut json, ",\"model_version\":", &response.model_version);
    field(&mut json, ",\"id\":", &response.id);
    if !response.parameters.is_empty() {
        field(&mut json, ",\"parameters\":", &response.parameters);
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

/// Ready tensors as a request in JSON alone, for who reads no other.
pub fn request_to_json(inputs: &[Tensor]) -> Result<Bytes, Error> {
    let mut json = b"{\"inputs\":[".to_vec();
    for (index, tensor) in inputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        let is_text =
            tensor.datatype != Datatype::Bytes || tensor.strings().all(|text| std::str::from_utf8(&text).is_ok());
        let (tensor, content_type) =
            if is_text { (tensor.clone(), None) } else { (base64(tensor), Some(ContentType::Base64)) };
        let parameters = content_type.map(content::parameters).unwrap_or_default();
        write_output(&mut json, &WireOutput { tensor, parameters, binary: false })?;
    }
    json.extend_from_slice(b"]}");
    Ok(json.into())
}

pub(crate) fn write_output(json: &mut Vec<u8>, output: &WireOutput) -> Result<(), Error> {
    let WireOutput { tensor, parameters, binary } = output;
    field(json, "{\"name\":", &tensor.name);
    field(json, ",\"datatype\":", &tensor.datatype);
    field(json, ",\"shape\":", &tensor.shape);
    if *binary {
        let mut parameters = parameters.clone();
        parameters.insert(binary::SIZE.to_owned(), Parameter::Int(tensor.data.len().cast_signed() as i64));
        field(json, ",\"parameters\":", &parameters);
    } else {
        if !parameters.is_empty() {
            field(json, ",\"parameters\":", parameters);
        }
        json.extend_from_slice(b",\"data\":[");
        let pictures = parameters.get("content_type").and_then(Parameter::as_str) == Some("image");
        write_elements(json, tensor, pictures)?;
        json.push(b']');
    }
    json.push(b'}');
    Ok(())
}

fn field(json: &mut Vec<u8>, key: &str, value: &(impl Serialize + ?Sized)) {
    json.extend_from_slice(key.as_bytes());
    write(json, value);
}

fn write(json: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(json, value).expect("names, numbers and texts always become JSON, and a Vec always takes it");
}

fn write_elements(json: &mut Vec<u8>, tensor: &Tensor, pictures: bool) -> Result<(), Error> {
    let mut first = true;
    let mut separate = |json: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            json.push(b',');
        }
    };
    with_element!(tensor.datatype, T => {
        for element in tensor.elements::<T>() {
            separate(json);
            Written::write(element, json);
        }
    }, bytes => {
        for (index, string) in tensor.strings().enumerate() {
            separate(json);
            if pictures {
                write(json, &STANDARD.encode(&string));
            } else {
                let text = std::str::from_utf8(&string).map_err(|_| no_text(&tensor.name, index))?;
                write(json, text);
            }
        }
    });
    Ok(())
}

fn no_text(name: &str, element: usize) -> Error {
    Error::unprocessable(format!(
        "element {element} of output {} is not UTF-8, so JSON cannot hold it: ask for it with \"content_type\": \"base64\", \
         or as binary data",
        shown(name)
    ))
}

/// An element that JSON writes without quotes, where it can.
trait Written: Element {
    fn write(self, json: &mut Vec<u8>);
}

macro_rules! written {
    ($($number:ty)*; $element:ident => $plain:expr; $special:expr) => {$(
        impl Written for $number {
            #[inline]
            fn write(self, json: &mut Vec<u8>) {
                let $element = self;
                match $special {
                    None => write(json, &$plain),
                    Some(special) => write(json, special),
                }
            }
        }
    )*};
}
written!(bool u8 u16 u32 u64 i8 i16 i32 i64; element => element; None::<&str>);
written!(f32; element => element; special(element.into()));
written!(f64; element => element; special(element));
// Both are f32s with fewer bits; the shortest digits that give the same f32 give the same half as well.
written!(f16 bf16; element => f32::from(element); special(element.into()));

fn special(number: f64) -> Option<&'static str> {
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
    use crate::{Datatype, Parameters};

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
    fn an_answer_is_written_as_the_protocol_says() {
        let written = response_to_json(&response(floats(&[1.0, 0.1]), false)).unwrap();
        assert_eq!(
            std::str::from_utf8(&written.json).unwrap(),
            r#"{"model_name":"m\"","model_version":"1","id":"7","parameters":{"device":"cpu"},"#.to_owned()
                + r#""outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.0,0.1]}]}"#
        );
        assert!(written.tail.is_none());
    }

    #[test]
    fn binary_elements_stand_behind_the_json_uncopied() {
        let tensor = floats(&[1.0]);
        let written = response_to_json(&response(tensor.clone(), true)).unwrap();
        let json = std::str::from_utf8(&written.json).unwrap();
        assert!(json.ends_with(r#""shape":[1],"parameters":{"binary_data_size":4}}]}"#), "{json}");
        assert_eq!(written.tail.unwrap()[0].as_ptr(), tensor.data.as_ptr());
    }

    #[test]
    fn what_json_has_no_number_for_is_a_text() {
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        assert_eq!(data(floats(&values)), r#"["NaN","Infinity","-Infinity",-0.0]"#);
        let third = Tensor::from_f32("y", Datatype::Bf16, vec![1], &[1.0 / 3.0]).unwrap();
        assert_eq!(data(third), "[0.33398438]");
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_a_way_out() {
        let tensor = Tensor::from_strings("y", vec![2], [&b"ok"[..], b"\xff"]);
        let error = response_to_json(&response(tensor.clone(), false)).unwrap_err();
        assert_eq!(
            error.message,
            "element 1 of output \"y\" is not UTF-8, so JSON cannot hold it: ask for it with \"content_type\": \"base64\", \
             or as binary data"
        );
        let mut pictures = response(tensor, false);
        pictures.outputs[0].parameters.insert("content_type".to_owned(), "image".into());
        let json = response_to_json(&pictures).unwrap().json;
        assert!(json.ends_with(br#""data":["b2s=","/w=="]}]}"#));
    }
}
