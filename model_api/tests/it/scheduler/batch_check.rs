//! Sampled checks of real batches, and nondeterministic models.

use std::time::Duration;

use model_api::metrics::ModelLabel;
use model_api::scheduler::BatchSettings;
use open_inference::RowDependence;
use tokio::time::sleep;

use super::{RUN_TIMEOUT, SLOW, results, send, send_together, settle, start_batching, start_with_metrics};
use crate::support::fake::{DISTURB, Fake};

#[tokio::test(start_paused = true)]
async fn a_batch_check_finds_rows_that_depend_on_each_other_for_some_values() {
    let fake = Fake::default().with_run_time(SLOW);
    let (pool, metrics) = start_with_metrics(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    assert!(pool.batching().unwrap().enabled, "the probe has no such values");
    assert_eq!(send_together(&pool, &[DISTURB, 2.0]).await, [Ok(DISTURB), Ok(3.0)], "a wrong result");
    sleep(SLOW * 10).await;
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::Dependent, false));
    assert_eq!(
        batching.reason,
        "output \"y\" of a request in a batch of 2 differed by 33.33 % of its largest value from that of the request alone"
    );
    assert!(pool.invalid_before_ms().is_some() && !pool.is_nondeterministic());
    let label = ModelLabel { model: "m".to_owned() };
    assert_eq!(metrics.batching_checks.get_or_create(&label).get(), 1);
    assert_eq!(metrics.batching_differences.get_or_create(&label).get(), 1);
    fake.batches.lock().unwrap().clear();
    assert_eq!(send_together(&pool, &[DISTURB, 2.0]).await, [Ok(DISTURB), Ok(2.0)]);
    assert_eq!(*fake.batches.lock().unwrap(), [1, 1, 1], "each request alone");
}

#[tokio::test(start_paused = true)]
async fn independent_rows_in_the_settings_overrides_a_failed_batch_check() {
    let fake = Fake::default().with_run_time(SLOW);
    let (pool, metrics) = start_with_metrics(&fake, BatchSettings::new(64, Duration::ZERO, Some(true), RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    send_together(&pool, &[DISTURB, 2.0]).await;
    sleep(SLOW * 10).await;
    let batching = pool.batching().unwrap();
    assert_eq!((batching.rows, batching.enabled), (RowDependence::IndependentBySettings, true));
    assert_eq!(metrics.batching_differences.get_or_create(&ModelLabel { model: "m".to_owned() }).get(), 1);
    assert_eq!(pool.invalid_before_ms(), None);
}

#[tokio::test(start_paused = true)]
async fn a_batch_check_runs_when_no_request_waits() {
    let fake = Fake::default().with_run_time(SLOW);
    let (pool, metrics) = start_with_metrics(&fake, BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT));
    pool.ready(|_| ()).await.unwrap();
    send(&pool, 0.5);
    settle().await;
    let first = [1.0, 2.0].map(|first| send(&pool, first));
    sleep(SLOW).await;
    let second = [3.0, 4.0, 5.0].map(|first| send(&pool, first));
    results(first.into_iter().chain(second).collect()).await;
    sleep(SLOW * 10).await;
    assert_eq!(*fake.batches.lock().unwrap(), [1, 2, 3, 1, 1]);
    let label = ModelLabel { model: "m".to_owned() };
    assert_eq!(metrics.batching_checks.get_or_create(&label).get(), 1);
    assert_eq!(metrics.batching_differences.get_or_create(&label).get(), 0);
    assert!(pool.batching().unwrap().enabled);
}

#[tokio::test(start_paused = true)]
async fn a_nondeterministic_model_is_detected_with_and_without_batching() {
    let settings = BatchSettings::new(64, Duration::ZERO, None, RUN_TIMEOUT);
    for settings in [settings, settings.without_batching()] {
        let (pool, _) = start_with_metrics(&Fake::nondeterministic(), settings);
        pool.ready(|_| ()).await.unwrap();
        assert!(pool.is_nondeterministic() && !pool.batching().unwrap().enabled, "{:?}", pool.batching());
        let reason = pool.batching().unwrap().reason;
        assert!(reason.ends_with("equal inputs give different results in output \"y\""), "{reason}");
    }
    let pool = start_batching(&Fake::default());
    pool.ready(|_| ()).await.unwrap();
    assert!(!pool.is_nondeterministic());
}
