//! Congestion window: limits the requests in flight to one model.
//!
//! The window uses additive increase, as TCP does (RFC 5681). It starts at an initial size and grows by one per response. Without
//! an initial size, hundreds of requests would be in flight before the first rejection arrives. A rejection costs the model as much
//! as a result.
//!
//! When the model reports overload, the limit becomes the number of requests that the model has accepted. This number is exact: it
//! is the number of requests still in flight. So there is no multiplicative decrease. From then on, the limit grows by one per full
//! window of results. Once it has doubled, it is removed. Otherwise it would hide the overload from the queue control of
//! `model_api`, which alone can shorten its queue.
//!
//! Only `model_api` sheds load, because only it measures its queue (`model_api/src/scheduler/queue/`). The window rejects requests
//! that the model would reject anyway, at a fraction of the cost. So only a response that reports overload shrinks it: a model that
//! is loading, a decoder error or a timeout carries no information about load.

use std::time::Duration;

use open_inference::Inference;
use tokio::time::Instant;

use crate::error::Error;

/// A limit is removed this long after the last rejection, once no request is in flight.
const LIMIT_TTL: Duration = Duration::from_secs(1);

/// A limit is kept until it has grown to at least this many requests, even if it has doubled before.
const MIN_RECOVERED: usize = 8;

/// Upper bound of `Retry-After`, s.
const MAX_RETRY_AFTER_S: u32 = 60;

/// Number of requests in flight to a model, and its upper bound.
#[derive(Debug, Default)]
pub struct CongestionWindow {
    in_flight: usize,
    /// Responses since the window was last empty, or since the last overload.
    successes: usize,
    /// Moving average of the time from a request to its result.
    response_time: Duration,
    limit: Option<Limit>,
}

/// Bound that follows from a response that reported overload.
#[derive(Debug)]
struct Limit {
    max_in_flight: usize,
    /// Number of requests that the model had accepted at its last rejection.
    accepted: usize,
    /// Results since `max_in_flight` last grew.
    successes: usize,
    rejected_at: Instant,
}

/// Reason why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowFull {
    /// The initial window is full.
    Initial,
    /// The model is overloaded.
    Overloaded {
        /// Expected time until the requests in flight are finished, s.
        retry_after_s: u32,
    },
}

/// Outcome of a request, as far as it concerns the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Cancelled, or failed with an error that carries no information about load.
    Other,
    /// A result after this time.
    Success(Duration),
    /// The model reported overload.
    Overloaded,
}

impl CongestionWindow {
    /// Counts a request as in flight, unless the window is full.
    pub fn admit(&mut self, initial: usize) -> Result<(), WindowFull> {
        self.limit.take_if(|limit| self.in_flight == 0 && limit.rejected_at.elapsed() > LIMIT_TTL);
        match &self.limit {
            Some(limit) if self.in_flight >= limit.max_in_flight => {
                Err(WindowFull::Overloaded { retry_after_s: self.retry_after_s() })
            }
            None if self.in_flight >= initial + self.successes => Err(WindowFull::Initial),
            _ => {
                self.in_flight += 1;
                Ok(())
            }
        }
    }

    /// Counts a request as finished.
    pub fn release(&mut self, outcome: CallOutcome) {
        self.in_flight -= 1;
        match outcome {
            CallOutcome::Overloaded => {
                let accepted =
                    self.limit.as_ref().map_or(self.in_flight, |limit| limit.max_in_flight.min(self.in_flight));
                let max_in_flight = accepted.max(1);
                let rejected_at = Instant::now();
                self.limit = Some(Limit { max_in_flight, accepted: max_in_flight, successes: 0, rejected_at });
                self.successes = 0;
            }
            CallOutcome::Success(time) => {
                self.successes += 1;
                self.response_time =
                    if self.response_time.is_zero() { time } else { (self.response_time * 7 + time) / 8 };
                self.limit.take_if(|limit| limit.record_success() >= MIN_RECOVERED.max(limit.accepted * 2));
            }
            CallOutcome::Other => {}
        }
        if self.in_flight == 0 {
            self.successes = 0;
        }
    }

    fn retry_after_s(&self) -> u32 {
        let seconds = self.response_time.as_secs_f64().ceil() as u32;
        seconds.clamp(1, MAX_RETRY_AFTER_S)
    }
}

impl Limit {
    /// Counts a result. Returns the new limit.
    fn record_success(&mut self) -> usize {
        self.successes += 1;
        if self.successes >= self.max_in_flight {
            self.max_in_flight += 1;
            self.successes = 0;
        }
        self.max_in_flight
    }
}

