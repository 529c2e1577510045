//! How many questions a model is sent at the same time.
//!
//! A crowd at once, and one more for each that is answered, as TCP starts slowly (RFC 5681 §3.1): those that it refuses cost it
//! what its answers need, and hundreds would be on their way before the first refusal is back.
//!
//! When it says "later", what it has taken is what is still under way, and no more are sent.
//! Whenever as many have been answered, one more is tried, as TCP avoids congestion.
//! A refusal says exactly how many there may be, so nothing has to be halved. Once it takes twice as many, what it said is over:
//! a bound that it does not know of would keep a queue there, long and never too long, that only it can shorten.

use std::time::Duration;

use http::StatusCode;
use open_inference::Inference;
use tokio::time::Instant;

use crate::error::Error;

/// So long after a model has said "later" it is forgotten, as soon as no question is under way.
const LATER: Duration = Duration::from_secs(1);

/// So many at the least must be taken before what was said is over.
const SOME: usize = 8;

/// The questions that are under way to a model, and how many there may be.
#[derive(Debug, Default)]
pub struct Window {
    under_way: usize,
    /// Questions answered since there was none under way, or since the model has said "later".
    answered: usize,
    bound: Option<Bound>,
}

/// What a model takes that has said "later".
#[derive(Debug)]
struct Bound {
    /// Questions at the same time.
    most: usize,
    /// As many as it had taken when it last said so.
    taken: usize,
    /// Questions answered since there was last one more.
    answered: usize,
    /// When it last said so.
    since: Instant,
    /// In which words.
    words: Error,
}

/// What became of a question.
#[derive(Debug)]
pub enum End {
    /// Its asker has gone, or an error that does not tell how much the model takes.
    Other,
    /// It was answered.
    Answered,
    /// The model said "later", in these words.
    Later(Error),
}

impl Window {
    /// One more question, or what the model said when it took no more. A `crowd` may come at once.
    pub fn admit(&mut self, crowd: usize) -> Result<(), Error> {
        self.bound.take_if(|bound| self.under_way == 0 && bound.since.elapsed() > LATER);
        match &self.bound {
            Some(bound) if self.under_way >= bound.most => Err(bound.words.clone()),
            None if self.under_way >= crowd + self.answered => Err(Error::Busy),
            _ => {
                self.under_way += 1;
                Ok(())
            }
        }
    }

    /// One question less.
    pub fn leave(&mut self, end: End) {
        self.under_way -= 1;
        match (end, &mut self.bound) {
            (End::Later(words), bound) => {
                let most = bound.as_ref().map_or(self.under_way, |bound| bound.most.min(self.under_way)).max(1);
                *bound = Some(Bound { most, taken: most, answered: 0, since: Instant::now(), words });
                self.answered = 0;
            }
            (End::Answered, bound) => {
                self.answered += 1;
                bound.take_if(|bound| bound.answer() >= SOME.max(bound.taken * 2));
            }
            (End::Other, _) => {}
        }
        if self.under_way == 0 {
            self.answered = 0;
        }
    }
}

impl Bound {
    /// One more has been answered. Gives how many there may be now.
    fn answer(&mut self) -> usize {
        self.answered += 1;
        if self.answered >= self.most {
            self.most += 1;
            self.answered = 0;
        }
        self.most
    }
}

impl End {
    /// What this answer tells.
    pub fn of(answer: &Result<Inference, Error>) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(error @ Error::Model(_)) if error.status().0 == StatusCode::SERVICE_UNAVAILABLE => {
                Self::Later(error.clone())
            }
            Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const CROWD: usize = 100;

    fn later() -> End {
        End::Later(Error::Busy)
    }

    /// So many questions have been sent.
    fn window(under_way: usize) -> Window {
        Window { under_way, ..Window::default() }
    }

    #[test]
    fn a_crowd_may_come_at_once_and_one_more_for_each_that_is_answered() {
        let mut window = Window::default();
        let admitted = |window: &mut Window| (0..100).filter(|_| window.admit(20).is_ok()).count();
        assert_eq!(admitted(&mut window), 20);
        window.leave(End::Other);
        assert_eq!(admitted(&mut window), 1, "in place of who has gone");
        (0..5).for_each(|_| window.leave(End::Answered));
        assert_eq!(admitted(&mut window), 10);
        assert_eq!(window.under_way, 25);
        (0..25).for_each(|_| window.leave(End::Answered));
        assert_eq!(admitted(&mut window), 20, "the next crowd");
    }

    #[test]
    fn as_many_are_sent_as_were_taken_and_one_more_for_as_many_answers() {
        let mut window = window(50);
        (0..46).for_each(|_| window.leave(later()));
        assert!(matches!(window.admit(CROWD), Err(Error::Busy)), "it has taken four");
        for most in [4, 5] {
            for _ in 0..most {
                assert!(window.admit(CROWD).is_err(), "{window:?}");
                window.leave(End::Answered);
                window.admit(CROWD).unwrap();
            }
            window.admit(CROWD).expect("one more is tried");
            assert_eq!(window.under_way, most + 1);
        }
        window.leave(later());
        assert!(window.admit(CROWD).is_err(), "the sixth was too much");
        window.leave(End::Other);
        assert!(window.admit(CROWD).is_ok(), "who has gone makes room");
    }

    #[test]
    fn what_was_said_is_over_when_twice_as_many_are_taken() {
        let mut window = window(6);
        window.leave(later());
        for answers in 1.. {
            while window.admit(CROWD).is_ok() {
                assert!(window.under_way <= 10, "{window:?}");
            }
            window.leave(End::Answered);
            if window.bound.is_none() {
                assert_eq!(answers, 5 + 6 + 7 + 8 + 9);
                break;
            }
        }
        (0..50).for_each(|_| window.admit(CROWD).unwrap());
    }

    #[test]
    fn a_late_refusal_does_not_let_more_in() {
        let mut window = window(50);
        (0..48).for_each(|_| window.leave(later()));
        window.under_way = 40;
        window.leave(later());
        assert_eq!(window.bound.unwrap().most, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_forgotten_when_all_have_been_answered_a_second_later() {
        let mut window = window(2);
        window.leave(later());
        advance(LATER * 2).await;
        assert!(window.admit(CROWD).is_err(), "one is under way");
        window.leave(End::Answered);
        for _ in 0..50 {
            window.admit(CROWD).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_just_now_is_not_forgotten() {
        let mut window = window(1);
        window.leave(later());
        window.admit(CROWD).unwrap();
        assert!(window.admit(CROWD).is_err());
    }
}
