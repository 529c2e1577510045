//! Request IDs.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use http::HeaderValue;
use uuid::{Builder, Uuid};

/// Odd increments of the two counters: digits of the golden ratio and of the square root of two.
const INCREMENTS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909];

tokio::task_local! {
    static REQUEST_ID: HeaderValue;
}

thread_local! {
    /// Two counters with random start values, so that threads and processes do not produce the same IDs.
    static COUNTERS: Cell<[u64; 2]> = Cell::new([RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
}

/// ID of the request that the current task serves, for forwarding to other services.
pub fn current_request_id() -> Option<HeaderValue> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// Runs `future` with `id` as its [`current_request_id`].
pub(crate) fn with_request_id<F: Future>(id: HeaderValue, future: F) -> impl Future<Output = F::Output> {
    REQUEST_ID.scope(id, future)
}

/// New unique ID of a request or response, in the form of a random UUID. It is not secret: an ID reveals the next one.
/// Reading 128 random bits from the kernel per ID would cost more than all other work for it.
pub fn new_request_id() -> Uuid {
    let counters = COUNTERS.get();
    let next = [counters[0].wrapping_add(INCREMENTS[0]), counters[1].wrapping_add(INCREMENTS[1])];
    COUNTERS.set(next);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mix(next[0]).to_le_bytes());
    bytes[8..].copy_from_slice(&mix(next[1]).to_le_bytes());
    Builder::from_random_bytes(bytes).into_uuid()
}

/// Output function of `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). It is a
/// bijection, and consecutive inputs yield unrelated outputs.
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn ids_are_unique_across_threads() {
        let make = || (0..10_000).map(|_| new_request_id()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(make)).collect();
        let ids: HashSet<Uuid> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ids.len(), 40_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 4));
    }
}
