//! Cache entries in Redis. After an even first byte, the rest is the encoding of a result, and `db_api` adds the header
//! and the checksum, so that the fuzzer reaches the decoder behind them. After an odd byte, the rest is a whole value.
#![no_main]

use db_api::cache::{CacheEntry, CacheKey, KeyInput, redis_value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((form, rest)) = input.split_first() else { return };
    let key = CacheKey::new("ui", "m", "1", "sha256:1", KeyInput::Image(b"x"));
    let value = if form.is_multiple_of(2) { redis_value(rest, key) } else { Some(rest.to_vec()) };
    let Some(value) = value else { return };
    if let Some(entry) = CacheEntry::from_bytes(value.clone(), key) {
        assert_eq!(entry.to_bytes(), Some(value), "a result has one encoding");
    }
});
