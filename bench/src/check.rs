use open_inference::grpc::proto::inference::ModelInferResponse;
use prost::Message;
use serde_json::Value;

use crate::arguments::RequestFormat;
use crate::http1::Answer;

/// The class that an answer names, or whose value is the largest in its first row of ten. `None` when it cannot be read.
pub fn class_of(format: RequestFormat, answer: &Answer<'_>) -> Option<usize> {
    match format {
        RequestFormat::Png | RequestFormat::Array => {
            let body = serde_json::from_slice(answer.body).ok()?;
            // model_api alone has the same response for an image as for a tensor.
            named(&body).or_else(|| largest(numbers(&body)))
        }
        RequestFormat::Json => largest(numbers(&serde_json::from_slice(answer.body).ok()?)),
        RequestFormat::Binary => match answer.json_length {
            Some(length) => largest(floats(answer.body.get(length..)?)),
            None => largest(numbers(&serde_json::from_slice(answer.body).ok()?)),
        },
        RequestFormat::Grpc => {
            let message = ModelInferResponse::decode(answer.body).ok()?;
            match message.raw_output_contents.first() {
                Some(raw) => largest(floats(raw)),
                None => largest(message.outputs.first()?.contents.as_ref()?.fp32_contents.iter().copied()),
            }
        }
    }
}

/// Some answer with a list of one.
fn named(body: &Value) -> Option<usize> {
    body.get("cls").or_else(|| body.get(0)?.get("cls"))?.as_u64().map(|class| class as usize)
}

/// The first output's numbers, flat or nested.
fn numbers(body: &Value) -> impl Iterator<Item = f32> {
    let mut waiting = vec![&body["outputs"][0]["data"]];
    std::iter::from_fn(move || {
        loop {
            match waiting.pop()? {
                Value::Array(list) => waiting.extend(list.iter().rev()),
                other => return other.as_f64().map(|number| number as f32),
            }
        }
    })
}

fn floats(raw: &[u8]) -> impl Iterator<Item = f32> {
    raw.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn largest(values: impl Iterator<Item = f32>) -> Option<usize> {
    values.take(10).enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(class, _)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &[u8], json_length: Option<usize>) -> Answer<'_> {
        Answer { status: 200, json_length, cache_status: b"", body, closes: false }
    }

    #[test]
    fn a_class_is_found_in_every_kind_of_answer() {
        let json = br#"{"outputs":[{"data":[[0.1, 0.7, 0.2]]}]}"#;
        let mut binary = b"{}".to_vec();
        binary.extend([0.1_f32, 0.9].into_iter().flat_map(f32::to_le_bytes));
        assert_eq!(class_of(RequestFormat::Png, &answer(br#"{"cls": 7}"#, None)), Some(7));
        assert_eq!(class_of(RequestFormat::Json, &answer(json, None)), Some(1));
        assert_eq!(class_of(RequestFormat::Binary, &answer(&binary, Some(2))), Some(1));
        assert_eq!(class_of(RequestFormat::Json, &answer(b"<html>", None)), None);
    }
}
