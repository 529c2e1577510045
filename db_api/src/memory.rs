use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use moka::future::Cache;
use open_inference::Inference;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::entry::Entry;
use crate::keys::AnswerKey;
use crate::store::{Lookup, RedisStore, Unavailable};

/// KiB of answers on their way to Redis at the same time. What would be more is not written: it is only a memory.
const MAX_WRITING: u32 = 64 << 10;

/// Answers that Redis is asked for, or given, at the same time for one caller: enough that the way there and back does
/// not count, and few enough for the room that Redis has for one client ([`MAX_STORED`](crate::entry::MAX_STORED)).
const AT_A_TIME: usize = 16;

/// No answer takes more than this part of what is held near, so that a few large ones do not push out all the others.
const NEAR_SHARE: u64 = 8;

/// So often a question waits for others' flights that end with errors which are not its own; then it is asked alone.
const MAX_WAITS: usize = 3;

/// Everything that is remembered: near in this process, and in Redis where there is one.
#[derive(Clone)]
pub struct Memory {
    near: Cache<AnswerKey, Arc<Entry>>,
    near_bytes: u64,
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
    /// Computed for this caller.
    Miss,
    /// Computed for another caller who asked the same at the same moment.
    Collapsed,
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

/// Why nothing is held near under a flight's key: the flight's own end, shared by all who waited for it.
#[derive(Debug)]
enum Landing<E> {
    /// There is an answer, but it is too large to be held near, or it belongs under another key, since the model changed
    /// in mid-flight.
    Elsewhere(Arc<Entry>),
    Failed(Failure<E>),
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self { error, may_be_anothers: false }
    }
}

impl Memory {
    /// `near_bytes` bounds what is held in this process; `ttl` is how long an answer stays, near and in Redis.
    pub fn new(near_bytes: u64, ttl: Duration, redis: Option<RedisStore>) -> Self {
        let near = Cache::builder()
            .max_capacity(near_bytes)
            .weigher(|_, entry: &Arc<Entry>| entry.weight())
            .time_to_live(ttl)
            .build();
        let write_room = Arc::new(Semaphore::new(MAX_WRITING as usize));
        let write_lanes = Arc::new(Semaphore::new(AT_A_TIME));
        Self { near, near_bytes, redis, writes: TaskTracker::new(), write_room, write_lanes }
    }

    /// Redis, where there is one.
    pub fn redis(&self) -> Option<&RedisStore> {
        self.redis.as_ref()
    }

    /// The answer to `key` if it is remembered.
    pub async fn recall(&self, key: AnswerKey, model: &str) -> Option<(Arc<Entry>, Outcome)> {
        if let Some(entry) = self.near.get(&key).await {
            return Some((entry, Outcome::Near));
        }
        let Lookup::Hit(entry) = self.redis.as_ref()?.get(key, model).await else { return None };
        self.hold_near(&entry).await;
        Some((entry, Outcome::Redis))
    }

    /// [`Self::recall`] for each of `keys`, in their order.
    pub async fn recall_all(&self, keys: &[AnswerKey], model: &str) -> Vec<Option<(Arc<Entry>, Outcome)>> {
        stream::iter(keys.to_vec()).map(|key| self.recall(key, model)).buffered(AT_A_TIME).collect().await
    }