impl CallOutcome {
    /// Outcome of a call that returned `response` after `time`.
    pub fn of(response: &Result<Inference, Error>, time: Duration) -> Self {
        match response {
            Ok(_) => Self::Success(time),
            Err(Error::Overloaded { .. }) => Self::Overloaded,
            Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const INITIAL: usize = 100;

    const SUCCESS: CallOutcome = CallOutcome::Success(Duration::from_millis(5));

    fn window(in_flight: usize) -> CongestionWindow {
        CongestionWindow { in_flight, ..CongestionWindow::default() }
    }

    #[test]
    fn the_window_starts_at_its_initial_size_and_grows_by_one_per_response() {
        let mut window = CongestionWindow::default();
        let admitted = |window: &mut CongestionWindow| (0..100).filter(|_| window.admit(20).is_ok()).count();
        assert_eq!(admitted(&mut window), 20);
        window.release(CallOutcome::Other);
        assert_eq!(admitted(&mut window), 1, "a cancelled request frees its slot");
        (0..5).for_each(|_| window.release(SUCCESS));
        assert_eq!(admitted(&mut window), 10);
        assert_eq!(window.in_flight, 25);
        (0..25).for_each(|_| window.release(SUCCESS));
        assert_eq!(admitted(&mut window), 20, "an empty window starts again at its initial size");
    }

    #[test]
    fn overload_sets_the_limit_to_what_was_accepted_and_each_full_window_of_results_raises_it_by_one() {
        let mut window = window(50);
        (0..46).for_each(|_| window.release(CallOutcome::Overloaded));
        let full = window.admit(INITIAL);
        assert!(matches!(full, Err(WindowFull::Overloaded { retry_after_s: 1 })), "four were accepted");
        for max_in_flight in [4, 5] {
            for _ in 0..max_in_flight {
                assert!(window.admit(INITIAL).is_err(), "{window:?}");
                window.release(SUCCESS);
                window.admit(INITIAL).unwrap();
            }
            window.admit(INITIAL).expect("the limit has grown by one");
            assert_eq!(window.in_flight, max_in_flight + 1);
        }
        window.release(CallOutcome::Overloaded);
        assert!(window.admit(INITIAL).is_err(), "the sixth request was rejected");
        window.release(CallOutcome::Other);
        assert!(window.admit(INITIAL).is_ok(), "a cancelled request frees its slot");
    }

    #[test]
    fn a_limit_is_removed_when_it_has_doubled() {
        let mut window = window(6);
        window.release(CallOutcome::Overloaded);
        for results in 1.. {
            while window.admit(INITIAL).is_ok() {
                assert!(window.in_flight <= 10, "{window:?}");
            }
            window.release(SUCCESS);
            if window.limit.is_none() {
                assert_eq!(results, 5 + 6 + 7 + 8 + 9);
                break;
            }
        }
        (0..50).for_each(|_| window.admit(INITIAL).unwrap());
    }

    #[test]
    fn a_late_rejection_does_not_raise_the_limit() {
        let mut window = window(50);
        (0..48).for_each(|_| window.release(CallOutcome::Overloaded));
        window.in_flight = 40;
        window.release(CallOutcome::Overloaded);
        assert_eq!(window.limit.unwrap().max_in_flight, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_expires_when_the_window_is_empty_a_second_after_the_last_rejection() {
        let mut window = window(2);
        window.release(CallOutcome::Overloaded);
        advance(LIMIT_TTL * 2).await;
        assert!(window.admit(INITIAL).is_err(), "one request is in flight");
        window.release(SUCCESS);
        for _ in 0..50 {
            window.admit(INITIAL).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_recent_limit_does_not_expire() {
        let mut window = window(1);
        window.release(CallOutcome::Overloaded);
        window.admit(INITIAL).unwrap();
        assert!(window.admit(INITIAL).is_err());
    }

    #[test]
    fn only_overload_shrinks_the_window() {
        let refusal = |status: u16| Error::Model(open_inference::Error::new(status.try_into().unwrap(), "is loading"));
        let time = Duration::from_millis(5);
        for error in
            [refusal(503), refusal(500), refusal(422), Error::Busy, Error::DeadlineExceeded, Error::ModelUnreachable]
        {
            assert_eq!(CallOutcome::of(&Err(error.clone()), time), CallOutcome::Other, "{error:?}");
        }
        let overloaded = Error::Overloaded { model: "m".to_owned(), retry_after_s: 7 };
        assert_eq!(CallOutcome::of(&Err(overloaded), time), CallOutcome::Overloaded);
        let mut window = window(50);
        (0..40).for_each(|_| window.release(CallOutcome::Other));
        (0..90).for_each(|_| window.admit(INITIAL).unwrap());
    }

    #[test]
    fn retry_after_is_the_average_response_time() {
        let mut window = window(20);
        (0..9).for_each(|_| window.release(CallOutcome::Success(Duration::from_millis(2300))));
        (0..9).for_each(|_| window.release(CallOutcome::Overloaded));
        assert_eq!(window.admit(INITIAL), Err(WindowFull::Overloaded { retry_after_s: 3 }));
        window.response_time = Duration::from_mins(10);
        assert_eq!(window.admit(INITIAL), Err(WindowFull::Overloaded { retry_after_s: MAX_RETRY_AFTER_S }));
    }
}
