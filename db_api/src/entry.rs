//! A remembered answer, and its form in Redis: magic, format version, key, the answer as `form.rs` writes it, checksum.
//!
//! The checksum finds damage; it is no proof of who wrote the value.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use open_inference::Inference;
use sha2::{Digest, Sha256};

use crate::form;
use crate::keys::AnswerKey;

/// An answer whose form is longer is not written to Redis. Sixteen are asked for at a time (`memory.rs`), which then stay
/// within what Redis keeps for one client (`client-output-buffer-limit`), and one does not push out thousands of others.
pub const MAX_STORED: usize = 4 << 20;

/// Magic and format version. Format 1 had its head in JSON.
const MAGIC: [u8; 5] = *b"MLSA\x02";

/// Half a SHA-256.
const CHECKSUM: usize = 16;

/// A remembered answer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key it belongs under. Read back and compared, so that a value under a wrong key is a miss.
    pub key: AnswerKey,
    /// Seconds since 1970, for `Age`.
    pub stored_at: u64,
    /// The answer as `model_api` gave it: all outputs, and no rendering of them.
    pub inference: Inference,
}

impl Entry {
    /// `inference` as the answer to `key`, remembered now.
    pub fn new(key: AnswerKey, inference: Inference) -> Self {
        // Headers belong to one request.
        Self { key, stored_at: unix_seconds(), inference: Inference { headers: HeaderMap::new(), ..inference } }
    }

    /// Seconds since it was remembered; 0 if the clock has gone backwards since.
    pub fn age(&self) -> u64 {
        unix_seconds().saturating_sub(self.stored_at)
    }

    /// Its form near, all in memory of its own: outputs may be slices of something far larger, such as the buffer of a
    /// connection. `None` for what has none.
    pub(crate) fn to_form(&self) -> Option<Arc<[u8]>> {
        form::write(self.stored_at, &self.inference).map(Into::into)
    }

    /// The answer to `key` that has this form.
    pub(crate) fn from_form(form: Arc<[u8]>, key: AnswerKey) -> Option<Self> {
        let (stored_at, inference) = form::read(&Bytes::from_owner(form))?;
        Some(Self { key, stored_at, inference })
    }

    /// Its form in Redis; `None` when that is longer than [`MAX_STORED`].
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        to_redis(&self.to_form()?, self.key)
    }

    /// `None` for anything that is not an answer to `key`: garbage, another format, another question's answer.
    pub fn from_bytes(bytes: impl Into<Bytes>, key: AnswerKey) -> Option<Self> {
        let mut bytes = bytes.into();
        if bytes.len() > MAX_STORED {
            return None;
        }
        let sum = bytes.split_off(bytes.len().checked_sub(CHECKSUM)?);
        let form = bytes.strip_prefix(&MAGIC)?.strip_prefix(key.as_bytes())?;
        if sum != checksum(&bytes)[..] {
            return None;
        }
        let (stored_at, inference) = form::read(&bytes.slice_ref(form))?;
        Some(Self { key, stored_at, inference })
    }
}

/// The form in Redis of what has this one near, as the answer to `key`; `None` when it is longer than [`MAX_STORED`].
pub(crate) fn to_redis(form: &[u8], key: AnswerKey) -> Option<Vec<u8>> {
    if !fits_redis(form, key) {
        return None;
    }
    let mut bytes = Vec::with_capacity(redis_length(form, key));
    bytes.extend(MAGIC);
    bytes.extend(key.as_bytes());
    bytes.extend_from_slice(form);
    Some(seal(bytes))
}

/// Whether the form in Redis is at most [`MAX_STORED`] long.
pub(crate) fn fits_redis(form: &[u8], key: AnswerKey) -> bool {
    redis_length(form, key) <= MAX_STORED
}

/// Bytes of the form in Redis.
fn redis_length(form: &[u8], key: AnswerKey) -> usize {
    MAGIC.len() + key.as_bytes().len() + form.len() + CHECKSUM
}

