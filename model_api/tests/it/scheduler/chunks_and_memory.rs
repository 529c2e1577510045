//! Chunks of large requests, memory limits of sessions, and slow requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use model_api::memory::LimitExceeded;
use model_api::metrics::{Metrics, ModelLabel};
use model_api::onnx::analysis::{GraphFacts, RowAnalysis};
use model_api::scheduler::{BatchSettings, Pool, PoolSettings, Priority, QueueLimits, RunError, RunOutput};
use model_api::session::SessionInfo;
use open_inference::Tensor;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep};

use super::{always_unchanged, session_config};
use crate::support::fake::{
    CRASH, EXCEED_MEMORY, Fake, GROW, HANG, IGNORE_CANCEL, REJECT, RUN_LONG, input, session_info,
};

const RUN_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of one session whose `max_batch_size` is 3.
async fn start(fake: &Fake) -> (Arc<Pool>, Metrics) {
    start_with(fake, None).await
}

async fn start_with(fake: &Fake, independent_rows: Option<bool>) -> (Arc<Pool>, Metrics) {
    let metrics = Metrics::register(&mut Registry::default());
    let settings = PoolSettings {
        model_bytes: 1000,
        sessions: 1,
        queue: QueueLimits { rows: 8, bytes: 1 << 20 },
        batch: BatchSettings::new(3, Duration::ZERO, independent_rows, RUN_TIMEOUT),
        metrics: metrics.pool_metrics("m"),
    };
    let pool = Arc::new(Pool::start(fake, &session_config(always_unchanged()), &settings));
    pool.ready(|_| ()).await.unwrap();
    (pool, metrics)
}

/// A request of rows that begin with these numbers.
fn rows(firsts: &[f32]) -> Vec<Tensor> {
    let rows: Vec<Tensor> = firsts.iter().map(|&first| input(first).remove(0)).collect();
    vec![Tensor::concat_rows(&rows.iter().collect::<Vec<_>>()).unwrap()]
}

/// `count` rows of different numbers.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|number| number as f32 / 64.0).collect()
}

async fn run(pool: &Pool, firsts: &[f32]) -> Result<Vec<f32>, RunError> {
    pool.run(rows(firsts), Priority::Interactive).await.map(|output| firsts_of(&output))
}

