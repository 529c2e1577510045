use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use model_api::metrics::{Metrics, ModelLabel};
use model_api::onnx::analysis::{GraphFacts, RowAnalysis};
use model_api::pool::{BatchSettings, Pool, PoolSettings, QueueLimits, Ran, RunError, State, Urgency};
use model_api::session::{Blueprint, Hello, StartError};
use open_inference::{Datatype, RowDependence, Tensor};
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::fake::{DIE, DIE_ONCE, DISTURB, Fake, HANG, HANG_DEAF, REFUSE, hello, input};

const RUN_TIMEOUT: Duration = Duration::from_secs(32);
const QUEUE: QueueLimits = QueueLimits { rows: 8, bytes: 1 << 20 };

/// Every request alone.
fn start(fake: &Fake) -> Arc<Pool> {
    start_with(fake, 1, Duration::ZERO)
}

/// Requests together.
fn start_batching(fake: &Fake) -> Arc<Pool> {
    start_with(fake, 64, Duration::ZERO)
}

fn start_with(fake: &Fake, max_rows: usize, max_wait: Duration) -> Arc<Pool> {
    start_if(fake, BatchSettings::new(max_rows, max_wait, None, RUN_TIMEOUT), Arc::new(|| true))
}

fn start_if(fake: &Fake, batch: BatchSettings, unchanged: Arc<dyn Fn() -> bool + Send + Sync>) -> Arc<Pool> {
    start_before(fake, QUEUE, batch, unchanged)
}

fn start_before(
    fake: &Fake,
    queue: QueueLimits,
    batch: BatchSettings,
    unchanged: Arc<dyn Fn() -> bool + Send + Sync>,
) -> Arc<Pool> {
    start_of(fake, 1000, queue, batch, unchanged)
}

fn start_of(
    fake: &Fake,
    bytes: u64,
    queue: QueueLimits,
    batch: BatchSettings,
    unchanged: Arc<dyn Fn() -> bool + Send + Sync>,
) -> Arc<Pool> {
    let blueprint =
        Blueprint { model: "m".to_owned(), graph: PathBuf::new(), threads: 1, shapes: BTreeMap::new(), unchanged };
    let meters = Metrics::register(&mut Registry::default()).pool_metrics("m");
    let settings = PoolSettings { bytes, sessions: 1, queue, batch, meters };
    Arc::new(Pool::start(fake, &blueprint, &settings))
}

/// Asks in the background.
fn ask(pool: &Arc<Pool>, first: f32) -> JoinHandle<Result<Ran, RunError>> {
    ask_as(pool, first, Urgency::Interactive)
}

fn ask_as(pool: &Arc<Pool>, first: f32, urgency: Urgency) -> JoinHandle<Result<Ran, RunError>> {
    let pool = Arc::clone(pool);
    tokio::spawn(async move { pool.run(input(first), urgency).await })
}

/// Asks and waits.
async fn run(pool: &Arc<Pool>, first: f32) -> Result<Ran, RunError> {
    pool.run(input(first), Urgency::Interactive).await
}

/// A pool whose only session is busy, so that what comes now waits and goes together.
async fn busy(fake: &Fake) -> Arc<Pool> {
    let pool = start_batching(fake);
    pool.ready(|_| ()).await.unwrap();
    ask(&pool, 0.5);
    settle().await;
    pool
}