/// `bytes` with their checksum.
pub fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(checksum(&bytes));
    bytes
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
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
    use crate::keys::Input;

    fn key(image: &[u8]) -> AnswerKey {
        AnswerKey::new("ui", "m", "1", "d", Input::Image(image))
    }

    fn entry(outputs: Vec<Tensor>) -> Entry {
        let timing_ms = Timing { decode: 0.1, queue: 1e-9, infer: 12.5 };
        let provenance = Provenance { model_digest: "sha256:d".to_owned(), device: "cpu".to_owned(), timing_ms };
        let (model, version) = ("m".to_owned(), "1".to_owned());
        Entry::new(key(b"a"), Inference { model, version, outputs, provenance, headers: HeaderMap::new() })
    }

    fn two_outputs() -> Vec<Tensor> {
        let numbers = Tensor::from_f32("y", Datatype::Fp32, vec![1, 2], &[f32::NAN, -0.0]).unwrap();
        vec![numbers, Tensor::from_strings("words", vec![2], [&b"\xff"[..], b""])]
    }

    /// The answer without outputs, which are said to be `count`, and what stands for them.
    fn with_outputs(count: u16, outputs: &[u8]) -> Option<Entry> {
        let none = entry(Vec::new()).to_form().unwrap();
        let form = [&none[..none.len() - 2], &count.to_le_bytes(), outputs].concat();
        Entry::from_bytes(to_redis(&form, key(b"a")).unwrap(), key(b"a"))
    }

    /// One output, as a form has it.
    fn output(name: &[u8], datatype: u8, shape: &[u64], length: u64, data: &[u8]) -> Vec<u8> {
        let shape: Vec<u8> = [shape, &[length]].concat().iter().flat_map(|number| number.to_le_bytes()).collect();
        let rank = (shape.len() / 8 - 1) as u8;
        [&(name.len() as u16).to_le_bytes()[..], name, &[datatype, rank], &shape, data].concat()
    }

    #[test]
    fn an_answer_comes_back_bit_for_bit_from_near_and_from_redis() {
        let before = entry(two_outputs());
        for after in [
            Entry::from_bytes(before.to_bytes().unwrap(), before.key).unwrap(),
            Entry::from_form(before.to_form().unwrap(), before.key).unwrap(),
        ] {
            assert_eq!((after.key, after.stored_at), (before.key, before.stored_at));
            assert_eq!(after.inference.outputs, before.inference.outputs);
            assert_eq!(after.inference.provenance, before.inference.provenance);
            assert_eq!((after.inference.model.as_str(), after.inference.version.as_str()), ("m", "1"));
        }
        assert_eq!(form::model(&before.to_form().unwrap()), Some("m"));
    }

    #[test]
    fn what_does_not_fit_is_no_answer() {
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
        assert!(with_outputs(2, &output(b"y", numbers, &[1, 2], 8, &[0; 8])).is_none(), "one is missing");
        let bytes = entry(two_outputs()).to_bytes().unwrap();
        assert!(Entry::from_bytes(bytes, key(b"b")).is_none(), "another question's");
        for garbage in [&b""[..], b"__import__('os')", &[0; 1 << 12], &seal(Vec::new()), &seal(MAGIC.to_vec())] {
            assert!(Entry::from_bytes(garbage.to_vec(), key(b"a")).is_none());
        }
    }

    #[test]
    fn an_answer_too_large_for_redis_has_no_form_there() {
        let large = Tensor::new("y", Datatype::Uint8, &[4 << 20], vec![0; MAX_STORED].into()).unwrap();
        assert!(entry(vec![large]).to_bytes().is_none());
        assert!(Entry::from_bytes(vec![0; MAX_STORED + 1], key(b"a")).is_none());
    }

    proptest! {
        #[test]
        fn any_outputs_come_back(outputs in prop::collection::vec((".{0,20}", prop::collection::vec(any::<u8>(), 0..64)), 0..4)) {
            let tensor = |(name, data): &(String, Vec<u8>)| Tensor::new(name, Datatype::Uint8, &[data.len().cast_signed() as i64], data.clone().into());
            let outputs: Vec<_> = outputs.iter().map(|output| tensor(output).unwrap()).collect();
            let before = entry(outputs.clone());
            let after = Entry::from_bytes(before.to_bytes().unwrap(), before.key).unwrap();
            prop_assert_eq!(after.inference.outputs, outputs);
        }

        #[test]
        fn a_changed_byte_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = entry(two_outputs()).to_bytes().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Entry::from_bytes(bytes, key(b"a")).is_none());
        }

        #[test]
        fn sealed_garbage_is_no_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Entry::from_bytes(seal(garbage.clone()), key(b"a")).is_none());
            if let Some(entry) = Entry::from_bytes(to_redis(&garbage, key(b"a")).unwrap(), key(b"a")) {
                prop_assert_eq!(entry.to_form().unwrap().to_vec(), garbage);
            }
        }

        #[test]
        fn a_form_that_is_cut_is_none(length in any::<prop::sample::Index>()) {
            let form = entry(two_outputs()).to_form().unwrap();
            let cut = &form[..length.index(form.len())];
            prop_assert!(Entry::from_form(cut.into(), key(b"a")).is_none());
        }
    }
}