fn firsts_of(output: &RunOutput) -> Vec<f32> {
    assert_eq!(output.outputs[0].shape, [output.outputs[0].shape[0], 4]);
    output.outputs[0].to_f32().chunks(4).map(|row| row[0]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_of_more_rows_than_a_batch_runs_in_chunks_and_has_all_rows_in_order() {
    let fake = Fake::default();
    let (pool, metrics) = start(&fake).await;
    // More rows than the limit of the queue, which is empty.
    assert_eq!(run(&pool, &numbers(11)).await, Ok(numbers(11)));
    assert_eq!(fake.runs(), 4, "3 + 3 + 3 + 2 rows");
    let runs = metrics.runs.get_or_create(&ModelLabel { model: "m".to_owned() }).get();
    assert_eq!(runs, 4);
}

#[tokio::test(start_paused = true)]
async fn dependent_rows_run_as_a_whole() {
    for independent in [None, Some(false)] {
        let rows = RowAnalysis::Dependent("ReduceMax".to_owned());
        let fake = Fake::default()
            .with_info(SessionInfo { facts: GraphFacts { rows, ..GraphFacts::default() }, ..session_info() });
        let (pool, _) = start_with(&fake, independent).await;
        assert_eq!(run(&pool, &numbers(11)).await, Ok(numbers(11)));
        assert_eq!(fake.runs(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_runs_as_a_whole_if_its_outputs_have_no_rows() {
    let rows = RowAnalysis::Independent;
    let info = SessionInfo { facts: GraphFacts { rows, ..GraphFacts::default() }, ..session_info() };
    let fake = Fake::returning_one_row().with_info(info);
    let (pool, _) = start_with(&fake, Some(true)).await;
    assert_eq!(run(&pool, &numbers(7)).await, Ok(numbers(1)));
    assert_eq!(fake.runs(), 2, "one chunk, and then all rows");
    assert_eq!(run(&pool, &numbers(7)).await, Ok(numbers(1)));
    assert_eq!(fake.runs(), 3, "the policy has been revoked");
}

#[tokio::test(start_paused = true)]
async fn a_failed_chunk_fails_the_request_with_its_rows_and_skips_the_rest() {
    for (bad, cause) in [(REJECT, RunError::Rejected("no such input".to_owned())), (CRASH, RunError::Crashed)] {
        let fake = Fake::default();
        let (pool, _) = start(&fake).await;
        let mut firsts = numbers(11);
        firsts[4] = bad;
        let error = run(&pool, &firsts).await.unwrap_err();
        assert_eq!(error, RunError::Rows { first: 3, last: 5, error: Box::new(cause) });
        assert!(error.to_string().starts_with("Rows 3 to 5: "), "{error}");
        assert!(fake.runs() <= 3, "{} runs", fake.runs());
    }
}

#[tokio::test(start_paused = true)]
async fn other_requests_run_between_the_chunks() {
    let fake = Fake::default().with_run_time(Duration::from_millis(20));
    let (pool, _) = start(&fake).await;
    let started_at = Instant::now();
    let large = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { run(&pool, &numbers(60)).await.map(|rows| (rows, Instant::now())) }
    });
    sleep(Duration::from_millis(30)).await;
    run(&pool, &[0.5]).await.unwrap();
    assert!(started_at.elapsed() < Duration::from_millis(120), "{:?}", started_at.elapsed());
    assert_eq!(large.await.unwrap().unwrap().0, numbers(60));
}

#[tokio::test(start_paused = true)]
async fn a_started_request_finishes_under_any_load() {
    let fake = Fake::default().with_run_time(Duration::from_millis(20));
    let (pool, _) = start(&fake).await;
    let firsts = numbers(12);
    let large = run(&pool, &firsts);
    let others = async {
        let mut others = Vec::new();
        for _ in 0..40 {
            sleep(Duration::from_millis(5)).await;
            let pool = Arc::clone(&pool);
            others.push(tokio::spawn(async move { run(&pool, &[0.5]).await }));
        }
        join_all(others).await
    };
    let (large, others) = tokio::join!(large, others);
    assert_eq!(large, Ok(numbers(12)));
    assert!(others.into_iter().all(|other| matches!(other.unwrap(), Ok(_) | Err(RunError::QueueFull { .. }))));
}

#[tokio::test(start_paused = true)]
async fn remaining_chunks_do_not_run_after_the_caller_disconnects() {
    let fake = Fake::default().with_run_time(Duration::from_millis(20));
    let (pool, _) = start(&fake).await;
    let large = tokio::time::timeout(Duration::from_millis(30), run(&pool, &numbers(60))).await;
    assert!(large.is_err());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fake.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_run_timeout_limits_the_sum_of_all_chunks() {
    let rows = RowAnalysis::Independent;
    let info = SessionInfo { facts: GraphFacts { rows, ..GraphFacts::default() }, ..session_info() };
    let fake = Fake::default().with_run_time(Duration::from_secs(8)).with_info(info);
    let (pool, _) = start(&fake).await;
    let started_at = Instant::now();
    assert_eq!(run(&pool, &numbers(60)).await, Err(RunError::TimedOut(RUN_TIMEOUT)));
    assert!(started_at.elapsed() < RUN_TIMEOUT + Duration::from_secs(8), "{:?}", started_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_the_request_that_exceeds_the_memory_limit_gets_an_error() {
    let fake = Fake::default().with_run_time(Duration::from_millis(5));
    let (pool, _) = start(&fake).await;
    let (_, good, bad, other) =
        tokio::join!(run(&pool, &[0.25]), run(&pool, &[0.5]), run(&pool, &[EXCEED_MEMORY]), run(&pool, &[0.75]));
    assert_eq!((good, other), (Ok(vec![0.5]), Ok(vec![0.75])));
    let bad = bad.unwrap_err();
    assert_eq!(bad, RunError::OutOfMemory(LimitExceeded::PerSession(1 << 30)));
    assert!(bad.to_string().contains("SESSION_MEMORY_BYTES"), "{bad}");
    let runs = fake.runs();
    assert_eq!(run(&pool, &[EXCEED_MEMORY]).await, Err(bad), "it is quarantined");
    assert_eq!(fake.runs(), runs);
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_memory_has_grown_is_replaced_without_failed_requests() {
    // The new session starts beside the old one if there is memory for both, otherwise after it.
    for available in [1 << 40, 0] {
        let fake = Fake::default();
        fake.available_memory.store(available, Ordering::SeqCst);
        let (pool, metrics) = start(&fake).await;
        assert_eq!(run(&pool, &[GROW]).await, Ok(vec![GROW]));
        for _ in 0..40 {
            sleep(Duration::from_millis(50)).await;
            assert_eq!(run(&pool, &[0.5]).await, Ok(vec![0.5]));
        }
        assert_eq!(fake.launches(), 2, "with {available} bytes available");
        let label = ModelLabel { model: "m".to_owned() };
        assert_eq!(metrics.session_replacements.get_or_create(&label).get(), 1);
        assert_eq!(metrics.session_restarts.get_or_create(&label).get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_does_not_grow_is_not_replaced() {
    let fake = Fake::default();
    let (pool, _) = start(&fake).await;
    for _ in 0..10 {
        assert_eq!(run(&pool, &[0.5]).await, Ok(vec![0.5]));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn hanging_requests_delay_others_by_less_than_one_run_timeout() {
    for hang in [HANG, IGNORE_CANCEL] {
        let fake = Fake::default().with_run_time(Duration::from_millis(5));
        let (pool, _) = start(&fake).await;
        run(&pool, &[0.25]).await.unwrap();
        let hanging: Vec<_> = (0..4)
            .map(|_| {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move { run(&pool, &[hang]).await })
            })
            .collect();
        sleep(Duration::from_millis(50)).await;
        for _ in 0..10 {
            let started_at = Instant::now();
            assert_eq!(run(&pool, &[0.5]).await, Ok(vec![0.5]));
            assert!(started_at.elapsed() < RUN_TIMEOUT, "{:?}", started_at.elapsed());
            sleep(Duration::from_secs(1)).await;
        }
        for hanging in hanging {
            assert_eq!(hanging.await.unwrap(), Err(RunError::TimedOut(RUN_TIMEOUT)));
        }
        // The session of the slow lane has ended.
        sleep(Duration::from_secs(30)).await;
        assert_eq!(run(&pool, &[0.5]).await, Ok(vec![0.5]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_finishes_on_the_slow_lane() {
    let fake = Fake::default().with_run_time(Duration::from_millis(5));
    let (pool, _) = start(&fake).await;
    run(&pool, &[0.25]).await.unwrap();
    let long = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { run(&pool, &[RUN_LONG]).await }
    });
    for _ in 0..20 {
        sleep(Duration::from_millis(500)).await;
        assert_eq!(run(&pool, &[0.5]).await, Ok(vec![0.5]));
    }
    assert_eq!(long.await.unwrap(), Ok(vec![RUN_LONG]));
    assert_eq!(fake.launches(), 2);
}
