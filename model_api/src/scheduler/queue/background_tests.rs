use open_inference::{Datatype, Tensor};
use tokio::sync::oneshot;
use tokio::time::advance;

use super::tests::SETTINGS;
use super::*;
use crate::scheduler::queue::entry::RunOutput;
use crate::scheduler::queue::state::MAX_BACKGROUND_WAIT;

type Response = oneshot::Receiver<Result<RunOutput, RunError>>;

fn queue(rows: usize) -> Queue {
    let metrics = PoolMetrics::unregistered();
    Queue::new("x".to_owned(), QueueLimits { rows, bytes: 1 << 20 }, 1, metrics)
}

fn push(queue: &Queue, priority: Priority) -> Result<Response, PushError> {
    let input = Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap();
    let (entry, response) = Entry::new(vec![input], priority);
    queue.push(entry).map(|()| response)
}

#[tokio::test(start_paused = true)]
async fn background_requests_get_one_of_sixteen_batches_under_constant_interactive_load() {
    let queue = queue(200);
    let _in_background = [(); 20].map(|()| push(&queue, Priority::Background).unwrap());
    let mut waiting = Vec::from([(); 50].map(|()| push(&queue, Priority::Interactive).unwrap()));
    let mut batches = async |count: usize| {
        let mut background = 0;
        for _ in 0..count {
            waiting.push(push(&queue, Priority::Interactive).unwrap());
            let batch = queue.form_batch(&SETTINGS).unwrap();
            background += batch.entries.iter().filter(|entry| entry.priority == Priority::Background).count();
            advance(Duration::from_millis(10)).await;
        }
        background
    };
    assert_eq!(batches(99).await, 0, "the first has not waited for {MAX_BACKGROUND_WAIT:?}");
    assert_eq!(batches(160).await, 10);
    assert_eq!(queue.lock().interactive.rows(), 60, "a turn is one batch");
}

#[tokio::test(start_paused = true)]
async fn interactive_requests_alone_do_not_keep_background_requests_out() {
    let queue = queue(10);
    let _interactive = [(); 10].map(|()| push(&queue, Priority::Interactive).unwrap());
    let _first = push(&queue, Priority::Background).unwrap();
    let second = push(&queue, Priority::Background);
    assert!(matches!(second, Err(PushError::Full(_))), "background requests have at most half of the queue");
}
