//! Congestion window of one model: how many requests are in flight to it at the same time.
//!
//! Additive increase, as TCP has it (RFC 5681). The window starts at an initial size, and grows by one for each response:
//! requests that the model refuses cost it what its results need, and hundreds would be in flight before the first refusal is
//! back. When the model says that it is overloaded, the window shrinks to what the model has taken, which is what is still in
//! flight. That is exact, so nothing is halved. From then on it grows by one whenever a whole window has been answered. Once it
//! is twice as large, the overload is over: a bound that the model does not know of would keep a queue there, long and never
//! too long, that only the model can shorten.
//!
//! Load is shed by `model_api` alone, which knows its queue and what a batch takes (`pool/queue.rs`). A window only keeps
//! requests away that the model would refuse as well, at a small part of the cost. So nothing but a refusal that says
//! *overloaded* shrinks it: a model that is being loaded, a decoder error or a time-out say nothing of load.

use std::time::Duration;

use open_inference::Inference;
use tokio::time::Instant;

use crate::error::Error;

/// So long after its last refusal an overload is over, as soon as no request is in flight.
const OVERLOAD_TTL: Duration = Duration::from_secs(1);

/// So many requests in flight are no overload, even where it is twice what the model has taken.
const MIN_RECOVERED: usize = 8;

/// The longest `Retry-After`, s.
const MAX_RETRY_AFTER_S: u32 = 60;

/// The requests that are in flight to a model, and how many there may be.
#[derive(Debug, Default)]
pub struct Window {
    in_flight: usize,
    /// Responses since there was no request in flight, or since the last overload.
    answered: usize,
    /// What a request takes from here to its result, averaged over the last few.
    response_time: Duration,
    overload: Option<Overload>,
}

/// The window of a model that is overloaded.
#[derive(Debug)]
struct Overload {
    /// Requests in flight at the most.
    window: usize,
    /// As many as the model had taken when it last refused one.
    taken: usize,
    /// Results since the window last grew.
    answered: usize,
    /// When the model last refused one.
    since: Instant,
}

/// Why a request is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The initial window is full.
    Initial,
    /// The model is overloaded.
    Overloaded {
        /// In which time the requests in flight are expected to be answered, s.
        retry_after_s: u32,
    },
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its caller has gone, or an error that does not tell how much the model takes.
    Other,
    /// A result, after this time.
    Answered(Duration),
    /// The model said that it is overloaded.
    Overloaded,
}

impl Window {
    /// Counts one more request as in flight, unless the window is full.
    pub fn admit(&mut self, initial: usize) -> Result<(), Full> {
        self.overload.take_if(|overload| self.in_flight == 0 && overload.since.elapsed() > OVERLOAD_TTL);
        match &self.overload {
            Some(overload) if self.in_flight >= overload.window => {
                Err(Full::Overloaded { retry_after_s: self.retry_after_s() })
            }
            None if self.in_flight >= initial + self.answered => Err(Full::Initial),
            _ => {
                self.in_flight += 1;
                Ok(())
            }
        }
    }

    /// Counts one request less as in flight.
    pub fn leave(&mut self, end: End) {
        self.in_flight -= 1;
        match end {
            End::Overloaded => {
                let taken =
                    self.overload.as_ref().map_or(self.in_flight, |overload| overload.window.min(self.in_flight));
                let window = taken.max(1);
                self.overload = Some(Overload { window, taken: window, answered: 0, since: Instant::now() });
                self.answered = 0;
            }
            End::Answered(took) => {
                self.answered += 1;
                self.response_time =
                    if self.response_time.is_zero() { took } else { (self.response_time * 7 + took) / 8 };
                self.overload.take_if(|overload| overload.grow() >= MIN_RECOVERED.max(overload.taken * 2));
            }
            End::Other => {}
        }
        if self.in_flight == 0 {
            self.answered = 0;
        }
    }

    fn retry_after_s(&self) -> u32 {
        let seconds = self.response_time.as_secs_f64().ceil() as u32;
        seconds.clamp(1, MAX_RETRY_AFTER_S)
    }
}

impl Overload {
    /// Counts a result. Returns the window that there is now.
    fn grow(&mut self) -> usize {
        self.answered += 1;
        if self.answered >= self.window {
            self.window += 1;
            self.answered = 0;
        }
        self.window
    }
}

