use std::time::{SystemTime, UNIX_EPOCH};

use contract::Prediction;
use serde::{Deserialize, Serialize};

use crate::keys::AnswerKey;

/// A remembered answer. In Redis it is this as JSON: data, never code, and readable with `redis-cli`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The question's key as clients see it. Read back and compared, so that a value under a wrong key is a miss.
    pub key: String,
    /// Seconds since 1970, for `Age`.
    pub stored_at: u64,
    /// The answer as `model_api` gave it.
    pub prediction: Prediction,
}

impl Entry {
    /// `prediction` as the answer to `key`, remembered now.
    pub fn new(key: AnswerKey, prediction: Prediction) -> Self {
        Self { key: key.to_string(), stored_at: unix_seconds(), prediction }
    }

    /// Seconds since it was remembered; 0 if the clock has gone backwards since.
    pub fn age(&self) -> u64 {
        unix_seconds().saturating_sub(self.stored_at)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always become JSON")
    }

    /// `None` for anything that is not an answer to `key`: garbage, an older schema, another question's answer.
    pub(crate) fn from_json(json: &[u8], key: AnswerKey) -> Option<Self> {
        serde_json::from_slice::<Self>(json).ok().filter(|entry| entry.key == key.to_string())
    }

    /// Bytes it occupies in the near cache, roughly: what is on the heap counts, allocator overhead does not.
    pub(crate) fn weight(&self) -> u32 {
        let prediction = &self.prediction;
        let labels: usize = prediction.probabilities.iter().map(|score| size_of_val(score) + score.label.len()).sum();
        let strings =
            self.key.len() + prediction.provenance.model_digest.len() + prediction.label.len() + prediction.model.len();
        u32::try_from(size_of::<Self>() + labels + strings).unwrap_or(u32::MAX)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
