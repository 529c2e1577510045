//! A byte chooses a model, two are the length of the JSON; the rest is JSON and raw elements.
#![no_main]

use libfuzzer_sys::fuzz_target;
use open_inference::parse_request;

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, low, high], body)) = input.split_first_chunk() else { return };
    let length = u16::from_le_bytes([low, high]);
    if let Ok(wire) = parse_request(&body.to_vec().into(), Some(length.into())) {
        let _ = fuzz::ask(wire, &fuzz::model(choice));
    }
});
