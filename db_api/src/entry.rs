//! A remembered answer, and its form in Redis: magic, format version, length of the head (u32), head (JSON), the outputs'
//! raw bytes one after the other, checksum. Numbers are little-endian.
//!
//! A fixed form, not a serialised Rust type: nothing in it chooses what is built from it, and what comes back is held
//! against every length before it is believed. The checksum finds damage; it is no proof of who wrote the value.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use open_inference::{Datatype, Inference, Provenance, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::keys::AnswerKey;

/// An answer whose form is longer is not written to Redis. Sixteen are asked for at a time (`memory.rs`), which then stay
/// within what Redis keeps for one client (`client-output-buffer-limit`), and one does not push out thousands of others.
pub const MAX_STORED: usize = 4 << 20;

const MAGIC: [u8; 4] = *b"MLSA";
const FORMAT: u8 = 1;
const HEAD_LENGTH_AT: usize = MAGIC.len() + 1;
const HEAD_AT: usize = HEAD_LENGTH_AT + size_of::<u32>();
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

/// Everything but the outputs' bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    key: String,
    stored_at: u64,
    model: String,
    version: String,
    provenance: Provenance,
    outputs: Vec<OutputHead>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputHead {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    bytes: usize,
}

impl Entry {
    /// `inference` as the answer to `key`, remembered now.
    pub fn new(key: AnswerKey, inference: Inference) -> Self {
        let outputs = inference.outputs.into_iter().map(own).collect();
        // Headers belong to one request.
        let inference = Inference { outputs, headers: HeaderMap::new(), ..inference };
        Self { key, stored_at: unix_seconds(), inference }
    }

    /// Seconds since it was remembered; 0 if the clock has gone backwards since.
    pub fn age(&self) -> u64 {
        unix_seconds().saturating_sub(self.stored_at)
    }

    /// Its form in Redis; `None` when that is longer than [`MAX_STORED`].
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let data: usize = self.inference.outputs.iter().map(|output| output.data.len()).sum();
        if data > MAX_STORED {
            return None;
        }
        let head = serde_json::to_vec(&self.head()).ok()?;
        let length = HEAD_AT + head.len() + data + CHECKSUM;
        if length > MAX_STORED {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(MAGIC);
        bytes.push(FORMAT);
        bytes.extend((head.len() as u32).to_le_bytes());
        bytes.extend(head);
        for output in &self.inference.outputs {
            bytes.extend_from_slice(&output.data);
        }
        Some(seal(bytes))
    }

