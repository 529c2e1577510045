//! Redis in brief, as we use it: one string per answer, written with `EX` so that it is *volatile* and may be evicted
//! (`redis.conf`: `maxmemory-policy volatile-lru`), and one channel on which replicas tell each other what to forget.
//! Keys without a time-to-live are never evicted under that policy; jobs are such keys, and are deleted when their time
//! is over (`jobs/functions`). The policy and the names below are one decision.

use std::fmt;

use open_inference::Tensor;
use sha2::{Digest, Sha256};

use crate::jobs::JobId;

/// Answers: `mlserve:answer:<model>:<hex of the key>` → [`crate::entry::Entry`] in its binary form, with a time-to-live.
const ANSWER: &str = "mlserve:answer:";

/// The channel on which the name of a model to forget is published.
pub(crate) const FORGET: &str = "mlserve:forget";

/// Never written; read by the prober. A `PING` would not do: on a full disk it fails while reads still work.
pub(crate) const PROBE: &str = "mlserve:probe";

/// Inputs that wait for a model: `mlserve:{jobs}:queue:<model>`, a stream of `job` and `index`. The braces keep everything about
/// jobs in one slot of a Redis Cluster, since a function there may touch one slot only.
const QUEUE: &str = "mlserve:{jobs}:queue:";

/// The group of consumers of every queue.
pub(crate) const JOBS_GROUP: &str = "workers";

/// A sorted set: every job by the time it was accepted.
pub(crate) const JOBS_KNOWN: &str = "mlserve:{jobs}:known";

/// A hash: models that workers of others' making serve, with what those said of them.
pub(crate) const JOBS_MODELS: &str = "mlserve:{jobs}:models";

/// A sorted set: every job that has ended by the time when it is to be forgotten.
pub(crate) const JOBS_EXPIRING: &str = "mlserve:{jobs}:expiring";

/// A hash: the bytes that all jobs hold.
pub(crate) const JOBS_COUNTS: &str = "mlserve:{jobs}:counts";

/// A set: jobs of whose inputs some are not queued yet.
pub(crate) const JOBS_FILLING: &str = "mlserve:{jobs}:filling";

/// A sorted set: jobs whose webhooks are to be tried, by the time when they are.
pub(crate) const JOBS_WEBHOOKS: &str = "mlserve:{jobs}:webhooks";

/// A sorted set: jobs that have been forgotten, for a week.
pub(crate) const JOBS_GONE: &str = "mlserve:{jobs}:gone";

/// The name of a question: SHA-256 over everything that decides its answer, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerKey([u8; 32]);

/// SHA-256 of what is asked. An input may be large and is read once; a model may change and the key with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputDigest([u8; 32]);

/// What is asked, in the form that is the same for every transport.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// One encoded picture, as it was sent, for the model's only input.
    Image(&'a [u8]),
    /// Ready tensors. Their order does not matter.
    Tensors(&'a [Tensor]),
}

impl AnswerKey {
    /// The key of `input` asked of the model version with this digest.
    pub fn new(app_type: &str, model: &str, version: &str, digest: &str, input: impl Into<InputDigest>) -> Self {
        let mut hash = FieldHasher(Sha256::new());
        for field in [app_type, model, version, digest] {
            hash.field(field.as_bytes());
        }
        hash.field(&input.into().0);
        Self(hash.0.finalize().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Where the answer of `model` stands in Redis.
    pub(crate) fn redis_key(self, model: &str) -> String {
        [ANSWER, model, ":", Hex::of(&self.0).as_str()].concat()
    }

    /// The entity tag of its answer, quotes included: the key, since the same question always has the same answer.
    pub fn etag(self) -> String {
        ["\"sha256:", Hex::of(&self.0).as_str(), "\""].concat()
    }
}

/// Where inputs wait for `model`.
pub(crate) fn queue_of(model: &str) -> String {
    [QUEUE, model].concat()
}

/// Jobs of `model` by their content, a hash.
pub(crate) fn same_as(model: &str) -> String {
    format!("mlserve:{{jobs}}:same:{model}")
}

/// What belongs to a job: `job` (a hash of its fields), `inputs` and `results` (hashes by index), `events` (a stream),
/// `names` (a list).
pub(crate) fn job_key(what: &str, id: JobId) -> String {
    format!("mlserve:{{jobs}}:{what}:{id}")
}

/// Two digits for each byte. Written for every answer, where a format for each byte would take longer than the SHA-256.
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

impl From<Input<'_>> for InputDigest {
    fn from(input: Input<'_>) -> Self {
        let mut hash = FieldHasher(Sha256::new());
        match input {
            Input::Image(bytes) => {
                hash.field(b"image");
                hash.field(bytes);
            }
            Input::Tensors(tensors) => {
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
impl fmt::Display for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(Hex::of(&self.0).as_str())
    }
}

/// The pattern of all answers of `model`, for `SCAN`. Model names hold no character that is special in patterns.
pub(crate) fn answers_of(model: &str) -> String {
    format!("{ANSWER}{model}:*")
}

/// Every field is preceded by its length (u64, little-endian), so that no two different questions become the same bytes
/// by concatenation.
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
    fn a_different_question_has_a_different_key() {
        let image = AnswerKey::new("ui", "mnist", "1", "sha256:1", Input::Image(b"abcd"));
        for other in [
            AnswerKey::new("cli", "mnist", "1", "sha256:1", Input::Image(b"abcd")),
            AnswerKey::new("ui", "leukemia", "1", "sha256:1", Input::Image(b"abcd")),
            AnswerKey::new("ui", "mnist", "2", "sha256:1", Input::Image(b"abcd")),
            AnswerKey::new("ui", "mnist", "1", "sha256:2", Input::Image(b"abcd")),
            AnswerKey::new("ui", "mnist", "1", "sha256:1", Input::Image(b"abce")),
            AnswerKey::new("ui", "mnist1", "", "sha256:1", Input::Image(b"abcd")),
            AnswerKey::new("ui", "mnist", "1", "sha256:1", Input::Tensors(&[tensor("x", &[1], b"abcd")])),
        ] {
            assert_ne!(image, other);
        }
        assert_eq!(image, AnswerKey::new("ui", "mnist", "1", "sha256:1", Input::Image(b"abcd")));
    }

    #[test]
    fn tensors_are_told_apart_by_name_datatype_shape_and_bits_but_not_by_order() {
        let key = |tensors: &[Tensor]| AnswerKey::new("ui", "m", "1", "d", Input::Tensors(tensors));
        let (a, b) = (tensor("a", &[2], &[0; 8]), tensor("b", &[2], &[1; 8]));
        assert_eq!(key(&[a.clone(), b.clone()]), key(&[b, a.clone()]));
        for other in [
            tensor("a", &[1, 2], &[0; 8]),
            tensor("a", &[2], &[0, 0, 0, 0x80, 0, 0, 0, 0]),
            tensor("b", &[2], &[0; 8]),
            Tensor { datatype: Datatype::Int32, ..a.clone() },
        ] {
            assert_ne!(key(std::slice::from_ref(&a)), key(&[other]), "also 0.0 is not -0.0");
        }
    }

    #[test]
    fn the_key_in_redis_names_the_model() {
        let key = AnswerKey([0xab; 32]);
        assert_eq!(key.redis_key("mnist"), format!("mlserve:answer:mnist:{}", "ab".repeat(32)));
        assert_eq!(key.to_string(), format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(key.etag(), format!("\"{key}\""));
    }
}
