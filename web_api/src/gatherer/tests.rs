use open_inference::Datatype;
use service::memory_budget::MemoryBudget;
use tokio::sync::Semaphore;

use super::*;
use crate::settings::Settings;
use crate::workbench::Workbench;

fn road(row_takes: Duration) -> Road {
    Road { row_takes, ..Road::new() }
}

#[test]
fn the_initial_window_holds_before_the_first_result() {
    let cores = runtime::core_count();
    assert_eq!(road(Duration::ZERO).initial_window(), INITIAL_WINDOW * cores);
    assert_eq!(road(Duration::from_millis(20)).initial_window(), INITIAL_WINDOW * cores);
    assert_eq!(road(Duration::from_millis(1)).initial_window(), 150 * cores);
}

#[tokio::test]
async fn a_lane_that_panics_leaves_no_request_without_an_answer_and_the_next_one_has_a_lane() {
    let client =
        ModelClient::new(&Settings::from_env().unwrap(), Workbench::default(), MemoryBudget::new(64 << 20)).unwrap();
    let gatherer = Gatherer::new(client);
    let to = Destination { model: "m".to_owned(), version: None, in_background: false };
    drop(gatherer.admit(&to).unwrap());
    let waiting = async || {
        let (asker, answered) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let inputs = vec![Tensor::from_f32("x", Datatype::Fp32, vec![1, 1], &[0.5]).unwrap()];
        let (deadline, span) = (Instant::now() + Duration::from_secs(9), Span::none());
        (Waiting { inputs, rows: 1, deadline, request_id: None, span, asker, _permit: permit }, answered)
    };
    let lane = || Lane { gatherer: gatherer.clone(), to: to.clone(), core: 0, most_rows: 8, is_given_back: false };
    let mut answers = Vec::new();
    let mut lanes_begun = Vec::new();
    for _ in 0..lanes() + 3 {
        let (waiting, answered) = waiting().await;
        if gatherer.enqueue(&to, 0, 8, waiting) {
            lanes_begun.push(lane());
        }
        answers.push(answered);
    }
    for lane in lanes_begun {
        let panics = tokio::spawn(async move {
            let _lane = lane;
            panic!("a mistake");
        });
        assert!(panics.await.unwrap_err().is_panic());
    }
    for answer in answers {
        assert!(matches!(answer.await, Ok(Err(Error::Internal))));
    }
    let (waiting, _answered) = waiting().await;
    assert!(gatherer.enqueue(&to, 0, 8, waiting), "a new lane begins");
}
