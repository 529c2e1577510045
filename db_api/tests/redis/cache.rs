//! Result cache with a real Redis, and with one that is killed, hung or full of garbage.

use std::thread;
use std::time::{Duration, Instant};

use db_api::cache::{CacheKey, CacheOutcome, Failure, KeyInput, NotStored, Priority, RedisStore, ResultCache};
use db_api::metrics::CacheMetrics;
use http::HeaderMap;
use open_inference::{Datatype, Inference, Provenance, Tensor};
use redis::Commands;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::server::{Redis, wait_until};

/// Timeout of a command. Longer than in production, so that a busy machine does not cause timeouts.
const TIMEOUT: Duration = Duration::from_millis(250);

impl Redis {
    /// The cache of a replica with its background task, once Redis is available.
    async fn cache(&self) -> ResultCache<String> {
        Self::cache_over(&self.url()).await
    }

    async fn cache_over(url: &str) -> ResultCache<String> {
        let ttl = Duration::from_hours(1);
        let store = RedisStore::new(url, TIMEOUT, ttl, CacheMetrics::default()).unwrap();
        let cache = ResultCache::new(1 << 20, ttl, Some(store));
        tokio::spawn(cache.clone().run());
        wait_until("Redis is available", || is_available(&cache)).await;
        cache
    }
}

fn is_available(cache: &ResultCache<String>) -> bool {
    cache.redis().unwrap().is_available()
}

