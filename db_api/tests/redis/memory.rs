//! The memory over a real Redis, and over one that is killed, hung or full of garbage.

use std::thread;
use std::time::{Duration, Instant};

use db_api::keys::{AnswerKey, Input};
use db_api::memory::{Failure, Memory, NotStored, Outcome};
use db_api::metrics::MemoryMetrics;
use db_api::store::RedisStore;
use http::HeaderMap;
use open_inference::{Datatype, Inference, Provenance, Tensor};
use redis::Commands;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::server::{Redis, until};

/// Longer than in production: on a busy machine an answer in time must be no matter of luck.
const DEADLINE: Duration = Duration::from_millis(250);

impl Redis {
    /// A replica's memory with its work in the background, once it has seen Redis.
    async fn memory(&self) -> Memory<String> {
        Self::memory_over(&self.url()).await
    }

    async fn memory_over(url: &str) -> Memory<String> {
        let ttl = Duration::from_hours(1);
        let store = RedisStore::new(url, DEADLINE, ttl, MemoryMetrics::default()).unwrap();
        let memory = Memory::new(1 << 20, ttl, Some(store));
        tokio::spawn(memory.clone().run());
        until("Redis is seen", || is_available(&memory)).await;
        memory
    }
}

fn is_available(memory: &Memory<String>) -> bool {
    memory.redis().unwrap().is_available()
}

fn key(image: &str) -> AnswerKey {
    AnswerKey::new("ui", "mnist", "1", "sha256:d", Input::Image(image.as_bytes()))
}

fn inference() -> Inference {
    Inference {
        model: "mnist".to_owned(),
        version: "1".to_owned(),
        outputs: vec![Tensor::from_f32("y", Datatype::Fp32, vec![1, 2], &[0.25, 0.75]).unwrap()],
        provenance: Provenance { model_digest: "sha256:d".to_owned(), ..Provenance::default() },
        headers: HeaderMap::new(),
    }
}

async fn ask(memory: &Memory<String>, image: &str) -> Outcome {
    let infer = async { Ok::<_, Failure<String>>(inference()) };
    let (entry, outcome) = memory.recall_or_infer(key(image), "mnist", |_| key(image), infer).await.unwrap();
    assert_eq!(entry.inference.outputs, inference().outputs);
    assert_eq!(entry.inference.provenance, inference().provenance);
    outcome
}

#[tokio::test]
async fn another_process_finds_what_one_has_remembered() {
    let Some(redis) = Redis::start("share") else { return };
    let first = redis.memory().await;
    assert_eq!(ask(&first, "a").await, Outcome::Miss);
    assert_eq!(ask(&first, "a").await, Outcome::Near);
    first.flush().await;
    let second = redis.memory().await;
    assert_eq!(ask(&second, "a").await, Outcome::Redis);
    assert_eq!(ask(&second, "a").await, Outcome::Near);
}

#[tokio::test]
async fn every_key_names_its_model_and_may_be_evicted() {
    let Some(redis) = Redis::start("readable") else { return };
    let memory = redis.memory().await;
    ask(&memory, "a").await;
    ask(&memory, "b").await;
    memory.flush().await;
    let mut client = redis.client();
    let keys: Vec<String> = client.keys("*").unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert!(key.starts_with("mlserve:answer:mnist:"), "{key}");
        assert!((1..=3600).contains(&client.ttl::<_, i64>(&key).unwrap()), "{key} has no time-to-live");
        assert!(client.get::<_, Vec<u8>>(&key).unwrap().starts_with(b"MLSA\x02"));
    }
}

#[tokio::test]
async fn what_is_no_answer_to_its_key_is_a_miss() {
    let Some(redis) = Redis::start("garbage") else { return };
    let memory = redis.memory().await;
    ask(&memory, "a").await;
    memory.flush().await;
    let mut client = redis.client();
    let stored: String = client.keys::<_, Vec<String>>("*").unwrap().remove(0);
    let other_question: Vec<u8> = client.get(&stored).unwrap();
    let hex = key("x").to_string().replace("sha256:", "");
    let name = format!("mlserve:answer:mnist:{hex}");
    let cut = &other_question[..other_question.len() - 1];
    let values: [&[u8]; 5] = [b"__import__('os')", b"{\"key\":\"x\"}", cut, &other_question, &vec![b'7'; 16 << 20]];
    for value in values {
        let _: () = client.set_ex(&name, value, 60).unwrap();
        let fresh = redis.memory().await;
        assert_eq!(ask(&fresh, "x").await, Outcome::Miss);
        fresh.flush().await;
    }
    assert_eq!(ask(&redis.memory().await, "x").await, Outcome::Redis, "the garbage has been replaced");
}

