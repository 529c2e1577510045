//! Which requests share a batch, and how a failed batch is split.

use std::time::Duration;

use futures_util::future::join_all;
use model_api::onnx::analysis::{GraphFacts, RowAnalysis};
use model_api::scheduler::{BatchSettings, Priority, RunError};
use model_api::session::SessionInfo;
use open_inference::{Datatype, RowDependence, Tensor};
use tokio::time::Instant;

use super::{
    QUEUE, RUN_TIMEOUT, SLOW, busy_pool, results, run, send, send_together, send_with_priority, settle, start,
    start_batching, start_with, start_with_metrics,
};
use crate::support::fake::{CRASH, Fake, HANG, IGNORE_CANCEL, REJECT, input, session_info};

#[tokio::test(start_paused = true)]
async fn waiting_requests_share_a_batch_and_each_gets_its_rows() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = busy_pool(&fake).await;
    let sent = (1..6).map(|number| send(&pool, number as f32)).collect();
    assert_eq!(results(sent).await, (1..6).map(|number| Ok(number as f32)).collect::<Vec<_>>());
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 5]);
    assert_eq!(pool.batching().unwrap().rows, RowDependence::IndependentByProbe);
}

#[tokio::test(start_paused = true)]
async fn outputs_are_split_at_the_boundaries_of_requests() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = busy_pool(&fake).await;
    let rows = |count: usize, first: f32| {
        let values: Vec<f32> = (0..count * 4).map(|index| first + index as f32).collect();
        vec![Tensor::from_f32("x", Datatype::Fp32, vec![count, 2, 2, 1], &values).unwrap()]
    };
    let (two, three) = (rows(2, 1.0), rows(3, 100.0));
    let sent = [&two, &three].map(|inputs| pool.run(inputs.clone(), Priority::Interactive));
    for (output, inputs) in join_all(sent).await.into_iter().zip([&two, &three]) {
        let output = &output.unwrap().outputs[0];
        assert_eq!((output.shape[0], &output.data), (inputs[0].shape[0], &inputs[0].data));
    }
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn requests_of_other_shapes_run_in_batches_of_their_own() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = busy_pool(&fake).await;
    let wide = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 1, 4, 1], &[7.0, 0.0, 0.0, 0.0]).unwrap()];
    let sent = vec![send(&pool, 1.0), send(&pool, 2.0)];
    let output = pool.run(wide, Priority::Interactive).await.unwrap();
    assert!(output.outputs[0].to_f32().starts_with(&[7.0]));
    assert_eq!(results(sent).await, [Ok(1.0), Ok(2.0)]);
    let mut batches = fake.batches.lock().unwrap()[..3].to_vec();
    batches.sort_unstable();
    assert_eq!(batches, [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_batch_is_bisected_until_only_the_invalid_request_fails() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = busy_pool(&fake).await;
    let sent = [1.0, 2.0, 3.0, 4.0, 5.0, REJECT, 7.0, 8.0].map(|first| send(&pool, first)).into();
    let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
    expected[5] = Err(RunError::Rejected("no such input".to_owned()));
    assert_eq!(results(sent).await, expected);
    assert_eq!(fake.batches.lock().unwrap()[..8], [1, 8, 4, 4, 2, 1, 1, 2]);
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_each_request_of_the_batch_runs_alone() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = busy_pool(&fake).await;
    let sent = [1.0, 2.0, CRASH, 4.0, 5.0, 6.0, 7.0, 8.0].map(|first| send(&pool, first)).into();
    let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
    expected[2] = Err(RunError::Crashed);
    assert_eq!(results(sent).await, expected);
    assert_eq!(fake.launches(), 3, "the first one, one after the batch, and one after the poison request");
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout_each_request_of_the_batch_runs_alone_in_the_remaining_time() {
    for hang in [HANG, IGNORE_CANCEL] {
        let fake = Fake::default().with_run_time(SLOW);
        let pool = busy_pool(&fake).await;
        let started_at = Instant::now();
        let sent = [1.0, hang, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(|first| send(&pool, first)).into();
        let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
        expected[1] = Err(RunError::TimedOut(RUN_TIMEOUT));
        assert_eq!(results(sent).await, expected);
        assert!(started_at.elapsed() < RUN_TIMEOUT, "{:?}", started_at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_outputs_have_no_rows_is_not_batched() {
    let fake = Fake::returning_one_row();
    let pool = start_batching(&fake);
    pool.ready(|_| ()).await.unwrap();
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::Dependent, false));
    assert_eq!(batching.reason, "the probe found that output \"y\" of 2 rows has the shape [1, 4]");
    let sent = vec![send(&pool, 1.0), send(&pool, 2.0), send(&pool, 3.0)];
    assert_eq!(results(sent).await, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_others_no_longer_than_max_batch_time() {
    let fake = Fake::default();
    let pool = start_with(&fake, 2, Duration::from_millis(50));
    pool.ready(|_| ()).await.unwrap();
    let started_at = Instant::now();
    run(&pool, 1.0).await.unwrap();
    assert!((50..55).contains(&started_at.elapsed().as_millis()), "{:?}", started_at.elapsed());
    let started_at = Instant::now();
    let sent = vec![send(&pool, 1.0), send(&pool, 2.0)];
    assert_eq!(results(sent).await, [Ok(1.0), Ok(2.0)]);
    assert!(started_at.elapsed() < Duration::from_millis(5), "a full batch does not wait");
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn interactive_requests_run_before_background_requests_which_have_half_of_the_queue() {
    let fake = Fake::default().with_run_time(SLOW);
    let pool = start(&fake);
    pool.ready(|_| ()).await.unwrap();
    send(&pool, 0.5);
    settle().await;
    let mut background: Vec<_> =
        (0..QUEUE.rows / 2).map(|_| send_with_priority(&pool, 1.0, Priority::Background)).collect();
    settle().await;
    let error = pool.run(input(1.0), Priority::Background).await.unwrap_err();
    assert!(matches!(error, RunError::QueueFull { .. }));
    let started_at = Instant::now();
    let interactive = send(&pool, 2.0);
    assert_eq!(results(vec![interactive]).await, [Ok(2.0)]);
    assert!(started_at.elapsed() <= 2 * SLOW, "{:?}", started_at.elapsed());
    assert!(!background.pop().unwrap().is_finished());
    assert!(results(background).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn batching_off_runs_each_request_alone_despite_independent_rows() {
    let fake = Fake::default().with_run_time(SLOW);
    let independent = BatchSettings::new(64, Duration::ZERO, Some(true), RUN_TIMEOUT);
    let (pool, _) = start_with_metrics(&fake, independent.without_batching());
    pool.ready(|_| ()).await.unwrap();
    assert_eq!(send_together(&pool, &[1.0, 2.0, 3.0]).await, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1, 1], "each request alone");
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::IndependentBySettings, false));
}

#[tokio::test(start_paused = true)]
async fn an_unbatched_request_shares_no_batch() {
    let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
    let fake = Fake::default().with_info(SessionInfo { facts, ..session_info() }).with_run_time(SLOW);
    let (pool, _) = start_with_metrics(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    assert_eq!(pool.batching().unwrap().rows, RowDependence::IndependentByAnalysis);
    send(&pool, 0.5);
    settle().await;
    let alone = |first: f32| pool.run_unbatched(input(first), Priority::Interactive);
    let (one, other) = tokio::join!(alone(1.0), alone(2.0));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1]);
}