    /// `None` for anything that is not an answer to `key`: garbage, another format, another question's answer.
    pub fn from_bytes(bytes: impl Into<Bytes>, key: AnswerKey) -> Option<Self> {
        let mut bytes = bytes.into();
        if bytes.len() > MAX_STORED {
            return None;
        }
        let sum = bytes.split_off(bytes.len().checked_sub(CHECKSUM)?);
        if sum != checksum(&bytes)[..] {
            return None;
        }
        let (magic, rest) = bytes.split_first_chunk()?;
        let (&format, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        if *magic != MAGIC || format != FORMAT {
            return None;
        }
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let head: Head = serde_json::from_slice(rest.get(..length)?).ok()?;
        if head.key != key.to_string() {
            return None;
        }
        let mut data = bytes.split_off(HEAD_AT + length);
        let mut outputs = Vec::new();
        for OutputHead { name, datatype, shape, bytes } in head.outputs {
            let cut = (bytes <= data.len()).then(|| data.split_to(bytes))?;
            outputs.push(own(Tensor::new(&name, datatype, &shape, cut).ok()?));
        }
        let Head { stored_at, model, version, provenance, .. } = head;
        let inference = Inference { model, version, outputs, provenance, headers: HeaderMap::new() };
        data.is_empty().then_some(Self { key, stored_at, inference })
    }

    fn head(&self) -> Head {
        let Inference { model, version, outputs, provenance, .. } = &self.inference;
        let output = |output: &Tensor| OutputHead {
            name: output.name.clone(),
            datatype: output.datatype,
            shape: output.shape.iter().map(|&length| length.cast_signed() as i64).collect(),
            bytes: output.data.len(),
        };
        Head {
            key: self.key.to_string(),
            stored_at: self.stored_at,
            model: model.clone(),
            version: version.clone(),
            provenance: provenance.clone(),
            outputs: outputs.iter().map(output).collect(),
        }
    }

    /// Bytes it occupies in the near cache, roughly: what is on the heap counts, allocator overhead does not.
    pub(crate) fn weight(&self) -> u32 {
        let Inference { model, version, outputs, provenance, .. } = &self.inference;
        let strings = model.len() + version.len() + provenance.model_digest.len() + provenance.device.len();
        let heap = |output: &Tensor| {
            size_of_val(output) + output.name.len() + size_of_val(output.shape.as_slice()) + output.data.len()
        };
        let outputs: usize = outputs.iter().map(heap).sum();
        u32::try_from(size_of::<Self>() + strings + outputs).unwrap_or(u32::MAX)
    }
}

/// The tensor with its elements in memory of their own. As they come they are a slice of something that may be far larger,
/// such as the buffer of a connection, and would keep all of it. Large ones are most of what they are a slice of.
fn own(output: Tensor) -> Tensor {
    if output.data.len() > MAX_STORED {
        return output;
    }
    Tensor { data: Bytes::copy_from_slice(&output.data), ..output }
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
    use open_inference::Timing;
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

    type Change = fn(&mut serde_json::Value);

    /// `head` as JSON with what was changed in it, and `data`, sealed.
    fn form(change: impl FnOnce(&mut serde_json::Value), data: &[u8]) -> Vec<u8> {
        let mut head = serde_json::to_value(entry(two_outputs()).head()).unwrap();
        change(&mut head);
        let head = serde_json::to_vec(&head).unwrap();
        let length = (head.len() as u32).to_le_bytes();
        seal([&MAGIC[..], &[FORMAT], &length, &head, data].concat())
    }

    #[test]
    fn an_answer_comes_back_bit_for_bit() {
        let before = entry(two_outputs());
        let after = Entry::from_bytes(before.to_bytes().unwrap(), before.key).unwrap();
        assert_eq!((after.key, after.stored_at), (before.key, before.stored_at));
        assert_eq!(after.inference.outputs, before.inference.outputs);
        assert_eq!(after.inference.provenance, before.inference.provenance);
        assert_eq!((after.inference.model.as_str(), after.inference.version.as_str()), ("m", "1"));
    }

    #[test]
    fn what_does_not_fit_is_no_answer() {
        let data = two_outputs().iter().flat_map(|output| output.data.to_vec()).collect::<Vec<_>>();
        assert!(Entry::from_bytes(form(|_| {}, &data), key(b"a")).is_some());
        assert!(Entry::from_bytes(form(|_| {}, &data), key(b"b")).is_none(), "another question's");
        let changes: [Change; 9] = [
            |head| head["key"] = "sha256:00".into(),
            |head| head["outputs"][0]["bytes"] = u64::MAX.into(),
            |head| head["outputs"][0]["bytes"] = 4.into(),
            |head| head["outputs"][0]["shape"] = serde_json::json!([1, 3]),
            |head| head["outputs"][0]["shape"] = serde_json::json!([-1, 2]),
            |head| head["outputs"][0]["shape"] = serde_json::json!([1_i64 << 62, 1_i64 << 62]),
            |head| head["outputs"][0]["datatype"] = "FP33".into(),
            |head| head["more"] = 1.into(),
            |head| *head = serde_json::Value::Null,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(Entry::from_bytes(form(change, &data), key(b"a")).is_none(), "change {number}");
        }
        assert!(Entry::from_bytes(form(|_| {}, &data[1..]), key(b"a")).is_none(), "a byte less");
        assert!(Entry::from_bytes(form(|_| {}, &[&data[..], b"x"].concat()), key(b"a")).is_none(), "a byte more");
        for garbage in [&b""[..], b"__import__('os')", &[0; 1 << 12], &seal(Vec::new()), &seal(MAGIC.to_vec())] {
            assert!(Entry::from_bytes(garbage.to_vec(), key(b"a")).is_none());
        }
    }

    #[test]
    fn an_answer_too_large_for_redis_has_no_form() {
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
        fn sealed_garbage_is_no_answer_and_no_panic(head in prop::collection::vec(any::<u8>(), 0..200), length in any::<u32>()) {
            let bytes = [&MAGIC[..], &[FORMAT], &length.to_le_bytes(), &head].concat();
            prop_assert!(Entry::from_bytes(seal(bytes), key(b"a")).is_none());
            prop_assert!(Entry::from_bytes(seal(head), key(b"a")).is_none());
        }
    }
}
