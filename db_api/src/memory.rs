use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use open_inference::Inference;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::entry::{Entry, MAX_STORED, fits_redis};
use crate::flights::Flights;
pub use crate::flights::Priority;
use crate::keys::AnswerKey;
use crate::near::Near;
use crate::store::{Lookup, RedisStore, Unavailable};

/// KiB of answers on their way to Redis at the same time. What would be more is not written: it is only a memory.
const MAX_WRITING: u32 = 64 << 10;

/// Answers that Redis is asked for, or given, at the same time for one caller: enough that the way there and back does
/// not count, and few enough for the room that Redis has for one client ([`MAX_STORED`](crate::entry::MAX_STORED)).
const AT_A_TIME: usize = 16;

/// So often a question waits for others' flights that end with errors which are not its own; then it is asked alone.
const MAX_WAITS: usize = 3;

/// Everything that is remembered: near in this process, and in Redis where there is one. `E` is why there may be no answer.
pub struct Memory<E> {
    near: Arc<Near>,
    flights: Flights<Arc<Entry>, Failure<E>>,
    redis: Option<RedisStore>,
    writes: TaskTracker,
    write_room: Arc<Semaphore>,
    write_lanes: Arc<Semaphore>,
}

/// What happened to a question: the log's field, the metric's label and the `Cache-Status` header are made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Remembered in this process.
    Near,
    /// Remembered in Redis.
    Redis,
    /// Computed for this caller, and stored.
    Miss,
    /// Computed for this caller, and not stored.
    Unstored(NotStored),
    /// Computed for another caller who asked the same at the same moment.
    Collapsed,
}

impl Outcome {
    /// Whether the result was computed for this caller.
    pub fn is_computed(self) -> bool {
        matches!(self, Self::Miss | Self::Unstored(_))
    }
}

/// Whether a computed result was stored. A result that waits to be written to Redis counts as stored.
pub type Storage = Result<(), NotStored>;

/// Why a computed result was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotStored {
    /// It is larger than each cache accepts: an eighth of the local cache, and 4 MiB in Redis.
    TooLarge,
    /// It is too large for the local cache, and Redis does not respond or too many writes are queued.
    RedisUnavailable,
}

/// Why a flight brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<E> {
    /// What its own asker is told.
    pub error: E,
    /// The fault may lie with something else that was asked together with this question, such as another row of a batch.
    /// Who waited for the flight then asks again instead of being told of a fault that is not its own.
    pub may_be_anothers: bool,
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self { error, may_be_anothers: false }
    }
}

