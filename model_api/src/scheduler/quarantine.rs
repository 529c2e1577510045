//! Quarantine of poison requests: inputs that crashed sessions get their previous error instead of another run.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use open_inference::Tensor;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::error::RunError;

/// How long inputs stay in quarantine.
const QUARANTINE_TTL: Duration = Duration::from_mins(10);

/// Maximum number of entries. The oldest one is evicted first.
const CAPACITY: usize = 1024;

/// Digests of quarantined inputs, oldest first.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<VecDeque<(InputDigest, Instant, RunError)>>);

type InputDigest = [u8; 32];

impl Quarantine {
    /// The error for quarantined inputs. Computes a digest only while the quarantine has entries.
    pub fn find(&self, inputs: &[Tensor]) -> Option<RunError> {
        {
            let mut entries = self.lock();
            while entries.front().is_some_and(|(_, since, _)| since.elapsed() > QUARANTINE_TTL) {
                entries.pop_front();
            }
            if entries.is_empty() {
                return None;
            }
        }
        let digest = digest(inputs);
        self.lock().iter().find(|(entry, ..)| *entry == digest).map(|(_, _, error)| error.clone())
    }

    /// Quarantines these inputs with this error.
    pub fn insert(&self, inputs: &[Tensor], error: RunError) {
        let digest = digest(inputs);
        let mut entries = self.lock();
        if entries.len() == CAPACITY {
            entries.pop_front();
        }
        entries.push_back((digest, Instant::now(), error));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(InputDigest, Instant, RunError)>> {
        // A panic cannot leave the entries inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 over name, datatype, shape and data of each input, each prefixed with its length.
fn digest(inputs: &[Tensor]) -> InputDigest {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for tensor in inputs {
        field(tensor.name.as_bytes());
        field(tensor.datatype.name().as_bytes());
        let shape: Vec<u8> = tensor.shape.iter().flat_map(|&length| (length as u64).to_le_bytes()).collect();
        field(&shape);
        field(&tensor.data);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use open_inference::Datatype;

    use super::*;

    fn input(value: f32) -> [Tensor; 1] {
        [Tensor::from_f32("x", Datatype::Fp32, vec![1], &[value]).unwrap()]
    }

    #[tokio::test(start_paused = true)]
    async fn only_equal_inputs_are_quarantined_until_the_ttl_ends() {
        let quarantine = Quarantine::default();
        assert_eq!(quarantine.find(&input(1.0)), None);
        quarantine.insert(&input(1.0), RunError::Crashed);
        assert_eq!(quarantine.find(&input(1.0)), Some(RunError::Crashed));
        assert_eq!(quarantine.find(&input(2.0)), None);
        assert_eq!(quarantine.find(&[Tensor { shape: vec![1, 1], ..input(1.0)[0].clone() }]), None);
        tokio::time::sleep(QUARANTINE_TTL + Duration::from_secs(1)).await;
        assert_eq!(quarantine.find(&input(1.0)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_entry_is_evicted_at_capacity() {
        let quarantine = Quarantine::default();
        (0..=CAPACITY).for_each(|number| quarantine.insert(&input(number as f32), RunError::Crashed));
        assert_eq!(quarantine.find(&input(0.0)), None);
        assert_eq!(quarantine.find(&input(1.0)), Some(RunError::Crashed));
    }
}