fn key(image: &str) -> CacheKey {
    CacheKey::new("ui", "mnist", "1", "sha256:d", KeyInput::Image(image.as_bytes()))
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

async fn get_or_compute(cache: &ResultCache<String>, image: &str) -> CacheOutcome {
    let compute = async { Ok::<_, Failure<String>>(inference()) };
    let (entry, outcome) =
        cache.get_or_compute(key(image), "mnist", Priority::Interactive, |_| key(image), compute).await.unwrap();
    assert_eq!(entry.inference.outputs, inference().outputs);
    assert_eq!(entry.inference.provenance, inference().provenance);
    outcome
}

#[tokio::test]
async fn another_process_gets_a_stored_result() {
    let Some(redis) = Redis::start("share") else { return };
    let first = redis.cache().await;
    assert_eq!(get_or_compute(&first, "a").await, CacheOutcome::Miss);
    assert_eq!(get_or_compute(&first, "a").await, CacheOutcome::LocalHit);
    first.flush().await;
    let second = redis.cache().await;
    assert_eq!(get_or_compute(&second, "a").await, CacheOutcome::RedisHit);
    assert_eq!(get_or_compute(&second, "a").await, CacheOutcome::LocalHit);
}

#[tokio::test]
async fn every_key_contains_its_model_and_may_be_evicted() {
    let Some(redis) = Redis::start("readable") else { return };
    let cache = redis.cache().await;
    get_or_compute(&cache, "a").await;
    get_or_compute(&cache, "b").await;
    cache.flush().await;
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
async fn a_value_that_is_not_a_result_of_its_key_is_a_miss() {
    let Some(redis) = Redis::start("garbage") else { return };
    let cache = redis.cache().await;
    get_or_compute(&cache, "a").await;
    cache.flush().await;
    let mut client = redis.client();
    let stored: String = client.keys::<_, Vec<String>>("*").unwrap().remove(0);
    let other_result: Vec<u8> = client.get(&stored).unwrap();
    let hex = key("x").to_string().replace("sha256:", "");
    let name = format!("mlserve:answer:mnist:{hex}");
    let cut = &other_result[..other_result.len() - 1];
    let values: [&[u8]; 5] = [b"__import__('os')", b"{\"key\":\"x\"}", cut, &other_result, &vec![b'7'; 16 << 20]];
    for value in values {
        let _: () = client.set_ex(&name, value, 60).unwrap();
        let fresh = redis.cache().await;
        assert_eq!(get_or_compute(&fresh, "x").await, CacheOutcome::Miss);
        fresh.flush().await;
    }
    assert_eq!(get_or_compute(&redis.cache().await, "x").await, CacheOutcome::RedisHit, "the garbage is replaced");
}

#[tokio::test]
async fn a_result_too_large_for_redis_is_returned_and_not_written() {
    let Some(redis) = Redis::start("large") else { return };
    let cache = redis.cache().await;
    let large = Tensor::new("y", Datatype::Uint8, &[5 << 20], vec![0; 5 << 20].into()).unwrap();
    let (_, storage) = cache.put(key("large"), Inference { outputs: vec![large], ..inference() });
    assert_eq!(storage, Err(NotStored::TooLarge));
    cache.flush().await;
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
    assert!(is_available(&cache));
}

#[tokio::test]
async fn a_result_that_only_redis_has_room_for_is_stored_while_redis_responds() {
    let Some(redis) = Redis::start("room") else { return };
    let cache = redis.cache().await;
    let put = |name: &str, bytes: usize| {
        let output =
            Tensor::new("y", Datatype::Uint8, &[i64::try_from(bytes).unwrap()], vec![0; bytes].into()).unwrap();
        cache.put(key(name), Inference { outputs: vec![output], ..inference() }).1
    };
    // An eighth of the local cache of 1 MiB is less than this, and Redis takes 4 MiB.
    assert_eq!(put("before", 1 << 18), Ok(()));
    cache.flush().await;
    let found = redis.cache().await.get(key("before"), "mnist").await;
    assert_eq!(found.map(|(_, outcome)| outcome), Some(CacheOutcome::RedisHit));

    redis.signal("-KILL");
    wait_until("the breaker opens", || !is_available(&cache)).await;
    assert_eq!(put("after", 1 << 18), Err(NotStored::RedisUnavailable));
    assert_eq!(put("too large for both", 5 << 20), Err(NotStored::TooLarge));
    assert_eq!(put("small", 1 << 10), Ok(()), "the local cache stores it");
}

#[tokio::test]
async fn a_result_is_not_reported_as_stored_when_too_many_writes_are_queued() {
    let Some(redis) = Redis::start("queue") else { return };
    let cache = redis.cache().await;
    redis.signal("-STOP");
    let put = |number: usize| {
        let output = Tensor::new("y", Datatype::Uint8, &[3 << 20], vec![0; 3 << 20].into()).unwrap();
        cache.put(key(&number.to_string()), Inference { outputs: vec![output], ..inference() }).1
    };
    // 64 MiB may be queued, which is 21 of them. No write ends meanwhile: nothing here waits.
    let stored: Vec<_> = (0..22).map(put).collect();
    assert!(stored[..21].iter().all(Result::is_ok), "{stored:?}");
    assert_eq!(stored[21], Err(NotStored::RedisUnavailable));
    redis.signal("-CONT");
}

#[tokio::test]
async fn many_results_are_found_in_the_order_of_their_keys() {
    let Some(redis) = Redis::start("many") else { return };
    let first = redis.cache().await;
    let keys: Vec<_> = (0..300).map(|number| key(&number.to_string())).collect();
    for key in keys.iter().step_by(3) {
        assert_eq!(first.put(*key, inference()).1, Ok(()));
    }
    first.flush().await;
    let found = redis.cache().await.get_all(&keys, "mnist").await;
    for (number, (found, key)) in found.iter().zip(&keys).enumerate() {
        let found = found.as_ref().map(|(entry, outcome)| (entry.key, *outcome));
        assert_eq!(found, (number % 3 == 0).then_some((*key, CacheOutcome::RedisHit)));
    }
}

#[tokio::test]
async fn a_dead_redis_costs_nothing_and_is_used_again_after_a_restart() {
    let Some(mut redis) = Redis::start("dead") else { return };
    let cache = redis.cache().await;
    redis.signal("-KILL");
    wait_until("the breaker opens", || !is_available(&cache)).await;
    let started = Instant::now();
    for number in 0..200 {
        assert_eq!(get_or_compute(&cache, &format!("dead {number}")).await, CacheOutcome::Miss);
    }
    assert!(started.elapsed() < 20 * TIMEOUT, "200 misses took {:?}", started.elapsed());
    redis.restart();
    wait_until("Redis is available again", || is_available(&cache)).await;
    get_or_compute(&cache, "after").await;
    cache.flush().await;
    assert_eq!(get_or_compute(&redis.cache().await, "after").await, CacheOutcome::RedisHit);
}

#[tokio::test]
async fn a_hung_redis_costs_a_few_timeouts_and_then_nothing() {
    let Some(redis) = Redis::start("hung") else { return };
    let cache = redis.cache().await;
    redis.signal("-STOP");
    let started = Instant::now();
    for number in 0..200 {
        assert_eq!(get_or_compute(&cache, &format!("hung {number}")).await, CacheOutcome::Miss);
    }
    // Without the circuit breaker: 200 timeouts, 50 s.
    assert!(started.elapsed() < 20 * TIMEOUT, "200 misses took {:?}", started.elapsed());
    redis.signal("-CONT");
    wait_until("Redis is available again", || is_available(&cache)).await;
}

#[tokio::test]
async fn a_half_open_connection_is_replaced() {
    let Some(redis) = Redis::start("half-open") else { return };
    let (url, silence) = redis.proxy().await;
    let cache = Redis::cache_over(&url).await;
    wait_until("the cache subscribes", || redis.subscribers() == 1).await;
    silence.notify_waiters();
    let started = Instant::now();
    for number in 0..3 {
        assert_eq!(get_or_compute(&cache, &format!("silent {number}")).await, CacheOutcome::Miss);
    }
    // Redis still counts the silent subscription.
    wait_until("the cache subscribes again", || redis.subscribers() == 2).await;
    assert!(is_available(&cache));
    assert_eq!(get_or_compute(&cache, "after").await, CacheOutcome::Miss);
    cache.flush().await;
    assert_eq!(get_or_compute(&redis.cache().await, "after").await, CacheOutcome::RedisHit);
    assert!(started.elapsed() < Duration::from_secs(5), "replacing it took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_half_open_connection_of_another_thread_is_replaced() {
    const THREADS: usize = 8;
    let Some(redis) = Redis::start("half-open-elsewhere") else { return };
    let (url, silence) = redis.proxy().await;
    let cache = Redis::cache_over(&url).await;
    wait_until("the cache subscribes", || redis.subscribers() == 1).await;
    let other = redis.cache().await;
    // How many of some new threads get results that the other replica stored.
    let found_by_threads = async |round: usize| {
        for thread in 0..THREADS {
            get_or_compute(&other, &format!("{round} {thread}")).await;
        }
        other.flush().await;
        let mut found = 0;
        for thread in 0..THREADS {
            let (cache, here) = (cache.clone(), Handle::current());
            let image = format!("{round} {thread}");
            let lookup = thread::spawn(move || here.block_on(get_or_compute(&cache, &image)));
            found += usize::from(spawn_blocking(|| lookup.join().unwrap()).await.unwrap() == CacheOutcome::RedisHit);
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
    panic!("the connection was not replaced");
}

#[tokio::test]
async fn an_invalidation_reaches_all_replicas() {
    let Some(redis) = Redis::start("forget") else { return };
    let (first, second) = (redis.cache().await, redis.cache().await);
    get_or_compute(&first, "a").await;
    get_or_compute(&first, "b").await;
    first.flush().await;
    get_or_compute(&second, "a").await;
    assert_eq!(get_or_compute(&second, "a").await, CacheOutcome::LocalHit);
    assert_eq!(first.invalidate_model("leukemia").await.unwrap(), 0);
    assert_eq!(first.invalidate_model("mnist").await.unwrap(), 2);
    let started = Instant::now();
    while second.get(key("a"), "mnist").await.is_some() {
        assert!(started.elapsed() < Duration::from_secs(5), "the other replica still has the result");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(get_or_compute(&first, "a").await, CacheOutcome::Miss);
    // Deleted whether it is queued for Redis or already written.
    assert_eq!(first.invalidate_model("mnist").await.unwrap(), 1);
    assert!(redis.client().keys::<_, Vec<String>>("*").unwrap().is_empty());
}