    /// The remembered answer to `key`, or the one that `infer` gives. Whoever asks the same while `infer` runs waits
    /// for that run; if its asker goes away, the next one's `infer` takes over. An error is never remembered.
    ///
    /// `key_of` names the key an answer belongs under, given the model that really answered.
    pub async fn recall_or_infer<E: Clone + Send + Sync + 'static>(
        &self,
        key: AnswerKey,
        model: &str,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        self.fly(key, self.redis.as_ref().map(|redis| (redis, model)), key_of, infer).await
    }

    /// [`Self::recall_or_infer`] for who has just asked Redis in vain. Unless another's flight is under way, `infer` is
    /// polled before this waits for anything.
    pub async fn join_or_infer<E: Clone + Send + Sync + 'static>(
        &self,
        key: AnswerKey,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        self.fly(key, None, key_of, infer).await
    }

    async fn fly<E: Clone + Send + Sync + 'static>(
        &self,
        key: AnswerKey,
        redis: Option<(&RedisStore, &str)>,
        key_of: impl Fn(&Inference) -> AnswerKey,
        infer: impl Future<Output = Result<Inference, Failure<E>>>,
    ) -> Result<(Arc<Entry>, Outcome), Failure<E>> {
        if let Some(entry) = self.near.get(&key).await {
            return Ok((entry, Outcome::Near));
        }
        let mut infer = pin!(infer);
        for _ in 0..MAX_WAITS {
            // Stays `Collapsed` unless it is our own future that runs.
            let mut outcome = Outcome::Collapsed;
            let flight = async {
                if let Some((redis, model)) = redis
                    && let Lookup::Hit(entry) = redis.get(key, model).await
                {
                    outcome = Outcome::Redis;
                    return if self.is_held_near(&entry) { Ok(entry) } else { Err(Landing::Elsewhere(entry)) };
                }
                outcome = Outcome::Miss;
                let inference = infer.as_mut().await.map_err(Landing::Failed)?;
                let entry = Arc::new(Entry::new(key_of(&inference), inference));
                self.write_behind(&entry);
                if entry.key == key && self.is_held_near(&entry) {
                    return Ok(entry);
                }
                self.hold_near(&entry).await;
                Err(Landing::Elsewhere(entry))
            };
            match self.near.try_get_with(key, flight).await {
                Ok(entry) => return Ok((entry, outcome)),
                Err(landing) => match &*landing {
                    Landing::Elsewhere(entry) => return Ok((Arc::clone(entry), outcome)),
                    Landing::Failed(failure) if failure.may_be_anothers && outcome == Outcome::Collapsed => {}
                    Landing::Failed(failure) => return Err(failure.clone()),
                },
            }
        }
        let inference = infer.await?;
        Ok((self.remember(key_of(&inference), inference).await, Outcome::Miss))
    }

    /// Remembers an answer that was computed without looking here first.
    pub async fn remember(&self, key: AnswerKey, inference: Inference) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(key, inference));
        self.hold_near(&entry).await;
        self.write_behind(&entry);
        entry
    }

    /// Forgets every answer of `model` and says how many there were, counting each once. Answers on their way to Redis
    /// are waited for, so that none of them is there again afterwards; one that is still being computed may be, as may
    /// one that another replica is writing. An error may come after some have been forgotten; trying again is safe.
    pub async fn forget(&self, model: &str) -> Result<u64, Unavailable> {
        // All room is free only when nobody is writing. It fails only when closed, which it never is.
        drop(self.write_room.acquire_many(MAX_WRITING).await);
        let near = self.forget_near(Some(model)).await;
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
        let forget = move |model: Option<String>| {
            let memory = self.clone();
            async move {
                memory.forget_near(model.as_deref()).await;
            }
        };
        tokio::join!(redis.clone().probe(), redis.listen(forget));
    }

    /// Waits until every answer that is on its way to Redis has arrived.
    pub async fn flush(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Forgets near what belongs to `model`, or everything.
    async fn forget_near(&self, model: Option<&str>) -> u64 {
        let mut forgotten = 0;
        for (key, entry) in &self.near {
            if model.is_none_or(|model| entry.inference.model == model) {
                self.near.invalidate(&*key).await;
                forgotten += 1;
            }
        }
        forgotten
    }

    fn is_held_near(&self, entry: &Entry) -> bool {
        u64::from(entry.weight()) <= self.near_bytes / NEAR_SHARE
    }

    async fn hold_near(&self, entry: &Arc<Entry>) {
        if self.is_held_near(entry) {
            self.near.insert(entry.key, Arc::clone(entry)).await;
        }
    }

    /// Writes to Redis without making the caller wait for it.
    fn write_behind(&self, entry: &Arc<Entry>) {
        let Some(redis) = self.redis.clone() else { return };
        let room = entry.weight().div_ceil(1 << 10);
        let Ok(room) = Arc::clone(&self.write_room).try_acquire_many_owned(room) else { return };
        let (lanes, entry) = (Arc::clone(&self.write_lanes), Arc::clone(entry));
        self.writes.spawn(async move {
            let lane = lanes.acquire().await;
            redis.set(&entry).await;
            drop((lane, room));
        });
    }
}

#[cfg(test)]
mod tests;
