use std::sync::Arc;
use std::time::Duration;

use open_inference::Datatype;
use service::memory_budget::MemoryBudget;
use service::runtime;
use tokio::sync::Semaphore;

use super::*;
use crate::blocking_pool::BlockingPool;
use crate::settings::Settings;
use crate::upstream::targets::INITIAL_WINDOW;

fn target(time_per_row: Duration) -> Target {
    Target { time_per_row, ..Target::new() }
}

#[test]
fn the_initial_window_holds_before_the_first_result() {
    let cores = runtime::core_count();
    assert_eq!(target(Duration::ZERO).initial_window(), INITIAL_WINDOW * cores);
    assert_eq!(target(Duration::from_millis(20)).initial_window(), INITIAL_WINDOW * cores);
    assert_eq!(target(Duration::from_millis(1)).initial_window(), 150 * cores);
}

#[tokio::test]
async fn a_sender_that_panics_fails_its_pending_requests_and_the_next_request_starts_a_new_one() {
    let pool = BlockingPool::default();
    let client = ModelClient::new(&Settings::from_env().unwrap(), pool, MemoryBudget::new(64 << 20)).unwrap();
    let batcher = RequestBatcher::new(client);
    let key = TargetKey { model: "m".to_owned(), version: None, in_background: false };
    drop(batcher.admit(&key).unwrap());
    let pending = async || {
        let (reply, result) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let inputs = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap()];
        let (deadline, span) = (Instant::now() + Duration::from_secs(9), Span::none());
        (PendingRequest { inputs, rows: 1, deadline, request_id: None, span, reply, _permit: permit }, result)
    };
    let mut results = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..calls_per_core() + 3 {
        let (request, result) = pending().await;
        if batcher.enqueue(&key, 0, 8, request) {
            senders.push(batcher.sender(&key, 0, 8));
        }
        results.push(result);
    }
    for sender in senders {
        let panicking = tokio::spawn(async move {
            let _sender = sender;
            panic!("a bug");
        });
        assert!(panicking.await.unwrap_err().is_panic());
    }
    for result in results {
        assert!(matches!(result.await, Ok(Err(Error::Internal))));
    }
    let (request, _result) = pending().await;
    assert!(batcher.enqueue(&key, 0, 8, request), "a new sender starts");
}
