use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use open_inference::{Datatype, Provenance, Tensor};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::keys::Input;

const MODEL: &str = "mnist";

fn key(digest: &str, image: &str) -> AnswerKey {
    AnswerKey::new("ui", MODEL, "1", digest, Input::Image(image.as_bytes()))
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

fn value(entry: &Entry) -> f32 {
    entry.inference.outputs[0].to_f32()[0]
}

fn memory() -> Memory<String> {
    Memory::new(1 << 20, Duration::from_mins(1), None)
}

async fn ask(memory: &Memory<String>, image: &str, runs: &AtomicUsize) -> Result<(f32, Outcome), Failure<String>> {
    let infer = async {
        runs.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(50)).await;
        if image == "bad" { Err("bad".to_owned().into()) } else { Ok(inference("d1", 7.0)) }
    };
    let key_of = |inference: &Inference| key(&inference.provenance.model_digest, image);
    let (entry, outcome) =
        memory.recall_or_infer(key("d1", image), MODEL, Priority::Interactive, key_of, infer).await?;
    Ok((value(&entry), outcome))
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
    assert_eq!(outcomes.iter().filter(|answer| **answer == (7.0, Outcome::Miss)).count(), 1);
    assert_eq!(outcomes.iter().filter(|answer| **answer == (7.0, Outcome::Collapsed)).count(), 99);
    assert_eq!(ask(&memory, "seven", &runs).await.unwrap(), (7.0, Outcome::Near));
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
    assert_eq!(second.await.unwrap().unwrap(), (7.0, Outcome::Miss));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_never_remembered() {
    let (memory, runs) = (memory(), AtomicUsize::new(0));
    assert!(ask(&memory, "bad", &runs).await.is_err());
    assert!(ask(&memory, "bad", &runs).await.is_err());
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_may_be_anothers_is_told_only_to_its_own_asker() {
    let (memory, runs) = (memory(), AtomicUsize::new(0));
    let batch = async {
        sleep(Duration::from_millis(50)).await;
        Err(Failure { error: "row 3 is no picture".to_owned(), may_be_anothers: true })
    };
    let key_of = |_: &Inference| key("d1", "good");
    let (first, second) = tokio::join!(
        memory.join_or_infer(key("d1", "good"), Priority::Interactive, key_of, batch),
        ask(&memory, "good", &runs)
    );
    assert_eq!(first.unwrap_err().error, "row 3 is no picture");
    assert_eq!(second.unwrap(), (7.0, Outcome::Miss));
}

#[tokio::test]
async fn an_answer_too_large_for_its_share_is_given_but_not_held_near() {
    let memory = memory();
    let data = vec![0; 1 << 18].into();
    let large = Tensor::new("y", Datatype::Uint8, &[1 << 18], data).unwrap();
    let infer = async { Ok::<_, Failure<String>>(Inference { outputs: vec![large], ..inference("d1", 0.0) }) };
    let (entry, outcome) =
        memory.recall_or_infer(key("d1", "x"), MODEL, Priority::Interactive, |_| key("d1", "x"), infer).await.unwrap();
    assert_eq!((entry.inference.outputs[0].len(), outcome), (1 << 18, Outcome::Unstored(NotStored::TooLarge)));
    assert!(memory.recall(key("d1", "x"), MODEL).await.is_none());
}

#[tokio::test]
async fn a_cache_without_room_stores_nothing_and_says_so() {
    let (memory, runs) = (Memory::new(0, Duration::from_mins(1), None), AtomicUsize::new(0));
    for run in 1..=2 {
        let computed = ask(&memory, "seven", &runs).await.unwrap();
        assert_eq!(computed, (7.0, Outcome::Unstored(NotStored::TooLarge)));
        assert_eq!(runs.load(Ordering::SeqCst), run);
    }
}

#[tokio::test]
async fn an_answer_of_a_model_changed_in_mid_flight_is_not_filed_under_the_old_one() {
    let memory = memory();
    let key_of = |inference: &Inference| key(&inference.provenance.model_digest, "x");
    let infer = async { Ok::<_, Failure<String>>(inference("d2", 3.0)) };
    let (entry, outcome) =
        memory.recall_or_infer(key("d1", "x"), MODEL, Priority::Interactive, key_of, infer).await.unwrap();
    assert_eq!((value(&entry), outcome), (3.0, Outcome::Miss));
    assert!(memory.recall(key("d1", "x"), MODEL).await.is_none());
    assert!(memory.recall(key("d2", "x"), MODEL).await.is_some());
}

#[tokio::test]
async fn forgetting_a_model_leaves_the_others() {
    let memory = memory();
    assert_eq!(memory.remember(key("d1", "a"), inference("d1", 1.0)).1, Ok(()));
    let other = Inference { model: "leukemia".to_owned(), ..inference("d1", 2.0) };
    assert_eq!(memory.remember(key("d1", "b"), other).1, Ok(()));
    assert_eq!(memory.forget(MODEL).await.unwrap(), 1);
    assert!(memory.recall(key("d1", "a"), MODEL).await.is_none());
    assert!(memory.recall(key("d1", "b"), "leukemia").await.is_some());
}
