use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use model_api::metrics::Metrics;
use model_api::session::{Blueprint, Pool, PoolSettings, RunError, StartError, State};
use open_inference::Tensor;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep};

use crate::support::fake::{DIE, DIE_ONCE, Fake, HANG, REFUSE, input};

const RUN_TIMEOUT: Duration = Duration::from_secs(30);
const QUEUE_LENGTH: usize = 2;

fn start(fake: &Fake) -> Pool {
    start_if(fake, Arc::new(|| true))
}

fn start_if(fake: &Fake, unchanged: Arc<dyn Fn() -> bool + Send + Sync>) -> Pool {
    let blueprint =
        Blueprint { model: "m".to_owned(), graph: PathBuf::new(), threads: 1, shapes: BTreeMap::new(), unchanged };
    let meters = Metrics::register(&mut Registry::default()).session("m");
    let settings = PoolSettings { sessions: 1, queue_length: QUEUE_LENGTH, run_timeout: RUN_TIMEOUT, meters };
    Pool::start(fake, &blueprint, &settings)
}

fn no_memory() -> StartError {
    StartError::Died("no memory".to_owned())
}

/// Lets the pool's tasks do what they can do now.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn answers_with_what_the_session_says() {
    let fake = Fake::default();
    let ran = start(&fake).run(input(0.75)).await.unwrap();
    assert_eq!(ran.outputs[0].to_f32(), [0.75, 0.0, 0.5, 0.25]);
    assert_eq!(ran.session.device.name, "cpu");
    assert_eq!((fake.launches(), fake.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_session_died_on_is_answered_by_the_next() {
    let fake = Fake::default();
    let ran = start(&fake).run(input(DIE_ONCE)).await.unwrap();
    assert_eq!(ran.outputs, [Tensor { name: "y".to_owned(), shape: vec![1, 4], ..input(DIE_ONCE).remove(0) }]);
    assert_eq!((fake.launches(), fake.runs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_kills_twice_is_told_so_and_the_next_is_answered() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(pool.run(input(DIE)).await.unwrap_err(), RunError::Crashed);
    pool.run(input(0.5)).await.unwrap();
    assert_eq!((fake.launches(), fake.runs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_given_up_and_its_session_replaced() {
    let fake = Fake::default();
    let pool = start(&fake);
    let begun = Instant::now();
    assert_eq!(pool.run(input(HANG)).await.unwrap_err(), RunError::TimedOut(RUN_TIMEOUT));
    assert!(begun.elapsed() < RUN_TIMEOUT + Duration::from_millis(10));
    pool.run(input(0.5)).await.unwrap();
    assert_eq!(fake.launches(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_refused_costs_no_session() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(pool.run(input(REFUSE)).await.unwrap_err(), RunError::Refused("no such input".to_owned()));
    pool.run(input(0.5)).await.unwrap();
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_dies_while_idle_is_replaced() {
    let fake = Fake::default();
    let pool = start(&fake);
    pool.run(input(0.5)).await.unwrap();
    fake.kill.notify_one();
    settle().await;
    assert!(matches!(pool.state(), State::Starting));
    pool.run(input(0.5)).await.unwrap();
    assert_eq!(fake.launches(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_wait_is_turned_away_at_once() {
    let fake = Fake::default();
    let pool = Arc::new(start(&fake));
    let ask = |first| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.run(input(first)).await })
    };
    let hanging = ask(HANG);
    settle().await;
    let waiting = [ask(0.1), ask(0.2)];
    settle().await;
    assert_eq!(pool.run(input(0.3)).await.unwrap_err(), RunError::Full);
    assert!(matches!(hanging.await.unwrap(), Err(RunError::TimedOut(_))));
    for waited in waiting {
        waited.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_asker_has_gone_is_left_out() {
    let fake = Fake::default();
    let pool = Arc::new(start(&fake));
    let ask = |first| {
        let pool = Arc::clone(&pool);
        tokio::spawn(async move { pool.run(input(first)).await })
    };
    let hanging = ask(HANG);
    settle().await;
    let gone = ask(0.1);
    settle().await;
    gone.abort();
    let _ = hanging.await;
    pool.run(input(0.2)).await.unwrap();
    assert_eq!(fake.runs(), 2, "the one that hung and the last one");
}

#[tokio::test(start_paused = true)]
async fn while_no_session_starts_requests_are_told_why_and_later_answered() {
    let fake = Fake::failing([no_memory(), no_memory()]);
    let pool = start(&fake);
    let mut reasons = Vec::new();
    assert_eq!(pool.run(input(0.5)).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    assert_eq!(pool.run(input(0.5)).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    let begun = Instant::now();
    pool.ready(|error| reasons.push(error.to_string())).await.unwrap();
    assert!((Duration::from_millis(299)..Duration::from_millis(310)).contains(&begun.elapsed()), "100 ms and 200 ms");
    assert_eq!(reasons, ["no memory", "no memory"]);
    pool.run(input(0.5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_model_that_keeps_dying_is_unavailable_until_it_works_again() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(pool.run(input(DIE)).await.unwrap_err(), RunError::Crashed);
    assert_eq!(pool.run(input(DIE)).await.unwrap_err(), RunError::Unavailable("killed".to_owned()));
    assert!(matches!(pool.state(), State::Unavailable(_)));
    pool.ready(|_| ()).await.unwrap();
    pool.run(input(0.5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_of_other_files_than_the_digests_never_answers() {
    let (fake, unchanged) = (Fake::default(), Arc::new(AtomicBool::new(true)));
    let asked = Arc::clone(&unchanged);
    let pool = start_if(&fake, Arc::new(move || asked.load(Ordering::SeqCst)));
    pool.run(input(0.5)).await.unwrap();
    unchanged.store(false, Ordering::SeqCst);
    fake.kill.notify_one();
    settle().await;
    let error = pool.run(input(0.5)).await.unwrap_err();
    assert!(error.to_string().contains("files have changed"), "{error}");
    assert_eq!(fake.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_sessions_and_answers_whoever_waits() {
    let fake = Fake::default();
    let pool = Arc::new(start(&fake));
    let hanging = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.run(input(HANG)).await }
    });
    settle().await;
    pool.stop().await;
    assert_eq!(hanging.await.unwrap().unwrap_err(), RunError::Stopped);
    assert!(matches!(pool.state(), State::Unavailable(_)));
}
