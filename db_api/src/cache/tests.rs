use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use open_inference::{Datatype, Provenance, Tensor};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

const MODEL: &str = "mnist";

fn key(digest: &str, image: &str) -> CacheKey {
    CacheKey::new("ui", MODEL, "1", digest, KeyInput::Image(image.as_bytes()))
}

fn inference(model_digest: &str, value: f32) -> Inference {
    Inference {
        model: MODEL.to_owned(),
        version: "1".to_owned(),
        outputs: vec![Tensor::from_f32("y", Datatype::Fp32, vec![1], &[value]).unwrap()],
        provenance: Provenance { model_digest: model_digest.to_owned(), ..Default::default() },
        headers: HeaderMap::new(),
    }
}

fn value(entry: &CacheEntry) -> f32 {
    entry.inference.outputs[0].to_f32()[0]
}

fn cache() -> ResultCache<String> {
    ResultCache::new(1 << 20, Duration::from_mins(1), None)
}

async fn get_or_compute(
    cache: &ResultCache<String>,
    image: &str,
    runs: &AtomicUsize,
) -> Result<(f32, CacheOutcome), Failure<String>> {
    let compute = async {
        runs.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(50)).await;
        if image == "bad" { Err("bad".to_owned().into()) } else { Ok(inference("d1", 7.0)) }
    };
    let key_of = |inference: &Inference| key(&inference.provenance.model_digest, image);
    let (entry, outcome) =
        cache.get_or_compute(key("d1", image), MODEL, Priority::Interactive, key_of, compute).await?;
    Ok((value(&entry), outcome))
}

#[tokio::test(start_paused = true)]
async fn a_hundred_concurrent_callers_share_one_computation() {
    let (cache, runs) = (cache(), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (cache, runs) = (cache.clone(), Arc::clone(&runs));
        callers.spawn(async move { get_or_compute(&cache, "seven", &runs).await.unwrap() });
    }
    let outcomes = callers.join_all().await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(outcomes.iter().filter(|result| **result == (7.0, CacheOutcome::Miss)).count(), 1);
    assert_eq!(outcomes.iter().filter(|result| **result == (7.0, CacheOutcome::Collapsed)).count(), 99);
    assert_eq!(get_or_compute(&cache, "seven", &runs).await.unwrap(), (7.0, CacheOutcome::LocalHit));
}

#[tokio::test(start_paused = true)]
async fn the_next_caller_takes_over_when_the_first_is_dropped() {
    let (cache, runs) = (cache(), Arc::new(AtomicUsize::new(0)));
    let first = tokio::spawn({
        let (cache, runs) = (cache.clone(), Arc::clone(&runs));
        async move { get_or_compute(&cache, "seven", &runs).await }
    });
    sleep(Duration::from_millis(10)).await;
    let second = tokio::spawn({
        let (cache, runs) = (cache.clone(), Arc::clone(&runs));
        async move { get_or_compute(&cache, "seven", &runs).await }
    });
    sleep(Duration::from_millis(10)).await;
    first.abort();
    assert_eq!(second.await.unwrap().unwrap(), (7.0, CacheOutcome::Miss));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_never_cached() {
    let (cache, runs) = (cache(), AtomicUsize::new(0));
    assert!(get_or_compute(&cache, "bad", &runs).await.is_err());
    assert!(get_or_compute(&cache, "bad", &runs).await.is_err());
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_shared_fault_is_returned_only_to_the_caller_that_computed() {
    let (cache, runs) = (cache(), AtomicUsize::new(0));
    let batch = async {
        sleep(Duration::from_millis(50)).await;
        Err(Failure { error: "row 3 is not an image".to_owned(), is_shared_fault: true })
    };
    let key_of = |_: &Inference| key("d1", "good");
    let (first, second) = tokio::join!(
        cache.join_or_compute(key("d1", "good"), Priority::Interactive, key_of, batch),
        get_or_compute(&cache, "good", &runs)
    );
    assert_eq!(first.unwrap_err().error, "row 3 is not an image");
    assert_eq!(second.unwrap(), (7.0, CacheOutcome::Miss));
}

#[tokio::test]
async fn a_result_too_large_for_the_local_cache_is_returned_and_not_stored() {
    let cache = cache();
    let data = vec![0; 1 << 18].into();
    let large = Tensor::new("y", Datatype::Uint8, &[1 << 18], data).unwrap();
    let compute = async { Ok::<_, Failure<String>>(Inference { outputs: vec![large], ..inference("d1", 0.0) }) };
    let (entry, outcome) =
        cache.get_or_compute(key("d1", "x"), MODEL, Priority::Interactive, |_| key("d1", "x"), compute).await.unwrap();
    assert_eq!((entry.inference.outputs[0].len(), outcome), (1 << 18, CacheOutcome::Unstored(NotStored::TooLarge)));
    assert!(cache.get(key("d1", "x"), MODEL).await.is_none());
}

#[tokio::test]
async fn a_cache_without_capacity_stores_nothing_and_reports_it() {
    let (cache, runs) = (ResultCache::new(0, Duration::from_mins(1), None), AtomicUsize::new(0));
    for run in 1..=2 {
        let computed = get_or_compute(&cache, "seven", &runs).await.unwrap();
        assert_eq!(computed, (7.0, CacheOutcome::Unstored(NotStored::TooLarge)));
        assert_eq!(runs.load(Ordering::SeqCst), run);
    }
}

#[tokio::test]
async fn a_result_of_a_model_replaced_meanwhile_is_stored_under_the_new_version() {
    let cache = cache();
    let key_of = |inference: &Inference| key(&inference.provenance.model_digest, "x");
    let compute = async { Ok::<_, Failure<String>>(inference("d2", 3.0)) };
    let (entry, outcome) =
        cache.get_or_compute(key("d1", "x"), MODEL, Priority::Interactive, key_of, compute).await.unwrap();
    assert_eq!((value(&entry), outcome), (3.0, CacheOutcome::Miss));
    assert!(cache.get(key("d1", "x"), MODEL).await.is_none());
    assert!(cache.get(key("d2", "x"), MODEL).await.is_some());
}

#[tokio::test]
async fn invalidating_a_model_keeps_the_others() {
    let cache = cache();
    assert_eq!(cache.put(key("d1", "a"), inference("d1", 1.0)).1, Ok(()));
    let other = Inference { model: "leukemia".to_owned(), ..inference("d1", 2.0) };
    assert_eq!(cache.put(key("d1", "b"), other).1, Ok(()));
    assert_eq!(cache.invalidate_model(MODEL).await.unwrap(), 1);
    assert!(cache.get(key("d1", "a"), MODEL).await.is_none());
    assert!(cache.get(key("d1", "b"), "leukemia").await.is_some());
}
