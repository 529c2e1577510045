//! Two-level read-through cache with single flight and write-behind.
//!
//! A lookup tries the in-process cache ([`local`]), then Redis ([`redis`]). A miss is computed once for all concurrent callers with
//! the same key ([`single_flight`]). Results are written to Redis asynchronously, so no caller waits for a write.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use open_inference::Inference;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

mod codec;
mod entry;
mod keys;
mod local;
mod outcome;
mod redis;
mod single_flight;

pub use entry::{CacheEntry, MAX_ENTRY_BYTES, redis_value};
pub use keys::{CacheKey, InputDigest, KeyInput};
pub use outcome::{CacheOutcome, Failure, NotStored, StoreResult};
pub use redis::{Lookup, RedisStore, RedisUnavailable};
pub use single_flight::Priority;

use entry::fits_redis;
use local::LocalCache;
use single_flight::SingleFlight;

/// KiB of results that wait to be written to Redis. Further results are not written: a cache may lose entries.
const MAX_QUEUED_WRITE_KIB: u32 = 64 << 10;

/// Concurrent Redis reads per caller, and concurrent Redis writes. High enough to hide the round trip, and low enough for the
/// output buffer that Redis allows per client (see [`MAX_ENTRY_BYTES`]).
const MAX_CONCURRENT_COMMANDS: usize = 16;

/// How many flights with shared faults a caller waits for before it computes on its own.
const MAX_SHARED_FAULTS: usize = 3;

/// Result cache: in this process, and in Redis where there is one. `E` is the error of a computation. Clones share the cache.
pub struct ResultCache<E> {
    local: Arc<LocalCache>,
    flights: SingleFlight<Arc<CacheEntry>, Failure<E>>,
    redis: Option<RedisStore>,
    writes: TaskTracker,
    write_queue: Arc<Semaphore>,
    write_concurrency: Arc<Semaphore>,
}

impl<E> ResultCache<E> {
    /// `local_bytes` bounds the in-process cache. `ttl` is the lifetime of an entry, in this process and in Redis.
    pub fn new(local_bytes: u64, ttl: Duration, redis: Option<RedisStore>) -> Self {
        Self {
            local: Arc::new(LocalCache::new(local_bytes, ttl)),
            flights: SingleFlight::default(),
            redis,
            writes: TaskTracker::new(),
            write_queue: Arc::new(Semaphore::new(MAX_QUEUED_WRITE_KIB as usize)),
            write_concurrency: Arc::new(Semaphore::new(MAX_CONCURRENT_COMMANDS)),
        }
    }

    /// The Redis store; `None` without Redis.
    pub fn redis(&self) -> Option<&RedisStore> {
        self.redis.as_ref()
    }

    /// Looks `key` up in the in-process cache only.
    pub fn get_local(&self, key: CacheKey) -> Option<Arc<CacheEntry>> {
        self.local.get(key).map(Arc::new)
    }

    /// Looks `key` up in this process, then in Redis.
    pub async fn get(&self, key: CacheKey, model: &str) -> Option<(Arc<CacheEntry>, CacheOutcome)> {
        if let Some(entry) = self.get_local(key) {
            return Some((entry, CacheOutcome::LocalHit));
        }
        self.get_from(self.redis.as_ref()?, key, model).await.map(|entry| (entry, CacheOutcome::RedisHit))
    }

    async fn get_from(&self, redis: &RedisStore, key: CacheKey, model: &str) -> Option<Arc<CacheEntry>> {
        let Lookup::Hit(entry) = redis.get(key, model).await else { return None };
        if let Some(encoded) = self.encode(&entry) {
            self.local.insert(key, &encoded);
        }
        Some(entry)
    }

    /// [`Self::get`] for each of `keys`, in their order.
    pub async fn get_all(&self, keys: &[CacheKey], model: &str) -> Vec<Option<(Arc<CacheEntry>, CacheOutcome)>> {
        let local = |&key: &CacheKey| self.get_local(key).map(|entry| (entry, CacheOutcome::LocalHit));
        let mut found: Vec<_> = keys.iter().map(local).collect();
        let Some(redis) = &self.redis else { return found };
        let misses: Vec<usize> = (0..keys.len()).filter(|&index| found[index].is_none()).collect();
        let look_up = |index: usize| async move { (index, self.get_from(redis, keys[index], model).await) };
        let mut lookups = stream::iter(misses).map(look_up).buffer_unordered(MAX_CONCURRENT_COMMANDS);
        while let Some((index, entry)) = lookups.next().await {
            found[index] = entry.map(|entry| (entry, CacheOutcome::RedisHit));
        }
        found
    }

    /// Stores a result that was computed without a lookup.
    pub fn put(&self, key: CacheKey, inference: Inference) -> (Arc<CacheEntry>, StoreResult) {
        let entry = Arc::new(CacheEntry::new(key, inference));
        let stored = self.store(key, &entry);
        (entry, stored)
    }

    fn store(&self, key: CacheKey, entry: &CacheEntry) -> StoreResult {
        let encoded = self.encode(entry).ok_or(NotStored::TooLarge)?;
        let is_local = self.local.insert(key, &encoded);
        let written = self.write_behind(key, &entry.inference.model, encoded);
        if is_local { Ok(()) } else { written }
    }

    /// `None` for an entry that is too large for both caches. The size is checked before anything is copied.
    fn encode(&self, entry: &CacheEntry) -> Option<Arc<[u8]>> {
        let bytes: usize = entry.inference.outputs.iter().map(|output| output.data.len()).sum();
        let max_redis = if self.redis.is_some() { MAX_ENTRY_BYTES as u64 } else { 0 };
        (bytes as u64 <= self.local.max_entry_bytes().max(max_redis)).then(|| entry.encode())?
    }