impl End {
    /// What this response says of the model's load.
    pub fn of(response: &Result<Inference, Error>, took: Duration) -> Self {
        match response {
            Ok(_) => Self::Answered(took),
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

    const TOOK: Duration = Duration::from_millis(5);

    /// With so many requests in flight.
    fn window(in_flight: usize) -> Window {
        Window { in_flight, ..Window::default() }
    }

    #[test]
    fn a_crowd_may_come_at_once_and_one_more_for_each_that_is_answered() {
        let mut window = Window::default();
        let admitted = |window: &mut Window| (0..100).filter(|_| window.admit(20).is_ok()).count();
        assert_eq!(admitted(&mut window), 20);
        window.leave(End::Other);
        assert_eq!(admitted(&mut window), 1, "in place of who has gone");
        (0..5).for_each(|_| window.leave(End::Answered(TOOK)));
        assert_eq!(admitted(&mut window), 10);
        assert_eq!(window.in_flight, 25);
        (0..25).for_each(|_| window.leave(End::Answered(TOOK)));
        assert_eq!(admitted(&mut window), 20, "the next crowd");
    }

    #[test]
    fn as_many_are_sent_as_were_taken_and_one_more_for_as_many_answers() {
        let mut window = window(50);
        (0..46).for_each(|_| window.leave(End::Overloaded));
        assert!(matches!(window.admit(INITIAL), Err(Full::Overloaded { retry_after_s: 1 })), "it has taken four");
        for most in [4, 5] {
            for _ in 0..most {
                assert!(window.admit(INITIAL).is_err(), "{window:?}");
                window.leave(End::Answered(TOOK));
                window.admit(INITIAL).unwrap();
            }
            window.admit(INITIAL).expect("one more is tried");
            assert_eq!(window.in_flight, most + 1);
        }
        window.leave(End::Overloaded);
        assert!(window.admit(INITIAL).is_err(), "the sixth was too much");
        window.leave(End::Other);
        assert!(window.admit(INITIAL).is_ok(), "who has gone makes room");
    }

    #[test]
    fn what_was_said_is_over_when_twice_as_many_are_taken() {
        let mut window = window(6);
        window.leave(End::Overloaded);
        for answers in 1.. {
            while window.admit(INITIAL).is_ok() {
                assert!(window.in_flight <= 10, "{window:?}");
            }
            window.leave(End::Answered(TOOK));
            if window.overload.is_none() {
                assert_eq!(answers, 5 + 6 + 7 + 8 + 9);
                break;
            }
        }
        (0..50).for_each(|_| window.admit(INITIAL).unwrap());
    }

    #[test]
    fn a_late_refusal_does_not_let_more_in() {
        let mut window = window(50);
        (0..48).for_each(|_| window.leave(End::Overloaded));
        window.in_flight = 40;
        window.leave(End::Overloaded);
        assert_eq!(window.overload.unwrap().window, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_forgotten_when_all_have_been_answered_a_second_later() {
        let mut window = window(2);
        window.leave(End::Overloaded);
        advance(OVERLOAD_TTL * 2).await;
        assert!(window.admit(INITIAL).is_err(), "one is under way");
        window.leave(End::Answered(TOOK));
        for _ in 0..50 {
            window.admit(INITIAL).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_just_now_is_not_forgotten() {
        let mut window = window(1);
        window.leave(End::Overloaded);
        window.admit(INITIAL).unwrap();
        assert!(window.admit(INITIAL).is_err());
    }

    #[test]
    fn only_an_overload_shrinks_the_window() {
        let refusal = |status: u16| Error::Model(open_inference::Error::new(status.try_into().unwrap(), "is loading"));
        for error in
            [refusal(503), refusal(500), refusal(422), Error::Busy, Error::DeadlineExceeded, Error::ModelUnreachable]
        {
            assert_eq!(End::of(&Err(error.clone()), TOOK), End::Other, "{error:?}");
        }
        let overloaded = Error::Overloaded { model: "m".to_owned(), retry_after_s: 7 };
        assert_eq!(End::of(&Err(overloaded), TOOK), End::Overloaded);
        let mut window = window(50);
        (0..40).for_each(|_| window.leave(End::Other));
        (0..90).for_each(|_| window.admit(INITIAL).unwrap());
    }

    #[test]
    fn whoever_is_kept_away_is_told_how_long_a_request_takes() {
        let mut window = window(20);
        (0..9).for_each(|_| window.leave(End::Answered(Duration::from_millis(2300))));
        (0..9).for_each(|_| window.leave(End::Overloaded));
        assert_eq!(window.admit(INITIAL), Err(Full::Overloaded { retry_after_s: 3 }));
        window.response_time = Duration::from_mins(10);
        assert_eq!(window.admit(INITIAL), Err(Full::Overloaded { retry_after_s: MAX_RETRY_AFTER_S }));
    }
}
