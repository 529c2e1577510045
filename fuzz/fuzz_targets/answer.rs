//! Two bytes are the length of the JSON; the rest is an answer as a replica of model_api might give it.
#![no_main]

use http::{HeaderMap, HeaderName};
use libfuzzer_sys::fuzz_target;
use open_inference::client;

fuzz_target!(|input: &[u8]| {
    let Some((length, body)) = input.split_first_chunk() else { return };
    let length = u16::from_le_bytes(*length);
    let headers = HeaderMap::from_iter([(HeaderName::from_static(fuzz::HEADER_LENGTH), length.into())]);
    let body = bytes::Bytes::copy_from_slice(body);
    if let Ok(inference) = client::decode_response(&headers, body.clone()) {
        for output in &inference.outputs {
            assert!(output.data.len() <= body.len().saturating_mul(8));
            let _ = output.split_rows();
        }
    }
    let _ = client::decode_error(http::StatusCode::BAD_GATEWAY, &body);
});
