//! Cache entries in Redis. After an even first byte, a valid header and checksum are added to the rest, so that the
//! fuzzer reaches the decoder behind them.
#![no_main]

use db_api::cache::{CacheEntry, CacheKey, KeyInput};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fuzz_target!(|input: &[u8]| {
    let Some((form, value)) = input.split_first() else { return };
    let key = CacheKey::new("ui", "m", "1", "sha256:1", KeyInput::Image(b"x"));
    let value = if form.is_multiple_of(2) {
        let mut sealed = [b"MLSA\x01", value].concat();
        let sum = Sha256::digest(&sealed);
        sealed.extend(&sum[..16]);
        sealed
    } else {
        value.to_vec()
    };
    if let Some(entry) = CacheEntry::from_bytes(value.clone(), key) {
        let written = entry.to_bytes().expect("no longer than what was read");
        let again = CacheEntry::from_bytes(written.clone(), key).expect("our own form");
        assert_eq!(again.to_bytes(), Some(written));
        assert_eq!(again.inference.outputs, entry.inference.outputs);
    }
});
