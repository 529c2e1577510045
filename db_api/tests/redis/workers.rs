//! Workers that die, that drop what they took, and that hand it back.

use db_api::jobs::{Jobs, Outcome, Status};
use tokio::time::sleep;

use crate::jobs::{LIMITS, answer, answer_all, buried_in, job, local, over, state, take};
use crate::server::Redis;

/// The consumer of the entry of `delivery` has not been heard of for longer than [`JobLimits::claim_after`].
async fn silence() {
    sleep(LIMITS.claim_after * 2).await;
}

#[tokio::test]
async fn an_input_fails_after_the_third_death_of_a_worker_that_had_begun_with_it() {
    let Some(redis) = Redis::start("jobs-death") else { return };
    let id = over(&redis).submit(job(&["a", "b"])).await.unwrap();
    let lives = over(&redis);
    let dies = over(&redis);
    let held = take(&dies, 10).await;
    assert_eq!(held.len(), 2);
    dies.begin(&held[0]).await.unwrap().unwrap();
    dies.begin(&held[1]).await.unwrap().unwrap();
    assert!(lives.take_over("m", 10).await.unwrap().is_empty(), "it may still be alive");
    silence().await;
    let taken = lives.take_over("m", 1).await.unwrap();
    assert_eq!(taken, [held[0].clone()]);
    lives.begin(&taken[0]).await.unwrap();
    assert!(lives.finish(&taken[0], &answer("a")).await.unwrap());
    for _ in 0..2 {
        let dies = over(&redis);
        let taken = dies.take_over("m", 10).await.unwrap();
        assert_eq!(taken, [held[1].clone()]);
        dies.begin(&taken[0]).await.unwrap().unwrap();
        silence().await;
    }
    assert!(lives.take_over("m", 10).await.unwrap().is_empty(), "three have died over it");
    let buried = state(&lives, id).await;
    assert_eq!((buried.failed, buried.dead, buried.status), (1, 1, Status::Failed));
    let words = "{\"status\":500,\"detail\":\"the worker died 3 times while it worked on this input\"}";
    let Some(Outcome::Error(reason)) = lives.results(id, &[1], usize::MAX).await.unwrap().remove(0) else {
        panic!("no error")
    };
    let as_value = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap();
    assert_eq!(as_value(&reason), as_value(words));
    assert_eq!(buried_in(&redis), 1);
    assert_eq!(lives.retry(id).await.unwrap(), Some(1));
    assert_eq!(buried_in(&redis), 0);
    answer_all(&lives).await;
    assert_eq!(state(&lives, id).await.status, Status::Succeeded);
}

#[tokio::test]
async fn an_input_that_a_living_worker_dropped_or_a_dead_one_never_began_is_not_counted_as_a_death() {
    let Some(redis) = Redis::start("jobs-no-death") else { return };
    let id = over(&redis).submit(job(&["a", "b", "c"])).await.unwrap();
    let lives = over(&redis);
    let held = take(&lives, 3).await;
    for delivery in &held[..2] {
        lives.begin(delivery).await.unwrap().unwrap();
    }
    for _ in 0..4 {
        silence().await;
        // The first input is worked on. The second was begun and dropped, the third was never fetched.
        lives.beat("m", std::slice::from_ref(&held[0].entry)).await.unwrap();
        assert_eq!(over(&redis).take_over("m", 10).await.unwrap(), held[1..]);
    }
    for _ in 0..4 {
        silence().await;
        lives.beat("m", std::slice::from_ref(&held[0].entry)).await.unwrap();
        let taken = lives.take_over("m", 10).await.unwrap();
        assert_eq!(taken, held[1..]);
        lives.begin(&taken[0]).await.unwrap().unwrap();
    }
    assert_eq!(state(&lives, id).await.failed, 0);
}

/// What a worker that stops does with inputs that it has not finished.
async fn takes_back_what_a_worker_does_not_finish(works: Jobs, other: Jobs) {
    let id = works.submit(job(&["a", "b", "c"])).await.unwrap();
    let mut held = take(&works, 3).await;
    for _ in 0..5 {
        for delivery in &held {
            assert!(works.begin(delivery).await.unwrap().is_some());
        }
        works.hand_back(&held).await.unwrap();
        held = take(&works, 3).await;
        assert_eq!(held.iter().map(|delivery| delivery.index).collect::<Vec<_>>(), [0, 1, 2], "at once, in order");
    }
    assert!(works.begin(&held[0]).await.unwrap().is_some());
    assert!(works.finish(&held[0], &answer("a")).await.unwrap());
    works.hand_back(&held).await.unwrap();
    let taken = take(&other, 3).await;
    assert_eq!(taken.iter().map(|delivery| delivery.index).collect::<Vec<_>>(), [1, 2], "one has ended");
    for delivery in &taken {
        other.begin(delivery).await.unwrap().unwrap();
    }
    assert!(other.cancel(id).await.unwrap());
    other.hand_back(&taken).await.unwrap();
    assert!(take(&other, 3).await.is_empty(), "the job has ended");
}

#[tokio::test]
async fn the_queue_in_redis_takes_back_what_a_worker_does_not_finish() {
    let Some(redis) = Redis::start("jobs-hand-back") else { return };
    let (works, other) = (over(&redis), over(&redis));
    takes_back_what_a_worker_does_not_finish(works.clone(), other.clone()).await;
    assert_eq!(buried_in(&redis), 0);
    // What another worker has taken over is not handed back by the first one.
    works.submit(job(&["a"])).await.unwrap();
    let held = take(&works, 1).await;
    silence().await;
    assert_eq!(other.take_over("m", 1).await.unwrap(), held);
    works.hand_back(&held).await.unwrap();
    assert!(take(&works, 1).await.is_empty());
}

#[tokio::test]
async fn the_queue_in_the_process_takes_back_what_a_worker_does_not_finish() {
    let jobs = local();
    takes_back_what_a_worker_does_not_finish(jobs.clone(), jobs).await;
}