#[tokio::test]
async fn an_answer_too_large_for_redis_is_given_and_not_written() {
    let Some(redis) = Redis::start("large") else { return };
    let memory = redis.memory().await;
    let large = Tensor::new("y", Datatype::Uint8, &[5 << 20], vec![0; 5 << 20].into()).unwrap();
    let (_, storage) = memory.remember(key("large"), Inference { outputs: vec![large], ..inference() });
    assert_eq!(storage, Err(NotStored::TooLarge));
    memory.flush().await;
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
    assert!(is_available(&memory));
}

#[tokio::test]
async fn a_result_that_only_redis_has_room_for_is_stored_while_redis_responds() {
    let Some(redis) = Redis::start("room") else { return };
    let memory = redis.memory().await;
    let remember = |name: &str, bytes: usize| {
        let output =
            Tensor::new("y", Datatype::Uint8, &[i64::try_from(bytes).unwrap()], vec![0; bytes].into()).unwrap();
        memory.remember(key(name), Inference { outputs: vec![output], ..inference() }).1
    };
    // An eighth of the local cache of 1 MiB is less than this, and Redis takes 4 MiB.
    assert_eq!(remember("before", 1 << 18), Ok(()));
    memory.flush().await;
    let found = redis.memory().await.recall(key("before"), "mnist").await;
    assert_eq!(found.map(|(_, outcome)| outcome), Some(Outcome::Redis));

    redis.signal("-KILL");
    until("the breaker opens", || !is_available(&memory)).await;
    assert_eq!(remember("after", 1 << 18), Err(NotStored::RedisUnavailable));
    assert_eq!(remember("too large for both", 5 << 20), Err(NotStored::TooLarge));
    assert_eq!(remember("small", 1 << 10), Ok(()), "the local cache stores it");
}

#[tokio::test]
async fn a_result_is_not_called_stored_when_too_many_writes_are_queued() {
    let Some(redis) = Redis::start("queue") else { return };
    let memory = redis.memory().await;
    redis.signal("-STOP");
    let remember = |number: usize| {
        let output = Tensor::new("y", Datatype::Uint8, &[3 << 20], vec![0; 3 << 20].into()).unwrap();
        memory.remember(key(&number.to_string()), Inference { outputs: vec![output], ..inference() }).1
    };
    // 64 MiB may be queued, which is 21 of them. No write ends meanwhile: nothing here waits.
    let stored: Vec<_> = (0..22).map(remember).collect();
    assert!(stored[..21].iter().all(Result::is_ok), "{stored:?}");
    assert_eq!(stored[21], Err(NotStored::RedisUnavailable));
    redis.signal("-CONT");
}

#[tokio::test]
async fn many_are_found_at_once_and_in_their_order() {
    let Some(redis) = Redis::start("many") else { return };
    let first = redis.memory().await;
    let keys: Vec<_> = (0..300).map(|number| key(&number.to_string())).collect();
    for key in keys.iter().step_by(3) {
        assert_eq!(first.remember(*key, inference()).1, Ok(()));
    }
    first.flush().await;
    let found = redis.memory().await.recall_all(&keys, "mnist").await;
    for (number, (found, key)) in found.iter().zip(&keys).enumerate() {
        let found = found.as_ref().map(|(entry, outcome)| (entry.key, *outcome));
        assert_eq!(found, (number % 3 == 0).then_some((*key, Outcome::Redis)));
    }
}

