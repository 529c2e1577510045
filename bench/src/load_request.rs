use anyhow::Context;
use http::{HeaderValue, Method, Request, Version};
use open_inference::grpc::proto::inference::ModelInferRequest;
use open_inference::grpc::proto::inference::model_infer_request::InferInputTensor;
use prost::Message;

use crate::arguments::{Arguments, CacheMode, RequestFormat};
use crate::tensor::{NUMBER, Tensor, array, json, raw, write_number};

/// A part of a request's number. Exact as a float, and too small to change an image visibly.
const PART: u64 = 1 << 20;

/// A request of the load generator, as sent. The bytes that make it unique are overwritten in place, in the same length.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    seed: u64,
    /// Over gRPC the head travels apart, and `bytes` is the message.
    call: Option<Request<()>>,
}

/// Where a number stands.
#[derive(Clone, Debug)]
enum Slot {
    /// Sixteen bytes behind the end of a file: another file, the same pixels.
    File(usize),
    /// Three floats of 4 bytes.
    Floats(usize),
    /// Three numbers like 0.00000000000.
    Digits([usize; 3]),
}

impl LoadRequest {
    /// The request that the arguments describe.
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let infer = format!("/v2/models/{}/infer", arguments.model);
        let mut request = match arguments.format {
            RequestFormat::Png => Self::file(arguments)?,
            RequestFormat::Json => Self::text(arguments, &infer, &json(&Tensor::new(arguments)?)),
            RequestFormat::Array => Self::text(arguments, "/web_api", &array(&Tensor::new(arguments)?)),
            RequestFormat::Binary => Self::binary(arguments, &infer)?,
            RequestFormat::Grpc => Self::grpc(arguments)?,
        };
        request.set_number(arguments.first);
        Ok(request)
    }

    /// Makes it the request of this number.
    pub fn set_number(&mut self, number: u64) {
        let rows = self.slots.len() as u64;
        for (row, slot) in self.slots.iter().enumerate() {
            let number = number * rows + row as u64;
            let parts = [self.seed % PART, number / PART % PART, number % PART];
            match slot {
                Slot::File(at) => {
                    self.bytes[*at..at + 8].copy_from_slice(&self.seed.to_le_bytes());
                    self.bytes[at + 8..at + 16].copy_from_slice(&number.to_le_bytes());
                }
                Slot::Floats(at) => {
                    for (index, part) in parts.into_iter().enumerate() {
                        // At most 2^-14 of the brightness.
                        let value = part as f32 / (PART << 14) as f32;
                        let at = at + 4 * index;
                        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                    }
                }
                Slot::Digits(places) => {
                    for (at, part) in places.iter().zip(parts) {
                        write_number(&mut self.bytes[*at..at + NUMBER.len()], part);
                    }
                }
            }
        }
    }

    /// The whole request of HTTP/1.1, or the message of a call.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The head of a call, when it is one.
    pub fn call(&self) -> Option<&Request<()>> {
        self.call.as_ref()
    }

    fn file(arguments: &Arguments) -> anyhow::Result<Self> {
        let mut file = std::fs::read(&arguments.image).with_context(|| arguments.image.display().to_string())?;
        let at = file.len();
        file.extend([0; 16]);
        let subtype = match image::guess_format(&file)? {
            image::ImageFormat::Jpeg => "jpeg",
            image::ImageFormat::Bmp => "bmp",
            image::ImageFormat::WebP => "webp",
            _ => "png",
        };
        let path = format!("/predict/{}", arguments.model);
        let head = format!("Content-Type: image/{subtype}\r\n");
        Ok(Self::http(arguments, &path, &head, &file, vec![Slot::File(at)]))
    }

    fn text(arguments: &Arguments, path: &str, (text, places): &(String, Vec<usize>)) -> Self {
        let slots = places.chunks_exact(3).map(|of_row| Slot::Digits([of_row[0], of_row[1], of_row[2]])).collect();
        Self::http(arguments, path, "Content-Type: application/json\r\n", text.as_bytes(), slots)
    }

    fn binary(arguments: &Arguments, path: &str) -> anyhow::Result<Self> {
        let Tensor { name, shape, row, rows } = Tensor::new(arguments)?;
        let size = row.len() * rows * 4;
        let json = format!(
            r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"{name}","datatype":"FP32","shape":{shape:?},"parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        let body = [json.as_bytes(), &raw(&row, rows)].concat();
        let head = format!(
            "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {length}\r\n",
            length = json.len()
        );
        let slots = (0..rows).map(|index| Slot::Floats(json.len() + index * row.len() * 4)).collect();
        Ok(Self::http(arguments, path, &head, &body, slots))
    }

    fn http(arguments: &Arguments, path: &str, head: &str, body: &[u8], mut slots: Vec<Slot>) -> Self {
        let path = arguments.path.as_deref().unwrap_or(path);
        let cache_control = if arguments.cache == CacheMode::NoStore { "Cache-Control: no-store\r\n" } else { "" };
        let (address, length) = (&arguments.address, body.len());
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\n{head}{cache_control}Content-Length: {length}\r\n\r\n");
        for slot in &mut slots {
            slot.move_by(head.len());
        }
        let bytes = [head.as_bytes(), body].concat();
        Self { bytes, slots, seed: arguments.seed, call: None }
    }

    fn grpc(arguments: &Arguments) -> anyhow::Result<Self> {
        let Tensor { name, shape, row, rows } = Tensor::new(arguments)?;
        let shape = shape.into_iter().map(i64::try_from).collect::<Result<_, _>>()?;
        let message = ModelInferRequest {
            model_name: arguments.model.clone(),
            inputs: vec![InferInputTensor { name, datatype: "FP32".to_owned(), shape, ..Default::default() }],
            raw_input_contents: vec![raw(&row, rows).into()],
            ..Default::default()
        };
        let message = message.encode_to_vec();
        // Not compressed, then the length.
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.len())?.to_be_bytes());
        bytes.extend(message);
        // The contents are the message's last field, as they have its largest number.
        let begin = bytes.len() - row.len() * rows * 4;
        let slots = (0..rows).map(|index| Slot::Floats(begin + index * row.len() * 4)).collect();
        let mut call = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://{}/inference.GRPCInferenceService/ModelInfer", arguments.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        if arguments.cache == CacheMode::NoStore {
            call.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        }
        Ok(Self { bytes, slots, seed: arguments.seed, call: Some(call) })
    }
}

