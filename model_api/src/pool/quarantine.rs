use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use open_inference::Tensor;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::RunError;

/// So long a request that has killed sessions is not run again.
const SENTENCE: Duration = Duration::from_mins(10);

/// So many are remembered; the oldest is let go first.
const MOST: usize = 1024;

/// The digests of requests that have killed sessions: whoever sends one again gets his error without another session's death.
#[derive(Debug, Default)]
pub struct Quarantine(Mutex<VecDeque<(Digested, Instant, RunError)>>);

type Digested = [u8; 32];

impl Quarantine {
    /// Why these inputs are not to be run; `None` where they are. Costs a digest only while something is in quarantine.
    pub fn holds(&self, inputs: &[Tensor]) -> Option<RunError> {
        {
            let mut held = self.held();
            while held.front().is_some_and(|(_, since, _)| since.elapsed() > SENTENCE) {
                held.pop_front();
            }
            if held.is_empty() {
                return None;
            }
        }
        let digest = digest(inputs);
        self.held().iter().find(|(held, ..)| *held == digest).map(|(_, _, error)| error.clone())
    }

    /// Does not have these inputs run again for a while: they get this error.
    pub fn put(&self, inputs: &[Tensor], error: RunError) {
        let digest = digest(inputs);
        let mut held = self.held();
        if held.len() == MOST {
            held.pop_front();
        }
        held.push_back((digest, Instant::now(), error));
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<(Digested, Instant, RunError)>> {
        // No code panics between two changes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 over each input's name, datatype, shape and bytes; each preceded by its length.
fn digest(inputs: &[Tensor]) -> [u8; 32] {
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
    async fn what_has_killed_is_held_for_a_while_and_nothing_else_is() {
        let quarantine = Quarantine::default();
        assert_eq!(quarantine.holds(&input(1.0)), None);
        quarantine.put(&input(1.0), RunError::Crashed);
        assert_eq!(quarantine.holds(&input(1.0)), Some(RunError::Crashed));
        assert_eq!(quarantine.holds(&input(2.0)), None);
        assert_eq!(quarantine.holds(&[Tensor { shape: vec![1, 1], ..input(1.0)[0].clone() }]), None);
        tokio::time::sleep(SENTENCE + Duration::from_secs(1)).await;
        assert_eq!(quarantine.holds(&input(1.0)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_let_go_for_one_more_than_are_remembered() {
        let quarantine = Quarantine::default();
        (0..=MOST).for_each(|number| quarantine.put(&input(number as f32), RunError::Crashed));
        assert_eq!(quarantine.holds(&input(0.0)), None);
        assert_eq!(quarantine.holds(&input(1.0)), Some(RunError::Crashed));
    }
}
