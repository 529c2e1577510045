use futures_util::poll;
use open_inference::{Datatype, Tensor};
use prometheus_client::registry::Registry;
use tokio::time::advance;

use super::*;
use crate::metrics::Metrics;

pub(super) const SETTINGS: BatchSettings = BatchSettings {
    max_rows: 1,
    max_piece_rows: None,
    max_wait: Duration::ZERO,
    longest: Duration::from_millis(10),
    independent: None,
    off: false,
    run_timeout: Duration::from_secs(30),
};

/// In front of one session, and shedding from now on.
fn short_queue() -> Queue {
    let meters = Metrics::register(&mut Registry::default()).pool_metrics("x");
    let queue = Queue::new("x".to_owned(), QueueLimits { rows: 100, bytes: 1 << 20 }, 1, meters);
    queue.pace.observe(1, Duration::from_millis(4));
    queue.waiting().shedding = Some(Shedding::since(Instant::now()));
    queue
}

#[tokio::test(start_paused = true)]
async fn a_session_that_a_busy_machine_does_not_let_run_is_not_idle() {
    for (comes_after, is_idle) in [(10, false), (130, true)] {
        let queue = short_queue();
        let mut next = std::pin::pin!(queue.next(&SETTINGS));
        assert!(poll!(&mut next).is_pending());
        advance(Duration::from_millis(comes_after)).await;
        let input = Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
        let (entry, _answered) = Entry::new(vec![input], Urgency::Interactive);
        queue.push(entry).unwrap();
        advance(Duration::from_millis(500)).await;
        assert!(poll!(&mut next).is_ready());
        assert_eq!(queue.waiting().shedding.is_none(), is_idle, "somebody came after {comes_after} ms");
    }
}
