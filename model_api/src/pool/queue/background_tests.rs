use open_inference::{Datatype, Tensor};
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio::time::advance;

use super::tests::SETTINGS;
use super::*;
use crate::metrics::Metrics;
use crate::pool::Ran;

type Response = oneshot::Receiver<Result<Ran, RunError>>;

fn queue(rows: usize) -> Queue {
    let meters = Metrics::register(&mut Registry::default()).pool_metrics("x");
    Queue::new("x".to_owned(), QueueLimits { rows, bytes: 1 << 20 }, 1, meters)
}

fn push(queue: &Queue, urgency: Urgency) -> Result<Response, Refused> {
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
    let (entry, response) = Entry::new(vec![input], urgency);
    queue.push(entry).map(|()| response)
}

#[tokio::test(start_paused = true)]
async fn background_requests_get_one_of_sixteen_batches_under_constant_interactive_load() {
    let queue = queue(200);
    let _in_background = [(); 20].map(|()| push(&queue, Urgency::Background).unwrap());
    let mut waiting = Vec::from([(); 50].map(|()| push(&queue, Urgency::Interactive).unwrap()));
    let mut batches = async |count: usize| {
        let mut background = 0;
        for _ in 0..count {
            waiting.push(push(&queue, Urgency::Interactive).unwrap());
            let batch = queue.take(&SETTINGS).unwrap();
            background += batch.entries.iter().filter(|entry| entry.urgency == Urgency::Background).count();
            advance(Duration::from_millis(10)).await;
        }
        background
    };
    assert_eq!(batches(99).await, 0, "the first has not waited for {MAX_BACKGROUND_WAIT:?}");
    assert_eq!(batches(160).await, 10);
    assert_eq!(queue.waiting().interactive.rows(), 60, "a turn is one batch");
}

#[tokio::test(start_paused = true)]
async fn interactive_requests_alone_do_not_keep_background_requests_out() {
    let queue = queue(10);
    let _interactive = [(); 10].map(|()| push(&queue, Urgency::Interactive).unwrap());
    let _first = push(&queue, Urgency::Background).unwrap();
    let second = push(&queue, Urgency::Background);
    assert!(matches!(second, Err(Refused::Full(_))), "background requests have half of the queue at the most");
}
