//! Cache keys, and the keys of the cache in Redis.
//!
//! Each result is one string in Redis, written with `EX`: it is *volatile*, and Redis may evict it (`redis.conf`:
//! `maxmemory-policy volatile-lru`). Keys without a time-to-live, such as those of jobs (`jobs/keys.rs`), are never evicted. The
//! eviction policy and the key names are one decision. One channel carries invalidations between replicas.

use std::fmt;

use open_inference::Tensor;
use sha2::{Digest, Sha256};

/// Results: `mlserve:answer:<model>:<hex of the key>` holds a [`CacheEntry`](super::CacheEntry), with a time-to-live.
const RESULT_PREFIX: &str = "mlserve:answer:";

/// Channel on which the names of invalidated models are published.
pub(super) const INVALIDATION_CHANNEL: &str = "mlserve:forget";

/// Key that the health probe reads; nothing writes it. `PING` is no substitute: on a full disk it fails while reads still work.
pub(super) const PROBE: &str = "mlserve:probe";

/// Cache key: SHA-256 over everything that determines a result, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

/// SHA-256 of a request's input. It is separate from the key because an input may be large and is hashed once, while the model
/// version, and with it the key, may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputDigest([u8; 32]);

/// Input of a request, in a form that does not depend on the transport.
#[derive(Clone, Copy, Debug)]
pub enum KeyInput<'a> {
    /// One encoded image, as the client sent it, for the model's only input.
    Image(&'a [u8]),
    /// Tensors. Their order does not matter.
    Tensors(&'a [Tensor]),
}

impl CacheKey {
    /// The key of `input` for the model version with this digest.
    pub fn new(app_type: &str, model: &str, version: &str, digest: &str, input: impl Into<InputDigest>) -> Self {
        let mut hash = FieldHasher(Sha256::new());
        for field in [app_type, model, version, digest] {
            hash.field(field.as_bytes());
        }
        hash.field(&input.into().0);
        Self(hash.0.finalize().into())
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key in Redis of a result of `model`.
    pub(super) fn redis_key(self, model: &str) -> String {
        [RESULT_PREFIX, model, ":", Hex::of(&self.0).as_str()].concat()
    }

    /// The entity tag of the result, quotes included. It is the key: equal keys have equal results.
    pub fn etag(self) -> String {
        ["\"sha256:", Hex::of(&self.0).as_str(), "\""].concat()
    }
}

/// Hexadecimal digits of a digest. Written for every response; formatting each byte would take longer than the SHA-256.
struct Hex([u8; 64]);

impl Hex {
    fn of(bytes: &[u8; 32]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(bytes) {
            digits.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        Self(hex)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<KeyInput<'_>> for InputDigest {
    fn from(input: KeyInput<'_>) -> Self {
        let mut hash = FieldHasher(Sha256::new());
        match input {
            KeyInput::Image(bytes) => {
                hash.field(b"image");
                hash.field(bytes);
            }
            KeyInput::Tensors(tensors) => {
                hash.field(b"tensors");
                let mut sorted: Vec<_> = tensors.iter().collect();
                sorted.sort_by_key(|tensor| &tensor.name);
                for tensor in sorted {
                    hash.field(tensor.name.as_bytes());
                    hash.field(tensor.datatype.name().as_bytes());
                    hash.lengths(&tensor.shape);
                    hash.field(&tensor.data);
                }
            }
        }
        Self(hash.0.finalize().into())
    }
}

/// `sha256:<hex>`, as clients see it.
impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(Hex::of(&self.0).as_str())
    }
}

/// Pattern of all results of `model`, for `SCAN`. Model names contain no special characters of patterns.
pub(super) fn result_pattern(model: &str) -> String {
    format!("{RESULT_PREFIX}{model}:*")
}

/// Hasher of length-prefixed fields (u64, little-endian), so that no two different inputs are the same concatenation of bytes.
struct FieldHasher(Sha256);

impl FieldHasher {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A field of numbers, u64 each.
    fn lengths(&mut self, lengths: &[usize]) {
        self.0.update((8 * lengths.len() as u64).to_le_bytes());
        for &length in lengths {
            self.0.update((length as u64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn tensor(name: &str, shape: &[i64], data: &'static [u8]) -> Tensor {
        Tensor::new(name, Datatype::Fp32, shape, data.into()).unwrap()
    }

    #[test]
    fn a_different_request_has_a_different_key() {
        let image = CacheKey::new("ui", "mnist", "1", "sha256:1", KeyInput::Image(b"abcd"));
        for other in [
            CacheKey::new("cli", "mnist", "1", "sha256:1", KeyInput::Image(b"abcd")),
            CacheKey::new("ui", "leukemia", "1", "sha256:1", KeyInput::Image(b"abcd")),
            CacheKey::new("ui", "mnist", "2", "sha256:1", KeyInput::Image(b"abcd")),
            CacheKey::new("ui", "mnist", "1", "sha256:2", KeyInput::Image(b"abcd")),
            CacheKey::new("ui", "mnist", "1", "sha256:1", KeyInput::Image(b"abce")),
            CacheKey::new("ui", "mnist1", "", "sha256:1", KeyInput::Image(b"abcd")),
            CacheKey::new("ui", "mnist", "1", "sha256:1", KeyInput::Tensors(&[tensor("x", &[1], b"abcd")])),
        ] {
            assert_ne!(image, other);
        }
        assert_eq!(image, CacheKey::new("ui", "mnist", "1", "sha256:1", KeyInput::Image(b"abcd")));
    }

    #[test]
    fn the_key_depends_on_name_datatype_shape_and_bits_of_tensors_but_not_on_their_order() {
        let key = |tensors: &[Tensor]| CacheKey::new("ui", "m", "1", "d", KeyInput::Tensors(tensors));
        let (a, b) = (tensor("a", &[2], &[0; 8]), tensor("b", &[2], &[1; 8]));
        assert_eq!(key(&[a.clone(), b.clone()]), key(&[b, a.clone()]));
        for other in [
            tensor("a", &[1, 2], &[0; 8]),
            tensor("a", &[2], &[0, 0, 0, 0x80, 0, 0, 0, 0]),
            tensor("b", &[2], &[0; 8]),
            Tensor { datatype: Datatype::Int32, ..a.clone() },
        ] {
            assert_ne!(key(std::slice::from_ref(&a)), key(&[other]), "0.0 and -0.0 differ as well");
        }
    }

    #[test]
    fn the_redis_key_contains_the_model() {
        let key = CacheKey([0xab; 32]);
        assert_eq!(key.redis_key("mnist"), format!("mlserve:answer:mnist:{}", "ab".repeat(32)));
        assert_eq!(key.to_string(), format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(key.etag(), format!("\"{key}\""));
    }
}