impl Slot {
    fn move_by(&mut self, bytes: usize) {
        match self {
            Self::File(at) | Self::Floats(at) => *at += bytes,
            Self::Digits(places) => places.iter_mut().for_each(|at| *at += bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &str) -> LoadRequest {
        let words = format!("localhost:1 --image ../model_api/models/mnist/samples/digit-7.png --seed 5 {words}");
        LoadRequest::new(&Arguments::parse(words.split(' ').map(str::to_owned)).unwrap()).unwrap()
    }

    #[test]
    fn every_number_is_another_request_of_the_same_length() {
        for format in ["png", "json", "array", "binary", "binary --rows 3", "grpc"] {
            let mut request = request(&format!("--format {format}"));
            let mut seen = std::collections::HashSet::new();
            for number in [0, 1, 2, PART - 1, PART, 7 * PART] {
                request.set_number(number);
                assert!(seen.insert(request.bytes().to_vec()), "{format} {number}");
            }
            request.set_number(0);
            assert!(!seen.insert(request.bytes().to_vec()), "{format}");
        }
    }

    #[test]
    fn a_number_changes_only_the_darkest_pixels() {
        let mut request = request("--format json");
        request.set_number(1_048_575);
        let text = String::from_utf8(request.bytes().to_vec()).unwrap();
        let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
        let data = body["inputs"][0]["data"].as_array().unwrap();
        assert_eq!(data.len(), 784);
        assert_eq!(data[0], 0.000_000_000_05);
        assert_eq!(data[2], 0.000_010_485_75);
        assert!(data.iter().any(|value| *value == 1.0));
    }
}