impl<E> Memory<E> {
    /// `near_bytes` bounds what is held in this process; `ttl` is how long an answer stays, near and in Redis.
    pub fn new(near_bytes: u64, ttl: Duration, redis: Option<RedisStore>) -> Self {
        Self {
            near: Arc::new(Near::new(near_bytes, ttl)),
            flights: Flights::default(),
            redis,
            writes: TaskTracker::new(),
            write_room: Arc::new(Semaphore::new(MAX_WRITING as usize)),
            write_lanes: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Redis, where there is one.
    pub fn redis(&self) -> Option<&RedisStore> {
        self.redis.as_ref()
    }

    /// The answer to `key` if this process remembers it.
    pub fn recall_near(&self, key: AnswerKey) -> Option<Arc<Entry>> {
        self.near.get(key).map(Arc::new)
    }

    /// The answer to `key` if it is remembered.
    pub async fn recall(&self, key: AnswerKey, model: &str) -> Option<(Arc<Entry>, Outcome)> {
        if let Some(entry) = self.recall_near(key) {
            return Some((entry, Outcome::Near));
        }
        self.recall_from(self.redis.as_ref()?, key, model).await.map(|entry| (entry, Outcome::Redis))
    }

    async fn recall_from(&self, redis: &RedisStore, key: AnswerKey, model: &str) -> Option<Arc<Entry>> {
        let Lookup::Hit(entry) = redis.get(key, model).await else { return None };
        if let Some(form) = self.form_of(&entry) {
            self.near.insert(key, &form);
        }
        Some(entry)
    }

    /// [`Self::recall`] for each of `keys`, in their order.
    pub async fn recall_all(&self, keys: &[AnswerKey], model: &str) -> Vec<Option<(Arc<Entry>, Outcome)>> {
        let near = |&key: &AnswerKey| self.recall_near(key).map(|entry| (entry, Outcome::Near));
        let mut found: Vec<_> = keys.iter().map(near).collect();
        let Some(redis) = &self.redis else { return found };
        let unknown: Vec<usize> = (0..keys.len()).filter(|&at| found[at].is_none()).collect();
        let ask = |at: usize| async move { (at, self.recall_from(redis, keys[at], model).await) };
        let mut asked = stream::iter(unknown).map(ask).buffer_unordered(AT_A_TIME);
        while let Some((at, entry)) = asked.next().await {
            found[at] = entry.map(|entry| (entry, Outcome::Redis));
        }
        found
    }

    /// Stores a result that was computed without a lookup, and returns whether it was stored.
    pub fn remember(&self, key: AnswerKey, inference: Inference) -> (Arc<Entry>, Storage) {
        let entry = Arc::new(Entry::new(key, inference));
        let storage = self.store(key, &entry);
        (entry, storage)
    }

    fn store(&self, key: AnswerKey, entry: &Entry) -> Storage {
        let form = self.form_of(entry).ok_or(NotStored::TooLarge)?;
        let is_near = self.near.insert(key, &form);
        let written = self.write_behind(key, &entry.inference.model, form);
        if is_near { Ok(()) } else { written }
    }

    /// The form of an answer that is not too large for both memories; a large one is not copied to find that out.
    fn form_of(&self, entry: &Entry) -> Option<Arc<[u8]>> {
        let bytes: usize = entry.inference.outputs.iter().map(|output| output.data.len()).sum();
        let largest_in_redis = if self.redis.is_some() { MAX_STORED as u64 } else { 0 };
        (bytes as u64 <= self.near.largest().max(largest_in_redis)).then(|| entry.to_form())?
    }

    /// Forgets every answer of `model` and says how many there were, counting each once. Answers on their way to Redis
    /// are waited for, so that none of them is there again afterwards; one that is still being computed may be, as may
    /// one that another replica is writing. An error may come after some have been forgotten; trying again is safe.
    pub async fn forget(&self, model: &str) -> Result<u64, Unavailable> {
        // All room is free only when nobody is writing. It fails only when closed, which it never is.
        drop(self.write_room.acquire_many(MAX_WRITING).await);
        let near = self.near.forget(Some(model));
        match &self.redis {
            // Redis holds what near holds, and more.
            Some(redis) => redis.forget(model).await,
            None => Ok(near),
        }
    }

    /// Background work for as long as the service runs: watching Redis, and forgetting what other replicas forget.
    /// Without Redis there is none, and it never ends.
    pub async fn run(self) {
        let Some(redis) = self.redis.clone() else { return std::future::pending().await };
        let forget = |model: Option<String>| {
            self.near.forget(model.as_deref());
        };
        tokio::join!(redis.clone().probe(), redis.listen(forget));
    }

    /// Waits until every answer that is on its way to Redis has arrived.
    pub async fn flush(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Writes to Redis without making the caller wait for it. `Ok` says that the write is queued.
    fn write_behind(&self, key: AnswerKey, model: &str, form: Arc<[u8]>) -> Storage {
        let redis = self.redis.as_ref().filter(|_| fits_redis(&form, key)).ok_or(NotStored::TooLarge)?;
        if !redis.is_available() {
            return Err(NotStored::RedisUnavailable);
        }
        let room = u32::try_from(form.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.write_room).try_acquire_many_owned(room);
        let room = room.map_err(|_| NotStored::RedisUnavailable)?;
        let redis = redis.clone();
        let (lanes, model) = (Arc::clone(&self.write_lanes), model.to_owned());
        self.writes.spawn(async move {
            let lane = lanes.acquire().await;
            redis.set(key, &model, &form).await;
            drop((lane, room));
        });
        Ok(())
    }
}

impl<E: Clone> Memory<E> {
    /// The remembered answer to `key`, or the one that `infer` gives. Whoever asks the same while `infer` runs waits
    /// for that run; if its asker goes away, the next one's `infer` takes over. An error is never remembered. An interactive
    /// caller does not wait for a run in the background: its own `infer` runs beside it, and the first result is that of both.
    ///
    /// `key_of` names the key an answer belongs under, given the model that really answered.
    pub async fn recall_or_infer(
        &self,
        key: AnswerKey,
        model: &str,
        priority: Priority,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        self.fly(key, self.redis.as_ref().map(|redis| (redis, model)), priority, key_of, infer).await
    }

    /// [`Self::recall_or_infer`] for who has just asked Redis in vain. Unless another's flight is under way, `infer` is
    /// polled before this waits for anything.
    pub async fn join_or_infer(
        &self,
        key: AnswerKey,
        priority: Priority,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        self.fly(key, None, priority, key_of, infer).await
    }

    async fn fly(
        &self,
        key: AnswerKey,
        redis: Option<(&RedisStore, &str)>,
        priority: Priority,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        let mut infer = pin!(infer);
        for _ in 0..MAX_WAITS {
            let mut outcome = Outcome::Miss;
            let flight = async {
                // Looked for again by who took over: the flight before may have landed in the meantime.
                if let Some(entry) = self.recall_near(key) {
                    outcome = Outcome::Near;
                    return Ok(entry);
                }
                if let Some((redis, model)) = redis
                    && let Some(entry) = self.recall_from(redis, key, model).await
                {
                    outcome = Outcome::Redis;
                    return Ok(entry);
                }
                // It may belong under another key, since the model may have changed in mid-flight.
                let inference = infer.as_mut().await?;
                let (entry, storage) = self.remember(key_of(&inference), inference);
                outcome = computed(storage);
                Ok(entry)
            };
            match self.flights.join(key, priority, flight).await {
                (Ok(entry), is_own) => return Ok((entry, if is_own { outcome } else { Outcome::Collapsed })),
                (Err(failure), false) if failure.may_be_anothers => {}
                (Err(failure), _) => return Err(failure),
            }
        }
        let inference = infer.await?;
        let (entry, storage) = self.remember(key_of(&inference), inference);
        Ok((entry, computed(storage)))
    }
}

fn computed(storage: Storage) -> Outcome {
    storage.err().map_or(Outcome::Miss, Outcome::Unstored)
}

impl<E> Clone for Memory<E> {
    fn clone(&self) -> Self {
        Self {
            near: Arc::clone(&self.near),
            flights: self.flights.clone(),
            redis: self.redis.clone(),
            writes: self.writes.clone(),
            write_room: Arc::clone(&self.write_room),
            write_lanes: Arc::clone(&self.write_lanes),
        }
    }
}

#[cfg(test)]
mod tests;