#[tokio::test]
async fn a_dead_redis_costs_nothing_and_a_new_one_is_used_again() {
    let Some(mut redis) = Redis::start("dead") else { return };
    let memory = redis.memory().await;
    redis.signal("-KILL");
    until("the breaker opens", || !is_available(&memory)).await;
    let begun = Instant::now();
    for number in 0..200 {
        assert_eq!(ask(&memory, &format!("dead {number}")).await, Outcome::Miss);
    }
    assert!(begun.elapsed() < 20 * DEADLINE, "200 misses took {:?}", begun.elapsed());
    redis.restart();
    until("Redis is seen again", || is_available(&memory)).await;
    ask(&memory, "after").await;
    memory.flush().await;
    assert_eq!(ask(&redis.memory().await, "after").await, Outcome::Redis);
}

#[tokio::test]
async fn a_hung_redis_costs_a_few_deadlines_and_then_nothing() {
    let Some(redis) = Redis::start("hung") else { return };
    let memory = redis.memory().await;
    redis.signal("-STOP");
    let begun = Instant::now();
    for number in 0..200 {
        assert_eq!(ask(&memory, &format!("hung {number}")).await, Outcome::Miss);
    }
    // Unbroken it would be 200 deadlines, 50 s.
    assert!(begun.elapsed() < 20 * DEADLINE, "200 misses took {:?}", begun.elapsed());
    redis.signal("-CONT");
    until("Redis is seen again", || is_available(&memory)).await;
}

#[tokio::test]
async fn a_connection_whose_other_end_has_gone_without_a_word_is_replaced() {
    let Some(redis) = Redis::start("half-open") else { return };
    let (url, silence) = redis.proxy().await;
    let memory = Redis::memory_over(&url).await;
    until("it listens", || redis.listeners() == 1).await;
    silence.notify_waiters();
    let begun = Instant::now();
    for number in 0..3 {
        assert_eq!(ask(&memory, &format!("silent {number}")).await, Outcome::Miss);
    }
    // For Redis the silent one is still there.
    until("it listens again", || redis.listeners() == 2).await;
    assert!(is_available(&memory));
    assert_eq!(ask(&memory, "after").await, Outcome::Miss);
    memory.flush().await;
    assert_eq!(ask(&redis.memory().await, "after").await, Outcome::Redis);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_silent_connection_that_only_another_thread_uses_is_replaced() {
    const THREADS: usize = 8;
    let Some(redis) = Redis::start("half-open-elsewhere") else { return };
    let (url, silence) = redis.proxy().await;
    let memory = Redis::memory_over(&url).await;
    until("it listens", || redis.listeners() == 1).await;
    let other = redis.memory().await;
    // How many of some new threads find what the other replica has remembered.
    let found_by_threads = async |round: usize| {
        for thread in 0..THREADS {
            ask(&other, &format!("{round} {thread}")).await;
        }
        other.flush().await;
        let mut found = 0;
        for thread in 0..THREADS {
            let (memory, here) = (memory.clone(), Handle::current());
            let image = format!("{round} {thread}");
            let asked = thread::spawn(move || here.block_on(ask(&memory, &image)));
            found += usize::from(spawn_blocking(|| asked.join().unwrap()).await.unwrap() == Outcome::Redis);
        }
        found
    };
    assert_eq!(found_by_threads(0).await, THREADS);
    silence.notify_last();
    for round in 1..20 {
        if found_by_threads(round).await == THREADS && round > 1 {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it was not replaced");
}

#[tokio::test]
async fn what_one_replica_forgets_all_forget() {
    let Some(redis) = Redis::start("forget") else { return };
    let (first, second) = (redis.memory().await, redis.memory().await);
    ask(&first, "a").await;
    ask(&first, "b").await;
    first.flush().await;
    ask(&second, "a").await;
    assert_eq!(ask(&second, "a").await, Outcome::Near);
    assert_eq!(first.forget("leukemia").await.unwrap(), 0);
    assert_eq!(first.forget("mnist").await.unwrap(), 2);
    let begun = Instant::now();
    while second.recall(key("a"), "mnist").await.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the other replica still remembers");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask(&first, "a").await, Outcome::Miss);
    // On its way to Redis, or there already: forgotten either way.
    assert_eq!(first.forget("mnist").await.unwrap(), 1);
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}
