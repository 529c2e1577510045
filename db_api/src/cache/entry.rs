//! Cache entry and its encoding in Redis: magic, format version, key, the result as `codec.rs` writes it, checksum.
//!
//! The checksum detects corruption. It does not authenticate the writer.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use open_inference::Inference;
use sha2::{Digest, Sha256};

use super::codec;
use super::keys::CacheKey;

/// Longest value in Redis; longer results are not written. Sixteen values, which is how many are read concurrently (`cache/mod.rs`),
/// stay within the output buffer that Redis allows per client (`client-output-buffer-limit`). One value does not evict thousands.
pub const MAX_ENTRY_BYTES: usize = 4 << 20;

/// Magic and format version. The header of format 1 was JSON.
const MAGIC: [u8; 5] = *b"MLSA\x02";

/// Length of the checksum: half a SHA-256.
const CHECKSUM_BYTES: usize = 16;

/// A cached result.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// The key of the result. It is stored and compared, so that a value under a wrong key is a miss.
    pub key: CacheKey,
    /// When the result was stored, in seconds since 1970, for `Age`.
    pub stored_at: u64,
    /// The result as `model_api` returned it: all outputs, before any rendering.
    pub inference: Inference,
}

impl CacheEntry {
    /// An entry for `inference`, stored now.
    pub fn new(key: CacheKey, inference: Inference) -> Self {
        // Headers belong to one request.
        Self { key, stored_at: unix_seconds(), inference: Inference { headers: HeaderMap::new(), ..inference } }
    }

    /// Seconds since the result was stored; 0 if the clock has moved backwards since.
    pub fn age(&self) -> u64 {
        unix_seconds().saturating_sub(self.stored_at)
    }

    /// The local encoding, in one allocation of its own: outputs may be slices of something far larger, such as the buffer of a
    /// connection. `None` for a result that cannot be encoded.
    pub(super) fn encode(&self) -> Option<Arc<[u8]>> {
        codec::encode(self.stored_at, &self.inference).map(Into::into)
    }

    pub(super) fn decode(encoded: Arc<[u8]>, key: CacheKey) -> Option<Self> {
        let (stored_at, inference) = codec::decode(&Bytes::from_owner(encoded))?;
        Some(Self { key, stored_at, inference })
    }

    /// The value in Redis; `None` when it is longer than [`MAX_ENTRY_BYTES`].
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        redis_value(&self.encode()?, self.key)
    }

    /// `None` for anything that is not a result of `key`: garbage, another format, the result of another key.
    pub fn from_bytes(bytes: impl Into<Bytes>, key: CacheKey) -> Option<Self> {
        let mut bytes = bytes.into();
        if bytes.len() > MAX_ENTRY_BYTES {
            return None;
        }
        let sum = bytes.split_off(bytes.len().checked_sub(CHECKSUM_BYTES)?);
        let encoded = bytes.strip_prefix(&MAGIC)?.strip_prefix(key.as_bytes())?;
        if sum != checksum(&bytes)[..] {
            return None;
        }
        let (stored_at, inference) = codec::decode(&bytes.slice_ref(encoded))?;
        Some(Self { key, stored_at, inference })
    }
}

/// The value in Redis for this local encoding of a result of `key`: header, encoding, checksum. `None` when it is longer than
/// [`MAX_ENTRY_BYTES`].
pub fn redis_value(encoded: &[u8], key: CacheKey) -> Option<Vec<u8>> {
    if !fits_redis(encoded, key) {
        return None;
    }
    let mut bytes = Vec::with_capacity(redis_length(encoded, key));
    bytes.extend(MAGIC);
    bytes.extend(key.as_bytes());
    bytes.extend_from_slice(encoded);
    Some(seal(bytes))
}

/// Whether the value in Redis is at most [`MAX_ENTRY_BYTES`] long.
pub(super) fn fits_redis(encoded: &[u8], key: CacheKey) -> bool {
    redis_length(encoded, key) <= MAX_ENTRY_BYTES
}

