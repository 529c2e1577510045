//! The first byte chooses a model; the rest is a request in JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use open_inference::parse_request;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else { return };
    if let Ok(wire) = parse_request(&body.to_vec().into(), None) {
        let _ = fuzz::ask(wire, &fuzz::model(choice));
    }
});