/// The answers' first numbers, and the errors.
async fn outcomes(asked: Vec<JoinHandle<Result<Ran, RunError>>>) -> Vec<Result<f32, RunError>> {
    let first = |answered: Result<Result<Ran, RunError>, _>| answered.unwrap().map(|ran| ran.outputs[0].to_f32()[0]);
    join_all(asked).await.into_iter().map(first).collect()
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
    let ran = run(&start(&fake), 0.75).await.unwrap();
    assert_eq!(ran.outputs[0].to_f32(), [0.75, 0.0, 0.5, 0.25]);
    assert_eq!(ran.session.device.name, "cpu");
    assert_eq!((fake.launches(), fake.runs()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_a_session_died_on_is_answered_by_the_next() {
    let fake = Fake::default();
    let ran = run(&start(&fake), DIE_ONCE).await.unwrap();
    assert_eq!(ran.outputs, [Tensor { name: "y".to_owned(), shape: vec![1, 4], ..input(DIE_ONCE).remove(0) }]);
    assert_eq!((fake.launches(), fake.runs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_kills_twice_is_told_so_and_the_next_is_answered() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(run(&pool, DIE).await.unwrap_err(), RunError::Crashed);
    run(&pool, 0.5).await.unwrap();
    assert_eq!((fake.launches(), fake.runs()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_ended_and_its_session_replaced_only_if_it_does_not_listen() {
    for (hang, launches) in [(HANG, 1), (HANG_DEAF, 2)] {
        let fake = Fake::default();
        let pool = start(&fake);
        let begun = Instant::now();
        assert_eq!(run(&pool, hang).await.unwrap_err(), RunError::TimedOut(RUN_TIMEOUT));
        assert!(begun.elapsed() < RUN_TIMEOUT + Duration::from_millis(10));
        run(&pool, 0.5).await.unwrap();
        assert_eq!(fake.launches(), launches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_any_more_is_ended() {
    let fake = Fake::default();
    let pool = start(&fake);
    let gone = ask(&pool, HANG);
    settle().await;
    gone.abort();
    let begun = Instant::now();
    run(&pool, 0.5).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(10));
    assert_eq!((fake.launches(), fake.runs()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_input_that_is_refused_costs_no_session() {
    let fake = Fake::default();
    let pool = start(&fake);
    assert_eq!(run(&pool, REFUSE).await.unwrap_err(), RunError::Refused("no such input".to_owned()));
    run(&pool, 0.5).await.unwrap();
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_dies_while_idle_is_replaced() {
    let fake = Fake::default();
    let pool = start(&fake);
    run(&pool, 0.5).await.unwrap();
    fake.kill.notify_one();
    let begun = Instant::now();
    settle().await;
    run(&pool, 0.5).await.unwrap();
    assert_eq!(fake.launches(), 2);
    assert!(begun.elapsed() < Duration::from_millis(100), "at once");
}

#[tokio::test(start_paused = true)]
async fn one_more_than_may_wait_is_turned_away_at_once() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = ask(&pool, HANG);
    settle().await;
    let waiting: Vec<_> = (0..QUEUE.rows).map(|_| ask(&pool, 0.1)).collect();
    settle().await;
    assert!(matches!(run(&pool, 0.3).await.unwrap_err(), RunError::Full { .. }));
    assert!(matches!(hanging.await.unwrap(), Err(RunError::TimedOut(_))));
    assert!(outcomes(waiting).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_asker_has_gone_is_left_out() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = ask(&pool, HANG);
    settle().await;
    let gone = ask(&pool, 0.1);
    settle().await;
    gone.abort();
    let _ = hanging.await;
    run(&pool, 0.2).await.unwrap();
    assert_eq!(fake.runs(), 3, "the one that hung, which ran apart from the last one again, and that");
}

#[tokio::test(start_paused = true)]
async fn while_no_session_starts_requests_are_told_why_and_later_answered() {
    let fake = Fake::failing([no_memory(), no_memory()]);
    let pool = start(&fake);
    let mut reasons = Vec::new();
    assert_eq!(run(&pool, 0.5).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    assert_eq!(run(&pool, 0.5).await.unwrap_err(), RunError::Unavailable("no memory".to_owned()));
    let begun = Instant::now();
    pool.ready(|error| reasons.push(error.to_string())).await.unwrap();
    assert!((Duration::from_millis(299)..Duration::from_millis(310)).contains(&begun.elapsed()), "100 ms and 200 ms");
    assert_eq!(reasons, ["no memory", "no memory"]);
    run(&pool, 0.5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_killed_is_not_run_again_for_a_while() {
    let fake = Fake::default();
    let pool = start(&fake);
    for _ in 0..3 {
        assert_eq!(run(&pool, DIE).await.unwrap_err(), RunError::Crashed);
    }
    assert_eq!(fake.runs(), 2);
    run(&pool, 0.5).await.unwrap();
    sleep(Duration::from_mins(11)).await;
    assert_eq!(run(&pool, DIE).await.unwrap_err(), RunError::Crashed);
    assert_eq!(fake.runs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_keeps_dying_is_unavailable_until_it_works_again() {
    let fake = Fake::default();
    let pool = start(&fake);
    for number in [0.1, 0.2, 0.3] {
        let mut killer = input(DIE);
        killer[0] = Tensor::from_f32("x", Datatype::Fp32, vec![1, 2, 2, 1], &[DIE, number, 0.0, 0.0]).unwrap();
        let error = pool.run(killer, Urgency::Interactive).await.unwrap_err();
        let expected = if number < 0.3 { RunError::Crashed } else { RunError::Unavailable("killed".to_owned()) };
        assert_eq!(error, expected, "{number}");
    }
    assert!(matches!(pool.state(), State::Unavailable(_)));
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_of_other_files_than_the_digests_never_answers() {
    let (fake, unchanged) = (Fake::default(), Arc::new(AtomicBool::new(true)));
    let asked = Arc::clone(&unchanged);
    let batch = BatchSettings::new(1, Duration::ZERO, None, RUN_TIMEOUT);
    let pool = start_if(&fake, batch, Arc::new(move || asked.load(Ordering::SeqCst)));
    run(&pool, 0.5).await.unwrap();
    unchanged.store(false, Ordering::SeqCst);
    fake.kill.notify_one();
    settle().await;
    let error = run(&pool, 0.5).await.unwrap_err();
    assert!(error.to_string().contains("files have changed"), "{error}");
    assert_eq!(fake.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_sessions_and_answers_whoever_waits() {
    let fake = Fake::default();
    let pool = start(&fake);
    let hanging = ask(&pool, HANG);
    settle().await;
    pool.stop().await;
    assert_eq!(hanging.await.unwrap().unwrap_err(), RunError::Stopped);
    assert!(matches!(pool.state(), State::Unavailable(_)));
}

/// What a run of the fake takes where requests are to meet in the queue.
const SLOW: Duration = Duration::from_millis(20);

#[tokio::test(start_paused = true)]
async fn what_waits_when_a_session_is_idle_goes_together_and_everybody_gets_his_rows() {
    let fake = Fake::taking(SLOW);
    let pool = busy(&fake).await;
    let asked = (1..6).map(|number| ask(&pool, number as f32)).collect();
    assert_eq!(outcomes(asked).await, (1..6).map(|number| Ok(number as f32)).collect::<Vec<_>>());
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 5]);
    assert_eq!(pool.batching().unwrap().rows, RowDependence::IndependentByProbe);
}

#[tokio::test(start_paused = true)]
async fn requests_of_several_rows_are_cut_apart_where_they_were_put_together() {
    let fake = Fake::taking(SLOW);
    let pool = busy(&fake).await;
    let rows = |count: usize, first: f32| {
        let values: Vec<f32> = (0..count * 4).map(|place| first + place as f32).collect();
        vec![Tensor::from_f32("x", Datatype::Fp32, vec![count, 2, 2, 1], &values).unwrap()]
    };
    let (two, three) = (rows(2, 1.0), rows(3, 100.0));
    let asked = [&two, &three].map(|inputs| pool.run(inputs.clone(), Urgency::Interactive));
    for (ran, inputs) in join_all(asked).await.into_iter().zip([&two, &three]) {
        let output = &ran.unwrap().outputs[0];
        assert_eq!((output.shape[0], &output.data), (inputs[0].shape[0], &inputs[0].data));
    }
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn rows_of_other_shapes_go_by_themselves() {
    let fake = Fake::taking(SLOW);
    let pool = busy(&fake).await;
    let wide = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 1, 4, 1], &[7.0, 0.0, 0.0, 0.0]).unwrap()];
    let asked = vec![ask(&pool, 1.0), ask(&pool, 2.0)];
    let ran = pool.run(wide, Urgency::Interactive).await.unwrap();
    assert!(ran.outputs[0].to_f32().starts_with(&[7.0]));
    assert_eq!(outcomes(asked).await, [Ok(1.0), Ok(2.0)]);
    let mut batches = fake.batches.lock().unwrap()[..3].to_vec();
    batches.sort_unstable();
    assert_eq!(batches, [1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_refused_is_run_by_halves_until_only_the_culprit_is_told_so() {
    let fake = Fake::taking(SLOW);
    let pool = busy(&fake).await;
    let asked = [1.0, 2.0, 3.0, 4.0, 5.0, REFUSE, 7.0, 8.0].map(|first| ask(&pool, first)).into();
    let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
    expected[5] = Err(RunError::Refused("no such input".to_owned()));
    assert_eq!(outcomes(asked).await, expected);
    assert_eq!(fake.batches.lock().unwrap()[..8], [1, 8, 4, 4, 2, 1, 1, 2]);
    assert_eq!(fake.launches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_a_session_dies_of_is_run_one_by_one_and_costs_the_killer_alone() {
    let fake = Fake::taking(SLOW);
    let pool = busy(&fake).await;
    let asked = [1.0, 2.0, DIE, 4.0, 5.0, 6.0, 7.0, 8.0].map(|first| ask(&pool, first)).into();
    let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
    expected[2] = Err(RunError::Crashed);
    assert_eq!(outcomes(asked).await, expected);
    assert_eq!(fake.launches(), 3, "the first one, one after the batch, and one after the killer");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_hangs_is_run_one_by_one_in_what_is_left_of_the_time() {
    for hang in [HANG, HANG_DEAF] {
        let fake = Fake::taking(SLOW);
        let pool = busy(&fake).await;
        let begun = Instant::now();
        let asked = [1.0, hang, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].map(|first| ask(&pool, first)).into();
        let mut expected: Vec<_> = (1..9).map(|number| Ok(number as f32)).collect();
        expected[1] = Err(RunError::TimedOut(RUN_TIMEOUT));
        assert_eq!(outcomes(asked).await, expected);
        assert!(begun.elapsed() < RUN_TIMEOUT, "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_answers_have_no_rows_is_given_each_request_alone() {
    let fake = Fake::answering_one_row();
    let pool = start_batching(&fake);
    pool.ready(|_| ()).await.unwrap();
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::Dependent, false));
    assert_eq!(batching.reason, "the probe found that output \"y\" of 2 rows has the shape [1, 4]");
    let asked = vec![ask(&pool, 1.0), ask(&pool, 2.0), ask(&pool, 3.0)];
    assert_eq!(outcomes(asked).await, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_company_only_where_the_settings_want_it_and_no_longer() {
    let fake = Fake::default();
    let pool = start_with(&fake, 2, Duration::from_millis(50));
    pool.ready(|_| ()).await.unwrap();
    let begun = Instant::now();
    run(&pool, 1.0).await.unwrap();
    assert!((50..55).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let asked = vec![ask(&pool, 1.0), ask(&pool, 2.0)];
    assert_eq!(outcomes(asked).await, [Ok(1.0), Ok(2.0)]);
    assert!(begun.elapsed() < Duration::from_millis(5), "a full batch has nothing to wait for");
    assert_eq!(fake.batches.lock().unwrap()[..2], [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn people_go_before_background_work_which_has_half_of_the_queue() {
    let fake = Fake::taking(SLOW);
    let pool = start(&fake);
    pool.ready(|_| ()).await.unwrap();
    ask(&pool, 0.5);
    settle().await;
    let mut background: Vec<_> = (0..QUEUE.rows / 2).map(|_| ask_as(&pool, 1.0, Urgency::Background)).collect();
    settle().await;
    let refused = pool.run(input(1.0), Urgency::Background).await.unwrap_err();
    assert!(matches!(refused, RunError::Full { .. }));
    let begun = Instant::now();
    let person = ask(&pool, 2.0);
    assert_eq!(outcomes(vec![person]).await, [Ok(2.0)]);
    assert!(begun.elapsed() <= 2 * SLOW, "{:?}", begun.elapsed());
    assert!(!background.pop().unwrap().is_finished());
    assert!(outcomes(background).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_that_stands_is_kept_short_until_there_is_little_to_do() {
    let fake = Fake::taking(Duration::from_millis(400));
    let alone = BatchSettings::new(1, Duration::ZERO, None, RUN_TIMEOUT);
    let pool = start_before(&fake, QueueLimits { rows: 100, ..QUEUE }, alone, Arc::new(|| true));
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
    // While one runs, 64 wait: for a model as slow as this one that is not long.
    let crowd = async |waiting: usize| {
        let mut asked = vec![ask(&pool, 1.0)];
        settle().await;
        asked.extend((0..waiting).map(|_| ask(&pool, 1.0)));
        asked
    };
    let mut asked = crowd(80).await;
    settle().await;
    assert!(asked.iter().all(|asked| !asked.is_finished()), "a burst may wait");
    sleep(Duration::from_millis(900)).await;
    assert_eq!(asked.iter().filter(|asked| asked.is_finished()).count(), 2, "both with their result");
    asked.push(ask(&pool, 2.0));
    settle().await;
    // One runs and one waits.
    let full = Err(RunError::Full { retry_after: Duration::from_secs(1) });
    assert_eq!(outcomes(asked.split_off(4)).await, vec![full.clone(); 78], "all batches have waited for 0.1 s");
    assert_eq!(outcomes(vec![ask(&pool, 2.0)]).await, [full], "it is kept short");
    assert!(outcomes(asked).await.iter().all(Result::is_ok));
    settle().await;
    let told = outcomes(crowd(64).await).await;
    assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 2, "a moment without work is not enough");
    // An eighth of what 16 batches take.
    sleep(Duration::from_millis(800)).await;
    assert!(outcomes(crowd(64).await).await.iter().all(Result::is_ok), "as many as before may wait");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_by_itself_is_run_when_nothing_waits_before_it() {
    let fake = Fake::taking(Duration::from_millis(400));
    let pool = start(&fake);
    pool.ready(|_| ()).await.unwrap();
    run(&pool, 0.5).await.unwrap();
    let many = Tensor::from_f32("x", Datatype::Fp32, vec![100, 2, 2, 1], &[1.0; 400]).unwrap();
    let ran = pool.run(vec![many], Urgency::Interactive).await.unwrap();
    assert_eq!(ran.outputs[0].shape[0], 100, "a row takes 0.4 s, as far as is known");
}

/// The sizes that a session on this card keeps apart.
async fn sizes_on(fake: &Fake, max_rows: usize) -> Vec<usize> {
    start_with(fake, max_rows, Duration::ZERO).ready(|_| ()).await.unwrap();
    fake.kept.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn on_a_card_sizes_are_kept_apart_where_another_one_is_dear() {
    let dear = Duration::from_millis(100);
    assert_eq!(sizes_on(&Fake::on_card(dear), 6).await, [1, 2, 4, 6]);
    let cheap = Fake::on_card(Duration::from_millis(8));
    assert!(sizes_on(&cheap, 6).await.is_empty(), "another size costs less than a run");
    assert!(sizes_on(&Fake::on_card(dear), 1).await.is_empty(), "every request runs alone");
    let on_cpu = Fake::changing_slowly(dear);
    assert!(sizes_on(&on_cpu, 6).await.is_empty());
    let (large, batch) = (Fake::on_card(dear), BatchSettings::new(6, Duration::ZERO, None, RUN_TIMEOUT));
    start_of(&large, 1 << 30, QUEUE, batch, Arc::new(|| true)).ready(|_| ()).await.unwrap();
    assert!(large.kept.lock().unwrap().is_empty(), "its weights would take the card's memory");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_dies_of_keeping_sizes_is_followed_by_one_that_keeps_none() {
    let fake = Fake::on_small_card(Duration::from_millis(100), 4);
    let pool = start_with(&fake, 64, Duration::ZERO);
    let mut reasons = Vec::new();
    pool.ready(|reason| reasons.push(reason.to_string())).await.unwrap();
    assert_eq!(reasons, ["when it was to keep batches of different sizes apart, no memory"]);
    assert_eq!((fake.launches(), &fake.kept.lock().unwrap()[..]), (2, &[1, 2][..]));
    run(&pool, 0.5).await.unwrap();
}

/// A pool of one session, with its metrics.
fn start_counted(fake: &Fake, batch: BatchSettings) -> (Arc<Pool>, Metrics) {
    let metrics = Metrics::register(&mut Registry::default());
    let unchanged: Arc<dyn Fn() -> bool + Send + Sync> = Arc::new(|| true);
    let (model, graph, shapes) = ("m".to_owned(), PathBuf::new(), BTreeMap::new());
    let blueprint = Blueprint { model, graph, threads: 1, shapes, unchanged };
    let settings = PoolSettings { bytes: 1000, sessions: 1, queue: QUEUE, batch, meters: metrics.pool_metrics("m") };
    (Arc::new(Pool::start(fake, &blueprint, &settings)), metrics)
}

/// Together, while the session is busy.
async fn ask_together(pool: &Arc<Pool>, firsts: &[f32]) -> Vec<Result<f32, RunError>> {
    ask(pool, 0.5);
    settle().await;
    outcomes(firsts.iter().map(|&first| ask(pool, first)).collect()).await
}

#[tokio::test(start_paused = true)]
async fn rows_that_meddle_only_for_some_values_are_found_out_by_the_check_of_real_batches() {
    let fake = Fake::taking(SLOW);
    let (pool, metrics) = start_counted(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    assert!(pool.batching().unwrap().enabled, "the probe has no such values");
    assert_eq!(ask_together(&pool, &[DISTURB, 2.0]).await, [Ok(DISTURB), Ok(3.0)], "a wrong result");
    sleep(SLOW * 10).await;
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::Dependent, false));
    assert_eq!(
        batching.reason,
        "output \"y\" of a request in a batch of 2 differed by 33.33 % of its largest value from that of the request alone"
    );
    assert!(pool.wrong_before_ms().is_some() && !pool.is_random());
    let label = ModelLabel { model: "m".to_owned() };
    assert_eq!(metrics.batching_checks.get_or_create(&label).get(), 1);
    assert_eq!(metrics.batching_differences.get_or_create(&label).get(), 1);
    fake.batches.lock().unwrap().clear();
    assert_eq!(ask_together(&pool, &[DISTURB, 2.0]).await, [Ok(DISTURB), Ok(2.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1], "each alone");
}

#[tokio::test(start_paused = true)]
async fn where_the_settings_claim_independent_rows_a_difference_is_counted_and_the_settings_are_obeyed() {
    let fake = Fake::taking(SLOW);
    let (pool, metrics) = start_counted(&fake, BatchSettings::new(64, Duration::ZERO, Some(true), RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    ask_together(&pool, &[DISTURB, 2.0]).await;
    sleep(SLOW * 10).await;
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::IndependentBySettings, true));
    assert_eq!(metrics.batching_differences.get_or_create(&ModelLabel { model: "m".to_owned() }).get(), 1);
    assert_eq!(pool.wrong_before_ms(), None);
}

#[tokio::test(start_paused = true)]
async fn a_check_runs_when_no_request_waits() {
    let fake = Fake::taking(SLOW);
    let (pool, metrics) = start_counted(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    ask(&pool, 0.5);
    settle().await;
    let first = [1.0, 2.0].map(|first| ask(&pool, first));
    sleep(SLOW).await;
    let second = [3.0, 4.0, 5.0].map(|first| ask(&pool, first));
    outcomes(first.into_iter().chain(second).collect()).await;
    sleep(SLOW * 10).await;
    assert_eq!(*fake.batches.lock().unwrap(), [1, 2, 3, 1, 1]);
    let label = ModelLabel { model: "m".to_owned() };
    assert_eq!(metrics.batching_checks.get_or_create(&label).get(), 1);
    assert_eq!(metrics.batching_differences.get_or_create(&label).get(), 0);
    assert!(pool.batching().unwrap().enabled);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_gives_equal_inputs_different_results_is_found_out_with_batching_or_without() {
    let settings = BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT);
    for settings in [settings, settings.without_batching()] {
        let (pool, _) = start_counted(&Fake::drawing(), settings);
        pool.ready(|_| ()).await.unwrap();
        assert!(pool.is_random() && !pool.batching().unwrap().enabled, "{:?}", pool.batching());
        let reason = pool.batching().unwrap().reason;
        assert!(reason.ends_with("equal inputs give different results in output \"y\""), "{reason}");
    }
    assert!(!start_and_decide(&Fake::default()).await.is_random());
}

async fn start_and_decide(fake: &Fake) -> Arc<Pool> {
    let pool = start_batching(fake);
    pool.ready(|_| ()).await.unwrap();
    pool
}

#[tokio::test(start_paused = true)]
async fn with_batching_off_every_request_runs_alone_whatever_is_known() {
    let fake = Fake::taking(SLOW);
    let independent = BatchSettings::new(64, Duration::ZERO, Some(true), RUN_TIMEOUT);
    let (pool, _) = start_counted(&fake, independent.without_batching());
    pool.ready(|_| ()).await.unwrap();
    assert_eq!(ask_together(&pool, &[1.0, 2.0, 3.0]).await, [Ok(1.0), Ok(2.0), Ok(3.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1, 1], "so that no result has the rounding of another batch size");
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::IndependentBySettings, false));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_to_run_alone_goes_with_no_other() {
    let facts = GraphFacts { rows: RowAnalysis::Independent, ..GraphFacts::default() };
    let fake = Fake::saying(Hello { facts, ..hello() }).slowly(SLOW);
    let (pool, _) = start_counted(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    assert_eq!(pool.batching().unwrap().rows, RowDependence::IndependentByAnalysis);
    ask(&pool, 0.5);
    settle().await;
    let alone = |first: f32| pool.run_alone(input(first), Urgency::Interactive);
    let (one, other) = tokio::join!(alone(1.0), alone(2.0));
    assert!(one.is_ok() && other.is_ok());
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1]);
}
