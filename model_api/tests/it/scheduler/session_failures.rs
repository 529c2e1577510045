//! Crashes, timeouts, rejections and restarts of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model_api::scheduler::{BatchSettings, PoolState, Priority, RunError};
use model_api::session::StartError;
use open_inference::{Datatype, Tensor};
use tokio::time::{Instant, sleep};

use super::{QUEUE, RUN_TIMEOUT, results, run, send, settle, start, start_with_limits};
use crate::support::fake::{CRASH, CRASH_ONCE, Fake, HANG, IGNORE_CANCEL, REJECT, input};

fn start_error() -> StartError {
    StartError::Crashed("no memory".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_request_gets_the_outputs_of_the_session() {
    let fake = Fake::default();
    let output = run(&start(&fake), 0.75).await.unwrap();
    assert_eq!(output.outputs[0].to_f32(), [0.75, 0.0, 0.5, 0.25]);
    assert_eq!(output.session.device.name, "cpu");
    assert_eq!((fake.launches(), fake.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_retried_once_after_a_crash() {
    let fake = Fake::default();
    let output = run(&start(&fake), CRASH_ONCE).await.unwrap();
    assert_eq!(output.outputs, [Tensor { name: "y".to_owned(), shape: vec![1, 4], ..input(CRASH_ONCE).remove(0) }]);
    assert_eq!((fake.launches(), fake.runs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crashes_two_sessions_gets_an_error() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(run(&pool, CRASH).await.unwrap_err(), RunError::Crashed);
    run(&pool, 0.5).await.unwrap();
    assert_eq!((fake.launches(), fake.runs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_run_is_cancelled_and_an_unresponsive_session_is_replaced() {
    for (hang, launches) in [(HANG, 1), (IGNORE_CANCEL, 2)] {
        let fake = Fake::default();
        let pool = start(&fake);
        let started_at = Instant::now();
        assert_eq!(run(&pool, hang).await.unwrap_err(), RunError::TimedOut(RUN_TIMEOUT));
        assert!(started_at.elapsed() < RUN_TIMEOUT + Duration::from_millis(10));
        run(&pool, 0.5).await.unwrap();
        assert_eq!(fake.launches(), launches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_is_cancelled_when_its_caller_disconnects() {
    let fake = Fake::default();
    let pool = start(&fake);
    let cancelled = send(&pool, HANG);
    settle().await;
    cancelled.abort();
    let started_at = Instant::now();
    run(&pool, 0.5).await.unwrap();
    assert!(started_at.elapsed() < Duration::from_millis(10));
    assert_eq!((fake.launches(), fake.runs()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_input_does_not_end_the_session() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(run(&pool, REJECT).await.unwrap_err(), RunError::Rejected("no such input".to_owned()));
    run(&pool, 0.5).await.unwrap();
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_crashes_while_idle_is_replaced_immediately() {
    let fake = Fake::default();
    let pool = start(&fake);
    run(&pool, 0.5).await.unwrap();
    fake.kill.notify_one();
    let started_at = Instant::now();
    settle().await;
    run(&pool, 0.5).await.unwrap();
    assert_eq!(fake.launches(), 2);
    assert!(started_at.elapsed() < Duration::from_millis(100), "without a delay");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_rejects_immediately() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = send(&pool, HANG);
    settle().await;
    let waiting: Vec<_> = (0..QUEUE.rows).map(|_| send(&pool, 0.1)).collect();
    settle().await;
    assert!(matches!(run(&pool, 0.3).await.unwrap_err(), RunError::QueueFull { .. }));
    assert!(matches!(hanging.await.unwrap(), Err(RunError::TimedOut(_))));
    assert!(results(waiting).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_queued_request_is_dropped_when_its_caller_disconnects() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = send(&pool, HANG);
    settle().await;
    let cancelled = send(&pool, 0.1);
    settle().await;
    cancelled.abort();
    let _ = hanging.await;
    run(&pool, 0.2).await.unwrap();
    assert_eq!(fake.runs(), 3, "the hanging request on its session and on the slow lane, and the last request");
}

#[tokio::test(start_paused = true)]
async fn requests_get_the_start_error_until_a_session_starts() {
    let fake = Fake::failing([start_error(), start_error()]);
    let pool = start(&fake);
    let mut reasons = Vec::new();
    assert_eq!(run(&pool, 0.5).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    assert_eq!(run(&pool, 0.5).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    let started_at = Instant::now();
    pool.ready(|error| reasons.push(error.to_string())).await.unwrap();
    assert!(
        (Duration::from_millis(299)..Duration::from_millis(310)).contains(&started_at.elapsed()),
        "100 ms and 200 ms"
    );
    assert_eq!(reasons, ["no memory", "no memory"]);
    run(&pool, 0.5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_request_is_not_run_until_the_ttl_ends() {
    let fake = Fake::default();
    let pool = start(&fake);
    for _ in 0..3 {
        assert_eq!(run(&pool, CRASH).await.unwrap_err(), RunError::Crashed);
    }
    assert_eq!(fake.runs(), 2);
    run(&pool, 0.5).await.unwrap();
    sleep(Duration::from_mins(11)).await;
    assert_eq!(run(&pool, CRASH).await.unwrap_err(), RunError::Crashed);
    assert_eq!(fake.runs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_model_in_a_crash_loop_is_unavailable_until_it_works() {
    let fake = Fake::default();
    let pool = start(&fake);
    for number in [0.1, 0.2, 0.3] {
        let mut poison = input(CRASH);
        poison[0] = Tensor::from_f32("x", Datatype::Fp32, vec![1, 2, 2, 1], &[CRASH, number, 0.0, 0.0]).unwrap();
        let error = pool.run(poison, Priority::Interactive).await.unwrap_err();
        let expected = if number < 0.3 { RunError::Crashed } else { RunError::Unavailable("killed".to_owned()) };
        assert_eq!(error, expected, "{number}");
    }
    assert!(matches!(pool.state(), PoolState::Unavailable(_)));
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_of_changed_files_serves_no_request() {
    let (fake, unchanged) = (Fake::default(), Arc::new(AtomicBool::new(true)));
    let sent = Arc::clone(&unchanged);
    let batch = BatchSettings::new(1, Duration::ZERO, None, RUN_TIMEOUT);
    let pool = start_with_limits(&fake, 1000, QUEUE, batch, Arc::new(move || sent.load(Ordering::SeqCst)));
    run(&pool, 0.5).await.unwrap();
    unchanged.store(false, Ordering::SeqCst);
    fake.kill.notify_one();
    settle().await;
    let error = run(&pool, 0.5).await.unwrap_err();
    assert!(error.to_string().contains("files have changed"), "{error}");
    assert_eq!(fake.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn stop_ends_the_sessions_and_waiting_requests_get_an_error() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = send(&pool, HANG);
    settle().await;
    pool.stop().await;
    assert_eq!(hanging.await.unwrap().unwrap_err(), RunError::Stopped);
    assert!(matches!(pool.state(), PoolState::Unavailable(_)));
}
