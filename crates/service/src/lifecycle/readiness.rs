//! Readiness latch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Readiness of a service: ready while no [`Hold`] exists.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    holds: Arc<Mutex<Holds>>,
}

#[derive(Debug, Default)]
struct Holds {
    next: u64,
    reasons: BTreeMap<u64, String>,
}

/// Keeps the service unready until dropped.
#[derive(Debug)]
#[must_use = "dropping the hold releases it"]
pub struct Hold {
    id: u64,
    readiness: Readiness,
}

impl Readiness {
    /// Makes the service unready until the returned hold is dropped. Readiness probes report `reason`.
    pub fn hold(&self, reason: impl Into<String>) -> Hold {
        let mut holds = self.lock();
        let id = holds.next;
        holds.next += 1;
        holds.reasons.insert(id, reason.into());
        Hold { id, readiness: self.clone() }
    }

    /// Reason of the oldest hold, or `None` if the service is ready.
    pub fn reason(&self) -> Option<String> {
        self.lock().reasons.values().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Holds> {
        // No code panics while it holds the lock, and a map of strings has no inconsistent state.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.readiness.lock().reasons.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_is_ready_once_the_last_hold_is_dropped() {
        let readiness = Readiness::default();
        assert_eq!(readiness.reason(), None);
        let (first, second) = (readiness.hold("loading"), readiness.hold("warming up"));
        assert_eq!(readiness.reason().as_deref(), Some("loading"));
        drop(first);
        assert_eq!(readiness.reason().as_deref(), Some("warming up"));
        drop(second);
        assert_eq!(readiness.reason(), None);
    }
}
