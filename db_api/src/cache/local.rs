//! In-process (L1) cache of encoded results, bounded by bytes.
//!
//! Entries stay encoded: as Rust values, their dozen small allocations each would take three times the memory. The eviction policy
//! of `quick_cache` keeps entries that are requested again and evicts those that were requested once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::codec;
use super::entry::CacheEntry;
use super::keys::CacheKey;

/// An entry may take at most this fraction of the cache, so that a few large entries do not evict all others.
const MAX_ENTRY_FRACTION: u64 = 8;

/// Shards with a lock each. Fewer than [`MAX_ENTRY_FRACTION`], since each shard must have room for the largest entry.
const SHARDS: usize = 4;

/// Bytes of an entry beside its encoding: its key, its slots in two tables, and the allocator's overhead. Measured over a hundred
/// thousand small entries.
const ENTRY_OVERHEAD_BYTES: u64 = 112;

/// Estimated bytes of an entry. It sizes the table of recently evicted keys.
const TYPICAL_ENTRY_BYTES: u64 = 512;

/// In-process cache of encoded results.
pub(super) struct LocalCache {
    entries: Cache<CacheKey, Stored, EntryWeighter>,
    bytes: u64,
    ttl: Duration,
    /// Expiry times are seconds since this instant, so that changes of the system clock have no effect.
    started: Instant,
}

#[derive(Clone)]
struct Stored {
    encoded: Arc<[u8]>,
    expires: u32,
}

#[derive(Clone)]
struct EntryWeighter;

impl Weighter<CacheKey, Stored> for EntryWeighter {
    fn weight(&self, _: &CacheKey, stored: &Stored) -> u64 {
        weight(&stored.encoded)
    }
}

fn weight(encoded: &[u8]) -> u64 {
    encoded.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl LocalCache {
    /// `bytes` bounds the size of all entries; `ttl` is the lifetime of an entry.
    pub fn new(bytes: u64, ttl: Duration) -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(usize::try_from(bytes / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX))
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are set above");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let entries = Cache::with_options(options, EntryWeighter, hasher, lifecycle);
        Self { entries, bytes, ttl, started: Instant::now() }
    }

    pub fn get(&self, key: CacheKey) -> Option<CacheEntry> {
        let Stored { encoded, expires } = self.entries.get(&key)?;
        if expires <= self.now() {
            self.entries.remove_if(&key, |stored| stored.expires == expires);
            return None;
        }
        CacheEntry::decode(encoded, key)
    }

    /// Maximum size of an entry.
    pub fn max_entry_bytes(&self) -> u64 {
        self.bytes / MAX_ENTRY_FRACTION
    }

    /// Stores a result unless it is larger than [`Self::max_entry_bytes`]; returns whether it did.
    pub fn insert(&self, key: CacheKey, encoded: &Arc<[u8]>) -> bool {
        let fits = weight(encoded) <= self.max_entry_bytes();
        if fits {
            let expires = self.now().saturating_add(u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX));
            self.entries.insert(key, Stored { encoded: Arc::clone(encoded), expires });
        }
        fits
    }

    /// Removes the entries of `model`, or all entries for `None`. Returns how many it removed.
    pub fn invalidate(&self, model: Option<&str>) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|_, stored| model.is_some_and(|model| codec::model_of(&stored.encoded) != Some(model)));
        before.saturating_sub(self.entries.len()) as u64
    }

    fn now(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}