fn redis_length(encoded: &[u8], key: CacheKey) -> usize {
    MAGIC.len() + key.as_bytes().len() + encoded.len() + CHECKSUM_BYTES
}

/// Appends the checksum of `bytes`.
fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(checksum(&bytes));
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let whole: [u8; 32] = Sha256::digest(bytes).into();
    let [half @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = whole;
    half
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use open_inference::{Datatype, Provenance, Tensor, Timing};
    use proptest::prelude::*;

    use super::*;
    use crate::cache::keys::KeyInput;

    fn key(image: &[u8]) -> CacheKey {
        CacheKey::new("ui", "m", "1", "d", KeyInput::Image(image))
    }

    fn entry(outputs: Vec<Tensor>) -> CacheEntry {
        let timing_ms = Timing { decode: 0.1, queue: 1e-9, infer: 12.5 };
        let provenance = Provenance { model_digest: "sha256:d".to_owned(), device: "cpu".to_owned(), timing_ms };
        let (model, version) = ("m".to_owned(), "1".to_owned());
        CacheEntry::new(key(b"a"), Inference { model, version, outputs, provenance, headers: HeaderMap::new() })
    }

    fn two_outputs() -> Vec<Tensor> {
        let numbers = Tensor::from_f32("y", Datatype::Fp32, vec![1, 2], &[f32::NAN, -0.0]).unwrap();
        vec![numbers, Tensor::from_strings("words", vec![2], [&b"\xff"[..], b""])]
    }

    /// An entry that declares `count` outputs, followed by the bytes `outputs`.
    fn with_outputs(count: u16, outputs: &[u8]) -> Option<CacheEntry> {
        let none = entry(Vec::new()).encode().unwrap();
        let encoded = [&none[..none.len() - 2], &count.to_le_bytes(), outputs].concat();
        CacheEntry::from_bytes(redis_value(&encoded, key(b"a")).unwrap(), key(b"a"))
    }

    /// One encoded output.
    fn output(name: &[u8], datatype: u8, shape: &[u64], length: u64, data: &[u8]) -> Vec<u8> {
        let shape: Vec<u8> = [shape, &[length]].concat().iter().flat_map(|number| number.to_le_bytes()).collect();
        let rank = (shape.len() / 8 - 1) as u8;
        [&(name.len() as u16).to_le_bytes()[..], name, &[datatype, rank], &shape, data].concat()
    }

    #[test]
    fn a_result_is_decoded_bit_for_bit_from_both_encodings() {
        let before = entry(two_outputs());
        for after in [
            CacheEntry::from_bytes(before.to_bytes().unwrap(), before.key).unwrap(),
            CacheEntry::decode(before.encode().unwrap(), before.key).unwrap(),
        ] {
            assert_eq!((after.key, after.stored_at), (before.key, before.stored_at));
            assert_eq!(after.inference.outputs, before.inference.outputs);
            assert_eq!(after.inference.provenance, before.inference.provenance);
            assert_eq!((after.inference.model.as_str(), after.inference.version.as_str()), ("m", "1"));
        }
        assert_eq!(codec::model_of(&before.encode().unwrap()), Some("m"));
    }

    #[test]
    fn malformed_outputs_are_rejected() {
        let numbers = Datatype::ALL.iter().position(|datatype| *datatype == Datatype::Fp32).unwrap() as u8;
        assert!(with_outputs(1, &output(b"y", numbers, &[1, 2], 8, &[0; 8])).is_some());
        for (number, bad) in [
            output(b"y", numbers, &[1, 2], u64::MAX, &[0; 8]),
            output(b"y", numbers, &[1, 2], 4, &[0; 8]),
            output(b"y", numbers, &[1, 3], 8, &[0; 8]),
            output(b"y", numbers, &[u64::MAX, 2], 8, &[0; 8]),
            output(b"y", numbers, &[1 << 62, 1 << 62], 8, &[0; 8]),
            output(b"y", numbers, &[1; 9], 4, &[0; 4]),
            output(b"y", 14, &[1, 2], 8, &[0; 8]),
            output(b"\xff", numbers, &[1, 2], 8, &[0; 8]),
            output(b"y", numbers, &[1, 2], 8, &[0; 7]),
            output(b"y", numbers, &[1, 2], 8, &[0; 9]),
            Vec::new(),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(with_outputs(1, &bad).is_none(), "output {number}");
        }
        assert!(with_outputs(2, &output(b"y", numbers, &[1, 2], 8, &[0; 8])).is_none(), "an output is missing");
        let bytes = entry(two_outputs()).to_bytes().unwrap();
        assert!(CacheEntry::from_bytes(bytes, key(b"b")).is_none(), "the result of another key");
        for garbage in [&b""[..], b"__import__('os')", &[0; 1 << 12], &seal(Vec::new()), &seal(MAGIC.to_vec())] {
            assert!(CacheEntry::from_bytes(garbage.to_vec(), key(b"a")).is_none());
        }
    }

    #[test]
    fn a_result_too_large_for_redis_has_no_value_there() {
        let large = Tensor::new("y", Datatype::Uint8, &[4 << 20], vec![0; MAX_ENTRY_BYTES].into()).unwrap();
        assert!(entry(vec![large]).to_bytes().is_none());
        assert!(CacheEntry::from_bytes(vec![0; MAX_ENTRY_BYTES + 1], key(b"a")).is_none());
    }

    /// A change of the format must reach the fuzzer: inputs of an old format would never pass the header again.
    #[test]
    fn the_corpus_of_the_fuzzer_has_the_current_format() {
        let key = CacheKey::new("ui", "m", "1", "sha256:1", KeyInput::Image(b"x"));
        let (odd, sealed) = include_bytes!("../../../fuzz/corpus/cache_entry/sealed").split_first().unwrap();
        let (even, encoded) = include_bytes!("../../../fuzz/corpus/cache_entry/two").split_first().unwrap();
        assert_eq!((odd % 2, even % 2), (1, 0));
        assert_eq!(redis_value(encoded, key).unwrap(), sealed);
        assert_eq!(CacheEntry::from_bytes(sealed, key).unwrap().inference.outputs, two_outputs());
    }

    proptest! {
        #[test]
        fn any_outputs_round_trip(outputs in prop::collection::vec((".{0,20}", prop::collection::vec(any::<u8>(), 0..64)), 0..4)) {
            let tensor = |(name, data): &(String, Vec<u8>)| Tensor::new(name, Datatype::Uint8, &[data.len().cast_signed() as i64], data.clone().into());
            let outputs: Vec<_> = outputs.iter().map(|output| tensor(output).unwrap()).collect();
            let before = entry(outputs.clone());
            let after = CacheEntry::from_bytes(before.to_bytes().unwrap(), before.key).unwrap();
            prop_assert_eq!(after.inference.outputs, outputs);
        }

        #[test]
        fn a_changed_byte_is_detected(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = entry(two_outputs()).to_bytes().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(CacheEntry::from_bytes(bytes, key(b"a")).is_none());
        }

        #[test]
        fn sealed_garbage_does_not_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(CacheEntry::from_bytes(seal(garbage.clone()), key(b"a")).is_none());
            if let Some(entry) = CacheEntry::from_bytes(redis_value(&garbage, key(b"a")).unwrap(), key(b"a")) {
                prop_assert_eq!(entry.encode().unwrap().to_vec(), garbage);
            }
        }

        #[test]
        fn a_truncated_encoding_is_rejected(length in any::<prop::sample::Index>()) {
            let encoded = entry(two_outputs()).encode().unwrap();
            let cut = &encoded[..length.index(encoded.len())];
            prop_assert!(CacheEntry::decode(cut.into(), key(b"a")).is_none());
        }
    }
}
