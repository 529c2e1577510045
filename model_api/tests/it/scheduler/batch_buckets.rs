//! Batch-size buckets on a GPU.

use std::time::Duration;

use model_api::scheduler::BatchSettings;

use super::{QUEUE, RUN_TIMEOUT, always_unchanged, run, start_with, start_with_limits};
use crate::support::fake::Fake;

/// The buckets of the session.
async fn buckets_of(fake: &Fake, max_rows: usize) -> Vec<usize> {
    start_with(fake, max_rows, Duration::ZERO).ready(|_| ()).await.unwrap();
    fake.buckets.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn buckets_are_added_on_a_gpu_if_size_changes_are_slow() {
    let slow = Duration::from_millis(100);
    assert_eq!(buckets_of(&Fake::on_gpu(slow), 6).await, [1, 2, 4, 6]);
    let fast = Fake::on_gpu(Duration::from_millis(8));
    assert!(buckets_of(&fast, 6).await.is_empty(), "a size change costs less than a run");
    assert!(buckets_of(&Fake::on_gpu(slow), 1).await.is_empty(), "batching is off");
    let on_cpu = Fake::with_slow_size_changes(slow);
    assert!(buckets_of(&on_cpu, 6).await.is_empty());
    let (large, batch) = (Fake::on_gpu(slow), BatchSettings::new(6, Duration::ZERO, None, RUN_TIMEOUT));
    start_with_limits(&large, 1 << 30, QUEUE, batch, always_unchanged()).ready(|_| ()).await.unwrap();
    assert!(large.buckets.lock().unwrap().is_empty(), "the model is too large");
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_adding_a_bucket_disables_buckets() {
    let fake = Fake::on_small_gpu(Duration::from_millis(100), 4);
    let pool = start_with(&fake, 64, Duration::ZERO);
    let mut reasons = Vec::new();
    pool.ready(|reason| reasons.push(reason.to_string())).await.unwrap();
    assert_eq!(reasons, ["while it added batch buckets, no memory"]);
    assert_eq!((fake.launches(), &fake.buckets.lock().unwrap()[..]), (2, &[1, 2][..]));
    run(&pool, 0.5).await.unwrap();
}
