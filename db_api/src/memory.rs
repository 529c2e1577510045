use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use contract::Prediction;
use moka::future::Cache;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::entry::Entry;
use crate::keys::AnswerKey;
use crate::store::{Lookup, RedisStore, Unavailable};

/// Answers on their way to Redis at the same time. One more is not written: it is only a memory.
const MAX_WRITES: usize = 256;

/// Everything that is remembered: near in this process, and in Redis where there is one.
#[derive(Clone)]
pub struct Memory {
    near: Cache<AnswerKey, Arc<Entry>>,
    redis: Option<RedisStore>,
    writes: TaskTracker,
    write_permits: Arc<Semaphore>,
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

/// Why there is no answer after all: the flight's own error, shared by all who waited for it.
#[derive(Debug)]
enum Landing<E> {
    /// The model's digest changed in mid-flight, so the answer belongs under another key than the one that was asked.
    Elsewhere(Arc<Entry>),
    Failed(E),
}

impl Memory {
    /// `near_bytes` bounds what is held in this process; `ttl` is how long an answer stays, near and in Redis.
    pub fn new(near_bytes: u64, ttl: Duration, redis: Option<RedisStore>) -> Self {
        let near = Cache::builder()
            .max_capacity(near_bytes)
            .weigher(|_, entry: &Arc<Entry>| entry.weight())
            .time_to_live(ttl)
            .build();
        Self { near, redis, writes: TaskTracker::new(), write_permits: Arc::new(Semaphore::new(MAX_WRITES)) }
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
        self.near.insert(key, Arc::clone(&entry)).await;
        Some((entry, Outcome::Redis))
    }

    /// The remembered answer to `key`, or the one that `infer` gives. Whoever asks the same while `infer` runs waits
    /// for that run; if its asker goes away, the next one's `infer` takes over. An error is never remembered.
    ///
    /// `key_of` names the key an answer belongs under, given the digest of the model that really answered.
    pub async fn recall_or_infer<E: Clone + Send + Sync + 'static>(
        &self,
        key: AnswerKey,
        model: &str,
        key_of: impl FnOnce(&Prediction) -> AnswerKey,
        infer: impl Future<Output = Result<Prediction, E>>,
    ) -> Result<(Arc<Entry>, Outcome), E> {
        if let Some(entry) = self.near.get(&key).await {
            return Ok((entry, Outcome::Near));
        }
        // Stays `Collapsed` unless it is our own future that runs.
        let mut outcome = Outcome::Collapsed;
        let flight = async {
            if let Some(redis) = &self.redis
                && let Lookup::Hit(entry) = redis.get(key, model).await
            {
                outcome = Outcome::Redis;
                return Ok(entry);
            }
            outcome = Outcome::Miss;
            let prediction = infer.await.map_err(Landing::Failed)?;
            let true_key = key_of(&prediction);
            let entry = Arc::new(Entry::new(true_key, prediction));
            self.write_behind(true_key, &entry);
            if true_key == key {
                return Ok(entry);
            }
            self.near.insert(true_key, Arc::clone(&entry)).await;
            Err(Landing::Elsewhere(entry))
        };
        match self.near.try_get_with(key, flight).await {
            Ok(entry) => Ok((entry, outcome)),
            Err(landing) => match &*landing {
                Landing::Elsewhere(entry) => Ok((Arc::clone(entry), outcome)),
                Landing::Failed(error) => Err(error.clone()),
            },
        }
    }

    /// Remembers an answer that was computed without looking here first.
    pub async fn remember(&self, key: AnswerKey, prediction: Prediction) -> Arc<Entry> {
        let entry = Arc::new(Entry::new(key, prediction));
        self.near.insert(key, Arc::clone(&entry)).await;
        self.write_behind(key, &entry);
        entry
    }