    /// Deletes every entry of `model` and returns how many there were, each counted once. Waits for queued writes, so that none of
    /// them restores an entry afterwards. A result that is still being computed, or that another replica is writing, may reappear.
    /// An error can come after some entries are deleted; a retry is safe.
    pub async fn invalidate_model(&self, model: &str) -> Result<u64, RedisUnavailable> {
        // All permits are free only when no write is queued. This fails only for a closed semaphore, and nothing closes it.
        drop(self.write_queue.acquire_many(MAX_QUEUED_WRITE_KIB).await);
        let local = self.local.invalidate(Some(model));
        match &self.redis {
            // Redis holds every local entry, and more.
            Some(redis) => redis.invalidate_model(model).await,
            None => Ok(local),
        }
    }

    /// Background task of the cache: probes Redis and applies invalidations of other replicas. Runs until it is dropped.
    pub async fn run(self) {
        let Some(redis) = self.redis.clone() else { return std::future::pending().await };
        let invalidate = |model: Option<String>| {
            self.local.invalidate(model.as_deref());
        };
        tokio::join!(redis.clone().probe_loop(), redis.subscribe_loop(invalidate));
    }

    /// Waits until all queued results are written to Redis.
    pub async fn flush(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Queues a write to Redis. `Ok` means that it is queued.
    fn write_behind(&self, key: CacheKey, model: &str, encoded: Arc<[u8]>) -> StoreResult {
        let redis = self.redis.as_ref().filter(|_| fits_redis(&encoded, key)).ok_or(NotStored::TooLarge)?;
        if !redis.is_available() {
            return Err(NotStored::RedisUnavailable);
        }
        let kib = u32::try_from(encoded.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let queued = Arc::clone(&self.write_queue).try_acquire_many_owned(kib);
        let queued = queued.map_err(|_| NotStored::RedisUnavailable)?;
        let redis = redis.clone();
        let (concurrency, model) = (Arc::clone(&self.write_concurrency), model.to_owned());
        self.writes.spawn(async move {
            let permit = concurrency.acquire().await;
            redis.set(key, &model, &encoded).await;
            drop((permit, queued));
        });
        Ok(())
    }
}

impl<E: Clone> ResultCache<E> {
    /// Returns the cached result of `key`, or computes it with `compute` (read-through).
    ///
    /// Concurrent callers with the same key share one computation. If its caller is dropped, the next caller computes. Errors are
    /// never cached. An interactive caller does not wait for a background computation: it runs its own beside it, and the first
    /// result serves both.
    ///
    /// `key_of` returns the key to store a result under, given the model version that computed it.
    pub async fn get_or_compute(
        &self,
        key: CacheKey,
        model: &str,
        priority: Priority,
        key_of: impl Fn(&Inference) -> CacheKey,
        compute: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<CacheEntry>, CacheOutcome), Failure<E>> {
        self.compute_once(key, self.redis.as_ref().map(|redis| (redis, model)), priority, key_of, compute).await
    }

    /// [`Self::get_or_compute`] after a miss in Redis. Unless another flight of `key` is in progress, `compute` is polled before this
    /// waits for anything.
    pub async fn join_or_compute(
        &self,
        key: CacheKey,
        priority: Priority,
        key_of: impl Fn(&Inference) -> CacheKey,
        compute: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<CacheEntry>, CacheOutcome), Failure<E>> {
        self.compute_once(key, None, priority, key_of, compute).await
    }

    async fn compute_once(
        &self,
        key: CacheKey,
        redis: Option<(&RedisStore, &str)>,
        priority: Priority,
        key_of: impl Fn(&Inference) -> CacheKey,
        compute: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<CacheEntry>, CacheOutcome), Failure<E>> {
        let mut compute = pin!(compute);
        for _ in 0..MAX_SHARED_FAULTS {
            let mut outcome = CacheOutcome::Miss;
            let flight = async {
                // A caller that takes a flight over looks the key up again: the flight before it may have completed meanwhile.
                if let Some(entry) = self.get_local(key) {
                    outcome = CacheOutcome::LocalHit;
                    return Ok(entry);
                }
                if let Some((redis, model)) = redis
                    && let Some(entry) = self.get_from(redis, key, model).await
                {
                    outcome = CacheOutcome::RedisHit;
                    return Ok(entry);
                }
                // The result may belong under another key: the model may have been replaced during the computation.
                let inference = compute.as_mut().await?;
                let (entry, stored) = self.put(key_of(&inference), inference);
                outcome = CacheOutcome::of_computed(stored);
                Ok(entry)
            };
            match self.flights.join(key, priority, flight).await {
                (Ok(entry), is_own) => return Ok((entry, if is_own { outcome } else { CacheOutcome::Collapsed })),
                (Err(failure), false) if failure.is_shared_fault => {}
                (Err(failure), _) => return Err(failure),
            }
        }
        let inference = compute.await?;
        let (entry, stored) = self.put(key_of(&inference), inference);
        Ok((entry, CacheOutcome::of_computed(stored)))
    }
}

impl<E> Clone for ResultCache<E> {
    fn clone(&self) -> Self {
        Self {
            local: Arc::clone(&self.local),
            flights: self.flights.clone(),
            redis: self.redis.clone(),
            writes: self.writes.clone(),
            write_queue: Arc::clone(&self.write_queue),
            write_concurrency: Arc::clone(&self.write_concurrency),
        }
    }
}

#[cfg(test)]
mod tests;
