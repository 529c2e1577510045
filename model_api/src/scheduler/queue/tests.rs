use futures_util::poll;
use open_inference::{Datatype, Tensor};
use tokio::time::advance;

use super::*;

pub(super) const SETTINGS: BatchSettings = BatchSettings {
    max_rows: 1,
    max_chunk_rows: None,
    max_wait: Duration::ZERO,
    max_duration: Duration::from_millis(10),
    independent_rows: None,
    batching_off: false,
    run_timeout: Duration::from_secs(30),
};

/// A queue in overload mode, in front of one session.
fn overloaded_queue() -> Queue {
    let metrics = PoolMetrics::unregistered();
    let queue = Queue::new("x".to_owned(), QueueLimits { rows: 100, bytes: 1 << 20 }, 1, metrics);
    queue.estimator.record(1, Duration::from_millis(4));
    queue.lock().overload = Some(OverloadMode::starting_at(Instant::now()));
    queue
}

#[tokio::test(start_paused = true)]
async fn a_session_that_waits_for_the_cpu_is_not_idle() {
    for (arrives_after, is_idle) in [(10, false), (130, true)] {
        let queue = overloaded_queue();
        let mut next = std::pin::pin!(queue.next_batch(&SETTINGS));
        assert!(poll!(&mut next).is_pending());
        advance(Duration::from_millis(arrives_after)).await;
        let input = Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
        let (entry, _response) = Entry::new(vec![input], Priority::Interactive);
        queue.push(entry).unwrap();
        advance(Duration::from_millis(500)).await;
        assert!(poll!(&mut next).is_ready());
        assert_eq!(queue.lock().overload.is_none(), is_idle, "a request arrived after {arrives_after} ms");
    }
}