    /// Forgets every answer of `model` and says how many there were, counting each once. Answers on their way to Redis
    /// are waited for, so that none of them is there again afterwards; one that is still being computed may be, as may
    /// one that another replica is writing. An error may come after some have been forgotten; trying again is safe.
    pub async fn forget(&self, model: &str) -> Result<u64, Unavailable> {
        // All permits are free only when nobody is writing. It fails only when closed, which it never is.
        drop(self.write_permits.acquire_many(MAX_WRITES as u32).await);
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
            if model.is_none_or(|model| entry.prediction.model == model) {
                self.near.invalidate(&*key).await;
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Writes to Redis without making the caller wait for it.
    fn write_behind(&self, key: AnswerKey, entry: &Arc<Entry>) {
        let Some(redis) = self.redis.clone() else { return };
        let Ok(permit) = Arc::clone(&self.write_permits).try_acquire_owned() else { return };
        let entry = Arc::clone(entry);
        self.writes.spawn(async move {
            redis.set(key, &entry).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;
    use crate::keys::Input;

    const MODEL: &str = "mnist";

    fn key(digest: &str, image: &str) -> AnswerKey {
        AnswerKey::new("ui", MODEL, digest, Input::Image(image.as_bytes()))
    }

    fn prediction(model_digest: &str, cls: usize) -> Prediction {
        Prediction {
            model: MODEL.to_owned(),
            version: "1".to_owned(),
            cls,
            label: cls.to_string(),
            value: 0.5,
            probabilities: Vec::new(),
            provenance: open_inference::Provenance { model_digest: model_digest.to_owned(), ..Default::default() },
        }
    }

    fn memory() -> Memory {
        Memory::new(1 << 20, Duration::from_mins(1), None)
    }

    async fn ask(memory: &Memory, image: &str, runs: &AtomicUsize) -> Result<(usize, Outcome), String> {
        let infer = async {
            runs.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(50)).await;
            if image == "bad" { Err("bad".to_owned()) } else { Ok(prediction("d1", 7)) }
        };
        let key_of = |prediction: &Prediction| key(&prediction.provenance.model_digest, image);
        let (entry, outcome) = memory.recall_or_infer(key("d1", image), MODEL, key_of, infer).await?;
        Ok((entry.prediction.cls, outcome))
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_who_ask_the_same_at_once_cost_one_run() {
        let (memory, runs) = (memory(), Arc::new(AtomicUsize::new(0)));
        let mut askers = JoinSet::new();
        for _ in 0..100 {
            let (memory, runs) = (memory.clone(), Arc::clone(&runs));
            askers.spawn(async move { ask(&memory, "seven", &runs).await.unwrap() });
        }
        let outcomes = askers.join_all().await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(outcomes.iter().filter(|answer| **answer == (7, Outcome::Miss)).count(), 1);
        assert_eq!(outcomes.iter().filter(|answer| **answer == (7, Outcome::Collapsed)).count(), 99);
        assert_eq!(ask(&memory, "seven", &runs).await.unwrap(), (7, Outcome::Near));
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_first_asker_goes_away_the_next_takes_over() {
        let (memory, runs) = (memory(), Arc::new(AtomicUsize::new(0)));
        let first = tokio::spawn({
            let (memory, runs) = (memory.clone(), Arc::clone(&runs));
            async move { ask(&memory, "seven", &runs).await }
        });
        sleep(Duration::from_millis(10)).await;
        let second = tokio::spawn({
            let (memory, runs) = (memory.clone(), Arc::clone(&runs));
            async move { ask(&memory, "seven", &runs).await }
        });
        sleep(Duration::from_millis(10)).await;
        first.abort();
        assert_eq!(second.await.unwrap().unwrap(), (7, Outcome::Miss));
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_never_remembered() {
        let (memory, runs) = (memory(), AtomicUsize::new(0));
        assert!(ask(&memory, "bad", &runs).await.is_err());
        assert!(ask(&memory, "bad", &runs).await.is_err());
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_answer_of_a_model_changed_in_mid_flight_is_not_filed_under_the_old_one() {
        let memory = memory();
        let key_of = |prediction: &Prediction| key(&prediction.provenance.model_digest, "x");
        let infer = async { Ok::<_, String>(prediction("d2", 3)) };
        let (entry, outcome) = memory.recall_or_infer(key("d1", "x"), MODEL, key_of, infer).await.unwrap();
        assert_eq!((entry.prediction.cls, outcome), (3, Outcome::Miss));
        assert!(memory.recall(key("d1", "x"), MODEL).await.is_none());
        assert!(memory.recall(key("d2", "x"), MODEL).await.is_some());
    }

    #[tokio::test]
    async fn forgetting_a_model_leaves_the_others() {
        let memory = memory();
        memory.remember(key("d1", "a"), prediction("d1", 1)).await;
        let other = Prediction { model: "leukemia".to_owned(), ..prediction("d1", 2) };
        memory.remember(key("d1", "b"), other).await;
        assert_eq!(memory.forget(MODEL).await.unwrap(), 1);
        assert!(memory.recall(key("d1", "a"), MODEL).await.is_none());
        assert!(memory.recall(key("d1", "b"), "leukemia").await.is_some());
    }
}
