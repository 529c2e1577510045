//! A value out of Redis. An even first byte puts the rest between a true head and a true checksum, so that what is behind
//! them is reached as well.
#![no_main]

use db_api::entry::Entry;
use db_api::keys::{AnswerKey, Input};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|input: &[u8]| {
    let Some((form, value)) = input.split_first() else { return };
    let key = AnswerKey::new("ui", "m", "1", "sha256:1", Input::Image(b"x"));
    let value = if form.is_multiple_of(2) {
        let mut sealed = [b"MLSA\x01", value].concat();
        let sum = Sha256::digest(&sealed);
        sealed.extend(&sum[..16]);
        sealed
    } else {
        value.to_vec()
    };
    if let Some(entry) = Entry::from_bytes(value.clone(), key) {
        let written = entry.to_bytes().expect("no longer than what was read");
        let again = Entry::from_bytes(written.clone(), key).expect("our own form");
        assert_eq!(again.to_bytes(), Some(written));
        assert_eq!(again.inference.outputs, entry.inference.outputs);
    }
});
